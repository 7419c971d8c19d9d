"""Names of protocols and interfaces as far as rules can tell them apart, numbered; one name stands for all others."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.trace.packet import protocol_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.iptables.matches import Interface
    from istio_init.dialects.iptables.rules import Rule

ALWAYS = ("tcp", "udp")
OTHERS = {Family.IPV4: ("icmp", "esp", "gre", "igmp"), Family.IPV6: ("ipv6-icmp", "esp", "gre", "igmp")}
INTERFACES = ("eth0", "net0", "veth0", "any0")
SUFFIXES = ("0", "1", "9", "x", "-0", ".0", "_")
LO = "lo"


class Protocols:
    """TCP, UDP and the protocols that rules name; the last one stands for all others."""

    def __init__(self, rules: Iterable[Rule], family: Family) -> None:
        named = [protocol_name(rule.protocol.name) for rule in rules if rule.protocol is not None]
        self.names = list(dict.fromkeys([*ALWAYS, *named]))
        self.names.append(_unused(OTHERS[family], self.names))
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def number(self, name: str) -> int:
        """The number of a protocol."""
        return self._numbers.get(protocol_name(name), len(self.names) - 1)


class Interfaces:
    """lo, the interfaces that rules name, one for each prefix that they name, and one for all others."""

    lo = 0

    def __init__(self, rules: Iterable[Rule]) -> None:
        tested = [each.name for rule in rules for each in (rule.in_interface, rule.out_interface) if each is not None]
        self.names = list(dict.fromkeys([LO, *(name for name in tested if not name.endswith("+"))]))
        self._numbers = {name: number for number, name in enumerate(self.names)}
        prefixes = sorted({name[:-1] for name in tested if name.endswith("+")} - {""}, key=len, reverse=True)
        self._of_prefix: dict[str, int] = {}
        for prefix in prefixes:
            self._of_prefix[prefix] = len(self.names)
            self.names.append(self._stand_in(prefix))
        self.texts = [*self.names[: len(self._numbers)], *(f"{prefix}+" for prefix in prefixes), "any other"]
        """What each number is called: stand-ins for others by what they stand for."""

        self.names.append(_unused([each for each in INTERFACES if not self._begins(each, prefixes)], self.names))

    def number(self, name: str) -> int:
        """The number of an interface: its own, that of the longest prefix that it has, or that of all others."""
        if name in self._numbers:
            return self._numbers[name]
        return next((each for prefix, each in self._of_prefix.items() if name.startswith(prefix)), len(self.names) - 1)

    def matching(self, test: Interface) -> list[int]:
        """The numbers of those that have the tested name or prefix."""
        if not test.name.endswith("+"):
            return [self._numbers[test.name]]
        return [number for number, name in enumerate(self.names) if name.startswith(test.name[:-1])]

    def _stand_in(self, prefix: str) -> str:
        """A name with this prefix, with no longer one, that no rule names."""
        longer = [each for each in self._of_prefix if each != prefix]
        fitting = [prefix + suffix for suffix in SUFFIXES if not self._begins(prefix + suffix, longer)]
        return _unused(fitting or [prefix + "?"], self.names)

    @staticmethod
    def _begins(name: str, prefixes: Iterable[str]) -> bool:
        return any(name.startswith(prefix) for prefix in prefixes)


def _unused(preferred: Iterable[str], taken: list[str]) -> str:
    """The first name that is not taken, made up if need be."""
    name = ""
    for name in preferred:
        if name not in taken:
            return name
    name = name or "?"
    while name in taken:
        name += "?"
    return name
