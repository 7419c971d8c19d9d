"""Random tables of nft's: chains, sets and maps around the rules of `wild_nft`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from judge.wild_effects import effect
from judge.wild_load import Batch
from judge.wild_nft import BUSY, HOOKS, NFT, PRIORITIES, Hooks, Place, tests
from judge.wild_pools import LINKS, Draw

CONFLICTS = tuple(
    re.compile(rf"\b{name} (?!\.)(?!option|sequence 1)|l4proto {name}\b")
    for name in ("tcp", "udp", "icmp(?:v6)?", "ipv6-icmp")
)
"""Each a protocol, of which a rule can ask for one."""

Maker = Callable[[], str]

OWN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "OUTPUT", "INPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "OUTPUT", "OUTPUT", "INPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


class Table:
    """One table being drawn."""

    def __init__(self, draw: Draw, name: str, size: int) -> None:
        self.draw, self.name = draw, name
        self.family = draw.one((4, "inet"), (3, {4: "ip", 6: "ip6"}[draw.family()]))
        self.where = f"{self.family} {name}"
        dormant = " { flags dormant; }" if draw.maybe(0.04) else ""
        self.needs = [f"add table {self.where}{dormant}"]
        self.lines: list[str] = []
        self.sets: list[tuple[str, str]] = []
        self.maps: list[tuple[str, str]] = []
        self.others = [f"u{number}" for number in range(draw.randint(0, 3))]
        self.hooks: dict[str, tuple[str, Hooks]] = {}
        self.needs += [f"add chain {self.where} {chain}" for chain in self.others]
        for number in range(draw.randint(0, 3)):
            self._set(f"s{number}")
        for number in range(draw.randint(0, 1)):
            self._map(f"m{number}")
        self.needs.append(f"add counter {self.where} named")
        self.dynamic = "seen" if draw.maybe(0.1) else ""
        if self.dynamic:
            self.needs.append(f"add set {self.where} seen {{ type inet_service; flags dynamic; size 100; }}")
        bases = draw.randint(1, 5)
        for number in range(bases):
            self._base(f"c{number}", draw.randint(1, max(2, 2 * size // bases)))
        for index, chain in enumerate(self.others):
            if chain in self.hooks:
                self._fill(chain, *self.hooks[chain], draw.randint(0, 4), self.others[index + 1 :])

    def _base(self, chain: str, count: int) -> None:
        draw = self.draw
        kind = draw.one((5, "filter"), (4, "nat"), (1.5, "route"))
        hook = draw.one(*((weight, hook) for hook, weight in BUSY.items() if hook in HOOKS[kind]))
        priority = draw.choice([each for each in PRIORITIES if kind != "nat" or each > -200])
        if kind == "nat" and draw.maybe(0.6):
            priority = 100 if hook in ("input", "postrouting") else -100
        policy = "drop" if kind != "nat" and draw.maybe(0.04) else "accept"
        text = f"type {kind} hook {hook} priority {priority}; policy {policy};"
        self.needs.append(f"add chain {self.where} {chain} {{ {text} }}")
        self._fill(chain, kind, frozenset([hook]), count, self.others)

    def _fill(self, chain: str, kind: str, hooks: Hooks, count: int, onward: Sequence[str]) -> None:
        for _ in range(count):
            place = Place(self.draw, self.family, kind, hooks, self.sets, self.dynamic)
            self.lines.append(f"add rule {self.where} {chain} {self._rule(place, onward)}")

    def _rule(self, place: Place, onward: Sequence[str]) -> str:
        """A rule, of several drawn one that does not ask for two protocols."""
        for _ in range(4):
            text = self._drawn(place, onward)
            if sum(bool(each.search(text)) for each in CONFLICTS) < 2:
                break
        return text

    def _drawn(self, place: Place, onward: Sequence[str]) -> str:
        draw = self.draw
        if onward and draw.maybe(0.25):
            done, needed = f"{draw.choice(['jump', 'jump', 'goto'])} {self._to(place, onward)}", ""
        elif onward and draw.maybe(0.1):
            done, needed = self._verdict_map(place, onward), ""
        elif self.maps and draw.maybe(0.1):
            done, needed = self._mapped(), ""
        else:
            done, needed = effect(place)
        asked = tests(place, 0 if needed else 1, 2)
        counters = "counter counter name named" if draw.maybe(0.04) else "counter"
        return " ".join([needed, *asked, counters, done]).strip()

    def _to(self, place: Place, onward: Sequence[str]) -> str:
        """One of the chains to come, which then knows what leads to it."""
        to = self.draw.choice(onward)
        kind, hooks = self.hooks.get(to, (place.kind, frozenset()))
        self.hooks[to] = (kind if kind == place.kind else "mixed", hooks | place.hooks)
        return to

    def _verdict_map(self, place: Place, onward: Sequence[str]) -> str:
        draw = self.draw
        key, make = self._key()
        values = ["accept", "drop", "return", "continue"]
        pairs = {make(): f"{draw.choice(['jump', 'goto'])} {self._to(place, onward)}" for _ in range(2)}
        pairs |= {make(): draw.choice(values) for _ in range(draw.randint(0, 2))}
        behind = draw.one((3, ""), (1, " drop"), (1, f" meta mark set {draw.mark():#x}"))  # For the keys that go on.
        return f"{key} vmap {{ {', '.join(f'{each} : {verdict}' for each, verdict in pairs.items())} }}{behind}"

    def _key(self) -> tuple[str, Maker]:
        draw, family = self.draw, 6 if self.family == "ip6" else 4
        keys: list[tuple[str, Maker]] = [
            ("tcp dport", lambda: str(draw.port())),
            ("udp dport", lambda: str(draw.port())),
            ("meta mark", lambda: f"{draw.mark():#x}"),
            (f"{'ip6' if family == 6 else 'ip'} daddr", lambda: draw.address(family)),
            ("meta skuid", lambda: str(draw.number())),
            ("meta l4proto", lambda: draw.choice(["tcp", "udp", "icmp"])),
            ("ct state", lambda: draw.choice(["new", "invalid", "established", "untracked"])),
            ("meta iifname", lambda: draw.choice(['"lo"', '"eth0"'])),
        ]
        return draw.choice(keys)

    def _mapped(self) -> str:
        name, key = self.draw.choice(self.maps)
        return f"meta mark set {key} map @{name}"

    def _set(self, name: str) -> None:
        draw, family = self.draw, 6 if self.family == "ip6" else 4
        of = "ip6" if family == 6 else "ip"
        kind = f"ipv{family}_addr"
        address: Maker = lambda: draw.net(family).replace("0.0.0.0/0", "0.0.0.0/2").replace("::/0", "::/2")  # noqa: E731
        shapes: list[tuple[str, str, str, Maker]] = [
            (kind, f"{of} {draw.choice(['daddr', 'saddr'])}", "", lambda: draw.address(family)),
            (kind, f"{of} daddr", "flags interval; auto-merge;", address),
            (kind, f"{of} daddr", "flags timeout; timeout 1h;", lambda: draw.address(family)),
            ("inet_service", draw.choice(["tcp dport", "udp dport", "tcp sport"]), "", lambda: str(draw.port())),
            ("inet_service", "tcp dport", "flags interval; auto-merge;", lambda: draw.ports("-")),
            ("mark", draw.choice(["meta mark", "ct mark"]), "", lambda: f"{draw.mark():#x}"),
            (
                f"{kind} . inet_service",
                f"{of} daddr . tcp dport",
                "",
                lambda: f"{draw.address(family)} . {draw.port()}",
            ),
            (
                f"{kind} . inet_service",
                f"{of} daddr . th dport",
                "flags interval;",
                lambda: f"{address()} . {draw.ports('-')}",
            ),
            ("ifname", "meta oifname", "", lambda: draw.choice(['"lo"', '"eth0"', '"net1"'])),
            ("uid", "meta skuid", "", lambda: str(draw.number())),
            (
                "inet_proto . inet_service",
                "meta l4proto . th dport",
                "",
                lambda: f"{draw.choice(['tcp', 'udp'])} . {draw.port()}",
            ),
        ]
        made, key, flags, make = draw.choice(shapes)
        elements = ", ".join(dict.fromkeys(make() for _ in range(draw.randint(1, 4))))
        self.needs.append(f"add set {self.where} {name} {{ type {made}; {flags} elements = {{ {elements} }}; }}")
        self.sets.append((name, key))

    def _map(self, name: str) -> None:
        draw = self.draw
        kinds: list[tuple[str, str, Callable[[], int]]] = [
            ("inet_service", "tcp dport", draw.port),
            ("mark", "meta mark", draw.mark),
            ("uid", "meta skuid", draw.number),
        ]
        kind, key, make = draw.choice(kinds)
        pairs = {make(): draw.mark() for _ in range(3)}
        elements = ", ".join(f"{each} : {mark:#x}" for each, mark in pairs.items())
        self.needs.append(f"add map {self.where} {name} {{ type {kind} : mark; elements = {{ {elements} }}; }}")
        self.maps.append((name, key))

    def batch(self) -> Batch:
        """All of it."""
        return Batch(f"nft {self.where}", NFT, "", tuple(self.needs), tuple(self.lines), "")


def batches(draw: Draw, size: int) -> list[Batch]:
    """Some tables, now and then one that meets packets at their device."""
    found = [Table(draw, f"t{number}", draw.randint(2, size)).batch() for number in range(draw.randint(1, 3))]
    return found + ([_ingress(draw)] if draw.maybe(0.05) else [])


def _ingress(draw: Draw) -> Batch:
    where, link = "netdev early", draw.choice(LINKS)
    needs = (f"add table {where}", f"add chain {where} c {{ type filter hook ingress device {link} priority 0; }}")
    lines = []
    for _ in range(draw.randint(1, 4)):
        asked = draw.choice([f"tcp dport {draw.ports('-')}", f"udp dport {draw.port()}", f"ip daddr {draw.address(4)}"])
        done = draw.one((3, f"meta mark set {draw.mark():#x}"), (1, "drop"), (1, "accept"), (1, "ip ttl set 5"))
        lines.append(f"add rule {where} c {asked} counter {done}")
    return Batch("nft netdev early", NFT, "", needs, tuple(lines), "")


def intruders(draw: Draw, family: int, tables: Sequence[str]) -> Batch:
    """Rules of nft's in tables of iptables."""
    lines = []
    of = "ip" if family == 4 else "ip6"
    for _ in range(draw.randint(1, 4)):
        table = draw.choice(tables)
        chain = draw.choice(OWN[table])
        kind = "nat" if table == "nat" else "filter"
        place = Place(draw, of, kind, frozenset([chain.lower()]), [])
        done, needed = effect(place)
        text = " ".join([needed, *tests(place, 1, 2), "counter", done]).strip()
        lines.append(f"{draw.choice(['add', 'insert'])} rule {of} {table} {chain} {text}")
    return Batch(f"nft into {of}", NFT, "", (), tuple(lines), "")
