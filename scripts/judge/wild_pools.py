"""The few values that rules and packets share, so that they meet, and drawing from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

FAMILIES = (4, 6)
LINKS = ("eth0", "net1")
MACS = {"eth0": "02:00:00:00:00:02", "net1": "02:00:00:00:01:02"}
PEER_MACS = {"eth0": "02:00:00:00:00:01", "net1": "02:00:00:00:01:01"}
POD = {
    ("eth0", 4): ("10.1.2.3", "10.1.2.4"),
    ("eth0", 6): ("fd00:1::3", "fd00:1::4"),
    ("net1", 4): ("10.9.0.3", "10.9.0.4"),
    ("net1", 6): ("fd00:9::3", "fd00:9::4"),
}
PEER = {("eth0", 4): "10.1.0.1", ("eth0", 6): "fd00:1::1", ("net1", 4): "10.9.0.1", ("net1", 6): "fd00:9::1"}
LENGTHS = {("eth0", 4): 16, ("net1", 4): 24, ("eth0", 6): 64, ("net1", 6): 64}
LOOPBACK = {4: ("127.0.0.1", "127.0.0.6"), 6: ("::1", "::6")}
STRANGERS = {4: ("8.8.8.8", "8.8.8.9", "10.9.0.77", "192.0.2.1"), 6: ("2001:db8::8", "2001:db8::9", "fd00:9::77")}
NETS = {
    4: (
        "10.1.0.0/16",
        "10.0.0.0/8",
        "10.1.2.0/30",
        "127.0.0.0/8",
        "8.8.8.8/31",
        "10.9.0.0/24",
        "0.0.0.0/1",
        "0.0.0.0/0",
    ),
    6: ("fd00:1::/64", "fd00::/16", "fd00:1::/126", "::1/128", "2001:db8::8/127", "fd00:9::/64", "::/1", "::/0"),
}
PORTS = (53, 80, 443, 8080, 15001, 15006, 15053)
LISTENED = (53, 80, 8080, 15001, 15006, 15053)
IDS = (0, 1000, 1337, 1338)
MARKS = (0x1, 0x2, 0x111, 0x400, 0x539, 0x539, 0x1539, 0x80000000)
MASKS = (0xFFFFFFFF, 0xFFFFFFFF, 0xFFF, 0xFF, 0x1, 0xFFFF0000)
TABLES = (100, 133, 200)
TTLS = (1, 5, 64, 65)
TOSES = (0x00, 0x08, 0x10, 0x28, 0xB8)
DSCPS = (0x00, 0x02, 0x0A, 0x2E)
LENGTHS_OF_PACKETS = (28, 40, 48, 60, 80, 100, 500)
ICMP_TYPES = {4: (8, 0, 3, 13), 6: (128, 129, 1, 3)}


def local_addresses(family: int) -> tuple[str, ...]:
    """The pod's own."""
    return (*POD["eth0", family], *POD["net1", family], *LOOPBACK[family])


def all_addresses(family: int) -> tuple[str, ...]:
    """Whatever a packet can carry or a rule test."""
    return (*local_addresses(family), PEER["eth0", family], PEER["net1", family], *STRANGERS[family])


class Draw(random.Random):
    """Chances, from a seed that is a text, with a few values that are preferred so that rules and packets meet."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self._ports = self.some(PORTS, 2, 3)
        self._marks = self.some(MARKS, 2, 3)
        self._ids = self.some(IDS, 2, 2)
        self._addresses = {family: self.some(all_addresses(family), 3, 6) for family in FAMILIES}
        self._four = self.choice([0.5, 0.5, 0.85, 0.15])

    def maybe(self, chance: float = 0.5) -> bool:
        """True with this chance."""
        return self.random() < chance

    def one(self, *pairs: tuple[float, T]) -> T:
        """One of several, by weights."""
        return self.choices([value for _, value in pairs], [weight for weight, _ in pairs])[0]

    def some(self, values: Sequence[T], low: int, high: int) -> list[T]:
        """Several different ones."""
        return self.sample(list(values), min(self.randint(low, high), len(values)))

    def family(self) -> int:
        """4 or 6, one of which may be rare."""
        return 4 if self.maybe(self._four) else 6

    def families(self) -> list[int]:
        """Those that are worth rules."""
        chances = {4: 0.2 + self._four, 6: 1.2 - self._four}
        return [family for family in FAMILIES if self.maybe(chances[family])] or [self.family()]

    def port(self) -> int:
        """A port of the pool, or beside one."""
        return self.choice(self._ports if self.maybe(0.8) else PORTS) + self.one((8, 0), (1, 1), (1, -1))

    def ports(self, joined: str = ":") -> str:
        """A port or a range of them."""
        port = self.port()
        return f"{port}" if self.maybe(0.7) else f"{port}{joined}{port + self.choice([1, 2, 1000, 20000])}"

    def address(self, family: int, among: Sequence[str] = ()) -> str:
        """Any address of a family, or one of some."""
        preferred = [each for each in self._addresses[family] if not among or each in among]
        return self.choice(preferred) if preferred and self.maybe(0.8) else self.choice(among or all_addresses(family))

    def net(self, family: int) -> str:
        """An address or a network."""
        return self.address(family) if self.maybe(0.6) else self.choice(NETS[family])

    def number(self) -> int:
        """A user's or a group's."""
        return self.choice(self._ids if self.maybe(0.75) else IDS)

    def mark(self) -> int:
        """A mark, also none."""
        return self.choice((*self._marks, *self._marks, 0)) if self.maybe(0.8) else self.choice(MARKS)

    def masked(self, alone: float = 0.4) -> str:
        """A mark, often with a mask."""
        mark = self.mark()
        return f"{mark:#x}" if self.maybe(alone) else f"{mark:#x}/{self.choice(MASKS):#x}"
