"""All new connections of one direction and family as a space, and regions of it.

A region is a product of sets, one for each dimension. What a rule tests is a region too, or a few disjoint ones, so
that splitting regions at rules divides the space exactly.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.model.matches import (
    Address,
    Comment,
    Connmark,
    Ctstate,
    Interface,
    Mark,
    Match,
    Multiport,
    Owner,
    PortMatch,
    PortTest,
)
from istio_init.model.netfilter import Family
from istio_init.model.value import Value
from istio_init.trace.compile import PORT_PROTOCOLS
from istio_init.trace.intervals import Intervals, contains, difference, intersection, union
from istio_init.trace.packet import Direction, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.model.rules import Rule, RuleSet

PROTOCOL, INTERFACE, DESTINATION, DPORT, UID, GID, SOURCE, SPORT, MARK = range(9)
NAMES = ("protocol", "interface", "destination", "dport", "uid", "gid", "source", "sport", "mark")

Region = tuple[Intervals, ...]
"""A set for each dimension, in the order of `NAMES`."""

Test = dict[int, Intervals]
"""What a rule demands of some dimensions; of others nothing."""

OTHER_PROTOCOL, OTHER_INTERFACE = "icmp", "eth0"


class Condition(Value):
    """When a rule matches: in any of these disjoint regions; ``certain`` is false where a test is not known."""

    tests: tuple[tuple[tuple[int, Intervals], ...], ...]
    certain: bool = True


class Space:
    """The dimensions of one direction and family, as the tests of two rule sets call for them.

    Protocols and interfaces are numbered by the names that rules know, and one name for all others. Marks are looked at
    under the one mask that the rules use; where they use several, tests of marks are not known here.
    """

    def __init__(self, direction: Direction, family: Family, rule_sets: Iterable[RuleSet]) -> None:
        self.direction = direction
        self.family = family
        rules = [entry.rule for rule_set in rule_sets for *_, entry in rule_set.entries()]
        self.protocols = _names(rules, "protocol", ["tcp", "udp"], OTHER_PROTOCOL)
        self.interfaces = _names(rules, "interface", ["lo"], OTHER_INTERFACE)
        self.prefixes = {
            each.name[:-1]
            for rule in rules
            for each in (rule.in_interface, rule.out_interface)
            if each is not None and each.name.endswith("+")
        }
        masks = {match.mask for rule in rules for match in rule.matches if isinstance(match, Mark)}
        self.mark_mask = masks.pop() if len(masks) == 1 else 0 if masks else 0xFFFFFFFF
        highest = 2**family.bits - 1
        sizes = (
            len(self.protocols) - 1,
            len(self.interfaces) - 1,
            highest,
            65535,
            2**32 - 2,
            2**32 - 2,
            highest,
            65535,
        )
        self.whole: Region = tuple(((0, size),) for size in (*sizes, 2**32 - 1))

    def condition(self, rule: Rule, *, loopback: bool = False) -> Condition:
        """When a rule matches a packet as it is in the space: not translated, not marked by rules.

        ``loopback`` asks for the packet that came in again by lo, whose socket is not known any more.
        """
        tests: list[Test] = [{}]
        certain = True
        if rule.protocol is not None:
            known = _numbers(self.protocols, [rule.protocol.name])
            tests = self._and(tests, PROTOCOL, known, rule.protocol.negated)
        tests = self._interfaces(tests, rule, loopback=loopback)
        for dimension, address in ((SOURCE, rule.source), (DESTINATION, rule.destination)):
            if address is not None:
                tests = self._and(tests, dimension, _network(address), address.negated)
        for match in rule.matches:
            further = self._match(match, tests, loopback=loopback)
            if further is None:
                certain = False
            else:
                tests = further
        return Condition(tuple(tuple(sorted(test.items())) for test in tests), certain)

    def _and(self, tests: list[Test], dimension: int, values: Intervals, negated: bool) -> list[Test]:
        whole = self.whole[dimension]
        allowed = difference(whole, values) if negated else intersection(whole, values)
        narrowed = []
        for test in tests:
            left = intersection(test.get(dimension, whole), allowed)
            if left:
                narrowed.append({**test, dimension: left})
        return narrowed

    def _interfaces(self, tests: list[Test], rule: Rule, *, loopback: bool) -> list[Test]:
        entering = self.direction is Direction.INBOUND or loopback
        for interface, applies in ((rule.in_interface, entering), (rule.out_interface, not entering)):
            if interface is None:
                continue
            numbers = self._interface_numbers(interface)
            if not applies:
                tests = tests if interface.negated else []
            elif loopback:
                tests = tests if contains(numbers, self.interfaces.index("lo")) is not interface.negated else []
            else:
                tests = self._and(tests, INTERFACE, numbers, interface.negated)
        return tests

    def _interface_numbers(self, interface: Interface) -> Intervals:
        """The numbers of the interfaces that a name or a prefix stands for."""
        if interface.name.endswith("+"):
            prefix = interface.name[:-1]
            return _numbers(self.interfaces, [name for name in self.interfaces if name.startswith(prefix)])
        return _numbers(self.interfaces, [interface.name])

    def _match(self, match: Match, tests: list[Test], *, loopback: bool) -> list[Test] | None:
        match match:
            case PortMatch(_, source, destination):
                for dimension, test in ((SPORT, source), (DPORT, destination)):
                    if test is not None:
                        tests = self._and(tests, dimension, _port(test), test.negated)
                return tests
            case Multiport():
                return self._multiport(match, tests)
            case Owner(uid, uid_negated, gid, gid_negated):
                if self.direction is Direction.INBOUND or loopback:
                    return []
                for dimension, ids, negated in ((UID, uid, uid_negated), (GID, gid, gid_negated)):
                    if ids is not None:
                        tests = self._and(tests, dimension, ((ids.first, ids.last),), negated)
                return tests
            case Mark(value, mask, negated) if mask == self.mark_mask:
                return self._and(tests, MARK, ((value, value),), negated)
            case Connmark() if loopback:
                return None  # A rule of the first leg may have set it.
            case Connmark(value, mask, negated):
                return tests if (value & mask == 0) is not negated else []
            case Ctstate(states, negated):
                return tests if ("NEW" in states) is not negated else []
            case Comment():
                return tests
            case _:
                return None

    def _multiport(self, match: Multiport, tests: list[Test]) -> list[Test]:
        tests = self._and(
            tests, PROTOCOL, _numbers(self.protocols, [n for n in self.protocols if n in PORT_PROTOCOLS]), False
        )
        ports = union([((each.first, each.last),) for each in match.ports])
        if match.side != "either":
            return self._and(tests, SPORT if match.side == "source" else DPORT, ports, match.negated)
        if match.negated:
            return self._and(self._and(tests, SPORT, ports, True), DPORT, ports, True)
        by_source = self._and(tests, SPORT, ports, False)
        return by_source + self._and(self._and(tests, SPORT, ports, True), DPORT, ports, False)

    def region_of(self, packet: Packet) -> tuple[int, ...]:
        """The packet's place in the space."""
        protocol = packet.protocol if packet.protocol in self.protocols else self.protocols[-1]
        interface = self._known_interface(packet.interface)
        outbound = self.direction is Direction.OUTBOUND
        return (
            self.protocols.index(protocol),
            self.interfaces.index(interface),
            int(packet.destination),
            packet.destination_port,
            packet.uid or 0 if outbound else 0,
            packet.gid or 0 if outbound else 0,
            int(packet.source),
            packet.source_port,
            packet.mark & self.mark_mask if self.mark_mask else packet.mark,
        )

    def _known_interface(self, name: str) -> str:
        """The name that stands for an interface: its own, that of the longest prefix of rules, or all others'."""
        if name in self.interfaces:
            return name
        prefixes = [each for each in self.prefixes if name.startswith(each)]
        return max(prefixes, key=len) + "0" if prefixes else self.interfaces[-1]

    def packet_in(self, region: Region) -> Packet:
        """A packet of a region, as ordinary as the region allows."""
        outbound = self.direction is Direction.OUTBOUND
        pick = [_ordinary(dimension, found, self.family) for dimension, found in enumerate(region)]
        address = IPv4Address if self.family is Family.IPV4 else IPv6Address
        return Packet(
            self.direction,
            self.protocols[pick[PROTOCOL]],
            address(pick[SOURCE]),
            address(pick[DESTINATION]),
            pick[SPORT],
            pick[DPORT],
            pick[UID] if outbound else None,
            pick[GID] if outbound else None,
            self.interfaces[pick[INTERFACE]],
            pick[MARK],
        )


def is_inside(place: tuple[int, ...], region: Region) -> bool:
    """Whether a place lies in a region."""
    return all(contains(found, number) for number, found in zip(place, region, strict=True))


_PREFERRED: dict[int, tuple[int, ...]] = {
    UID: (1000, 1001),
    GID: (1000, 1001),
    DPORT: (80, 443, 8080),
    SPORT: (40000,),
    MARK: (0,),
}
_ADDRESSES = {
    (Family.IPV4, DESTINATION): (0x0A000005, 0xC6336401),
    (Family.IPV4, SOURCE): (0x0A000001, 0xC6336402),
    (Family.IPV6, DESTINATION): ((0xFD00 << 112) | 5,),
    (Family.IPV6, SOURCE): ((0xFD00 << 112) | 1,),
}


def _ordinary(dimension: int, found: Intervals, family: Family) -> int:
    if dimension == INTERFACE:
        return found[-1][1]  # The last one stands for all that no rule names.
    preferred = _PREFERRED.get(dimension) or _ADDRESSES.get((family, dimension)) or ()
    return next((number for number in preferred if contains(found, number)), found[0][0])


def _names(rules: list[Rule], kind: str, always: list[str], other: str) -> list[str]:
    """The names that rules know, and last the one that stands for all others."""
    if kind == "protocol":
        named = [rule.protocol.name for rule in rules if rule.protocol is not None]
    else:
        both = [each for rule in rules for each in (rule.in_interface, rule.out_interface) if each is not None]
        named = [each.name.removesuffix("+") + ("0" if each.name.endswith("+") else "") for each in both]
    names = list(dict.fromkeys([*always, *named]))
    while other in names:
        other += "x"
    return [*names, other]


def _numbers(names: list[str], wanted: list[str]) -> Intervals:
    return union([((index, index),) for index, name in enumerate(names) if name in wanted])


def _network(address: Address) -> Intervals:
    network = address.network
    return ((int(network.network_address), int(network.broadcast_address)),)


def _port(test: PortTest) -> Intervals:
    return ((test.ports.first, test.ports.last),)
