"""All new connections of one direction and family as a space, and regions of it.

A region is a product of sets, one for each dimension. What a rule tests is a region too, or a few disjoint ones, so
that splitting regions at rules divides the space exactly.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.dialects.iptables.tables import Table
from istio_init.netfilter.family import Family
from istio_init.space.intervals import Intervals, contains, difference, intersection, union
from istio_init.space.marks import Marks
from istio_init.space.names import Interfaces, Protocols
from istio_init.trace.hooks import FIRST_HOOKS
from istio_init.trace.packet import PORT_PROTOCOLS, Direction, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.iptables.matches import OpaqueMatch
    from istio_init.dialects.iptables.rules import RuleSet

PROTOCOL, INTERFACE, DESTINATION, DPORT, UID, GID, SOURCE, SPORT, MARK = range(9)
"""Dimensions of a packet as it begins. Further ones are the answers to matches that are not known, see `Space`."""

CONNMARK, TRACKING = -1, -2
"""What is the same for all packets as they begin, and only rules and the kernel change."""

UNTRACKED, TEMPLATE, NEW, TRANSLATED = range(4)
"""Values of `TRACKING`: the connection is not looked up yet; a template stands in for it; it is new; and translated."""

NO_ID = 2**32 - 1
"""In place of the user and the group of a packet without a socket: the id that nobody can have."""

MOST_ANSWERS = 32
"""Matches that are not known of which both answers are followed; with more of them none is."""

Region = tuple[Intervals, ...]
"""A set for each dimension."""

Test = dict[int, Intervals]
"""What a rule demands of some dimensions; of others nothing."""

Unknown = tuple["OpaqueMatch", Table, str]
"""A match that is not known, where it is asked: its answer may differ from hook to hook."""


class Space:
    """The dimensions of one direction and family, as the tests of some rule sets call for them.

    Protocols, interfaces and marks are numbered by what rules can tell apart. With ``answers`` each match that is not
    known gets a dimension of its own, the answer to it, so that two rule sets that ask the same can be compared.
    """

    def __init__(
        self,
        direction: Direction,
        family: Family,
        rule_sets: Iterable[RuleSet],
        *,
        answers: bool = False,
        local_marks: frozenset[int] = frozenset(),
    ) -> None:
        self.direction = direction
        self.family = family
        rule_sets = list(rule_sets)
        rules = [entry.rule for rule_set in rule_sets for *_, entry in rule_set.entries()]
        self.protocols = Protocols(rules, family)
        self.interfaces = Interfaces(rules)
        self.marks = Marks(rules, local_marks)
        self.unknown = _unknown(direction, rule_sets) if answers else ()
        highest, lo = 2**family.bits - 1, self.interfaces.lo
        outbound = direction is Direction.OUTBOUND
        interfaces = ((0, len(self.interfaces.names) - 1),) if outbound else ((lo + 1, len(self.interfaces.names) - 1),)
        ids = ((0, NO_ID),) if outbound else ((NO_ID, NO_ID),)
        self.whole: Region = (
            ((0, len(self.protocols.names) - 1),),
            interfaces,
            ((0, highest),),
            ((0, 65535),),
            ids,
            ids,
            ((0, highest),),
            ((0, 65535),),
            ((0, len(self.marks.choices) - 1),),
            *[((0, 1),) for _ in self.unknown],
        )
        ported = [number for number, name in enumerate(self.protocols.names) if name in PORT_PROTOCOLS]
        portless = difference(self.whole[PROTOCOL], numbers(ported))
        nobody, somebody = ((NO_ID, NO_ID),), ((0, NO_ID - 1),)
        self._impossible: tuple[Test, ...] = (
            {PROTOCOL: portless, DPORT: ((1, 65535),)},
            {PROTOCOL: portless, SPORT: ((1, 65535),)},
            {UID: nobody, GID: somebody},
            {UID: somebody, GID: nobody},
        )

    def size_of(self, dimension: int) -> Intervals:
        """All values of a dimension, also of those that packets do not begin with."""
        if dimension >= 0:
            return self.whole[dimension]
        return self.whole[MARK] if dimension == CONNMARK else ((UNTRACKED, TRANSLATED),)

    def possible(self, region: Region) -> list[Region]:
        """The region without what no packet is: ports of protocols that have none, a user without a group."""
        left = [region]
        for test in self._impossible:
            left = [part for each in left for part in split(each, test)[1]]
        return left

    def region_of(self, packet: Packet) -> tuple[int, ...]:
        """The packet's place in the space."""
        outbound = self.direction is Direction.OUTBOUND
        return (
            self.protocols.number(packet.protocol),
            self.interfaces.number(packet.interface),
            int(packet.destination),
            packet.destination_port,
            packet.uid if outbound and packet.uid is not None else NO_ID,
            packet.gid if outbound and packet.gid is not None else NO_ID,
            int(packet.source),
            packet.source_port,
            self.marks.number(packet.mark),
        )

    def packet_in(self, region: Region) -> Packet:
        """A packet of a region, as ordinary as the region allows."""
        pick = [_ordinary(dimension, found, self.family) for dimension, found in enumerate(region)]
        address = IPv4Address if self.family is Family.IPV4 else IPv6Address
        has_socket = NO_ID not in (pick[UID], pick[GID])
        return Packet(
            self.direction,
            self.protocols.names[pick[PROTOCOL]],
            address(pick[SOURCE]),
            address(pick[DESTINATION]),
            pick[SPORT],
            pick[DPORT],
            pick[UID] if has_socket else None,
            pick[GID] if has_socket else None,
            self.interfaces.names[pick[INTERFACE]],
            self.marks.example(pick[MARK]),
        )


def split(region: Region, test: Test) -> tuple[Region | None, list[Region]]:
    """The part of a region that passes a test, and the rest of it in disjoint parts."""
    for dimension, allowed in test.items():
        found = region[dimension]
        if not allowed or found[-1][1] < allowed[0][0] or found[0][0] > allowed[-1][1]:
            return None, [region]  # As with most rules: told without a look at what lies between.
    inside = list(region)
    outside: list[Region] = []
    for dimension, allowed in test.items():
        both = intersection(inside[dimension], allowed)
        if not both:
            return None, [region]
        if rest := difference(inside[dimension], allowed):
            part = list(inside)
            part[dimension] = rest
            outside.append(tuple(part))
        inside[dimension] = both
    return tuple(inside), outside


def is_inside(place: tuple[int, ...], region: Region) -> bool:
    """Whether a place lies in a region."""
    return all(contains(found, number) for number, found in zip(place, region, strict=True))


_PREFERRED: dict[int, tuple[int, ...]] = {
    UID: (1000, 1001),
    GID: (1000, 1001),
    DPORT: (80, 443, 8080),
    SPORT: (40000,),
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


def _unknown(direction: Direction, rule_sets: list[RuleSet]) -> tuple[Unknown, ...]:
    """The matches that are not known, at every hook where they could be asked."""
    from istio_init.dialects.iptables.matches import OpaqueMatch

    found = dict.fromkeys(
        (match, table, hook)
        for rules in rule_sets
        for table, _, _, entry in rules.entries()
        for match in entry.rule.matches
        if isinstance(match, OpaqueMatch)
        for hook in FIRST_HOOKS[direction]
    )
    return tuple(found) if len(found) <= MOST_ANSWERS * len(FIRST_HOOKS[direction]) else ()


def numbers(found: Iterable[int]) -> Intervals:
    """Single numbers as a set."""
    return union([((number, number),) for number in found])
