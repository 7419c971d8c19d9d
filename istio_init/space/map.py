"""The map: all new connections of a direction and family, divided by what becomes of them; and how two maps differ."""

from __future__ import annotations

from itertools import islice

from istio_init.netfilter.fields import Field
from istio_init.netfilter.names import NO_INTERFACE, number_of
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.rules import Cause, Test, Undecided
from istio_init.netfilter.stages import NFT_FAMILIES
from istio_init.space.bits import apart
from istio_init.space.collecting import Uncollected
from istio_init.space.covering import Cover, Told
from istio_init.space.diagram import Diagrams, Node, TooManyPieces, value_at
from istio_init.space.expected import NOWHERE, expected, only
from istio_init.space.layout import Layout
from istio_init.space.namespace import Namespace
from istio_init.space.outcomes import UNKNOWN, Verdict, decider_of, outcome_of, rank, verdict_of, verdicts
from istio_init.space.regions import Packets, Region, count, paths
from istio_init.space.shares import shares
from istio_init.space.walk import Walk
from istio_init.space.ways import Decider, Ends, Way
from istio_init.trace.result import Kind, Outcome
from istio_init.trace.routing import tos_mask
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from istio_init.netfilter.family import Family
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Rule
    from istio_init.netfilter.stages import Netfilter

    Made = TypeVar("Made")
    Side = tuple[Netfilter, Host]

MOST_ANSWERS = 10
"""So many undecidable tests have each answer followed by itself, where rule sets are compared."""

STOPPED = frozenset([Kind.DROP, Kind.REJECT, Kind.UNKNOWN])


class Regions:
    """The disjoint regions of some packets, worked out when they are asked for."""

    __slots__ = ("_packets", "_top", "_values")

    def __init__(self, top: Node, values: frozenset[Hashable], packets: Packets) -> None:
        self._top = top
        self._values = values
        self._packets = packets

    def __iter__(self) -> Iterator[Region]:
        for path in paths(self._top, self._values, self._packets.layout.sizes):
            yield self._packets.region(path)

    def __len__(self) -> int:
        return count(self._top, self._values)

    def first(self, most: int) -> list[Region]:
        """So many of them at most."""
        return list(islice(self, most))

    def simplest(self, most: int) -> list[Region]:
        """Fewer and wider regions with the same packets, which may overlap; so many at most."""
        told = self._packets.told
        if self._top not in told:
            told[self._top] = Told(self._top, self._packets.layout.sizes)
        absent = frozenset([NOWHERE])
        found = Cover(told[self._top], self._values, absent, self._packets.layout).paths(most)
        return [self._packets.region(path) for path in found]


class TrafficClass(Value):
    """Packets with one outcome, decided by one rule; UNKNOWN for the same causes."""

    outcome: Outcome
    decider: Decider | None
    causes: tuple[Cause, ...]
    regions: Regions
    example: Packet


class Map:
    """All classes; each packet is in exactly one."""

    __slots__ = ("_by_verdict", "_packets", "_top", "classes")

    def __init__(self, top: Node, packets: Packets) -> None:
        self._top = top
        self._packets = packets
        found = packets.examples(top)
        self.classes = tuple(
            TrafficClass(
                leaf.value.outcome,
                leaf.value.decider,
                leaf.value.causes,
                Regions(top, frozenset([leaf.value]), packets),
                example,
            )
            for leaf, (_, example) in found.items()
            if leaf.value != NOWHERE
        )
        verdicts = [leaf.value for leaf in found if leaf.value != NOWHERE]
        self._by_verdict: dict[Verdict, TrafficClass] = dict(zip(verdicts, self.classes, strict=True))

    def by_share(self) -> list[tuple[float, TrafficClass]]:
        """The classes with their part of all packets, the largest first, each number as likely as any other."""
        found = shares(self._top, self._packets.layout.sizes)
        total = sum(share for value, share in found.items() if value != NOWHERE) or 1.0
        parts = [(found.get(verdict, 0.0) / total, each) for verdict, each in self._by_verdict.items()]
        return sorted(parts, key=lambda part: -part[0])

    def together(self, classes: Sequence[TrafficClass]) -> Regions:
        """The regions of several classes, told as if they were one."""
        values = [verdict for verdict, each in self._by_verdict.items() if any(each is one for one in classes)]
        return Regions(self._top, frozenset(values), self._packets)

    def class_of(self, packet: Packet) -> TrafficClass:
        """The class of a packet of this direction and family, the first one of a connection."""
        return self._by_verdict[value_at(self._top, self._packets.place(packet))]


class Fate(Value):
    """What becomes of packets, and the marks that packet and connection have in the end.

    A mark is what was set: values under masks; None where the value is one that the packet came with, or not known.
    """

    outcome: Outcome
    mark: tuple[tuple[int, int | None], ...] = ()
    connection_mark: tuple[tuple[int, int | None], ...] = ()


class Difference(Value):
    """Packets whose fate differs between two rule sets, and one of them."""

    before: Fate
    after: Fate
    decider_before: Decider | None
    decider_after: Decider | None
    regions: Regions
    witness: Packet


def classes(
    netfilter: Netfilter, host: Host, family: Family, direction: Direction, *, only_expected: bool = False
) -> Map:
    """All new connections of a direction and family, in classes; `Space` makes both directions' sooner.

    Raises:
        TooManyPieces: the rules divide them into more than can be looked at.
    """
    return Space(netfilter, host, family).map(direction, only_expected=only_expected)


def differences(one: Side, other: Side, family: Family, direction: Direction) -> list[Difference]:
    """Where two rule sets treat a new connection differently; `Comparison` looks at both directions sooner.

    Raises:
        TooManyPieces: the rules divide connections into more than can be looked at.
    """
    return Comparison(one, other, family).differences(direction)


class Space:
    """The new connections of a family, as one namespace's rules divide them."""

    def __init__(self, netfilter: Netfilter, host: Host, family: Family) -> None:
        self._host = host
        self._attempts = _Attempts(family, [(netfilter, host)])
        self._ends: dict[tuple[Namespace, Direction], tuple[Node, Node]] = {}

    def map(
        self,
        direction: Direction,
        *,
        only_expected: bool = False,
        within: Mapping[Field, Intervals] | None = None,
        fixed: Mapping[Field, int] | None = None,
    ) -> Map:
        """Those of a direction, in classes; with ``only_expected`` without those that the host has not, rules or no.

        ``within`` and ``fixed`` keep those alone whose fields have such values; a fixed one is in no condition, and
        conditions are as wide as the packets that there are allow.

        Raises:
            TooManyPieces: the rules divide them into more than can be looked at.
        """

        def made(layout: Layout, namespaces: list[Namespace]) -> Map:
            [namespace] = namespaces
            diagrams = namespace.diagrams
            packets = Packets(layout, direction, self._host)
            if (namespace, direction) not in self._ends:
                ends = Walk(namespace, direction).run()
                every = verdicts(diagrams, ends)
                there = expected(diagrams, layout, self._host, direction, packets)
                self._ends[namespace, direction] = every, only(diagrams, every, there)
            top = self._ends[namespace, direction][int(only_expected)]
            for field, values in (within or {}).items():
                top = only(diagrams, top, namespace.truths.node(Test(field, values)))
            numbers = {field: layout.numbers(field, value) for field, value in (fixed or {}).items()}
            values_at = {dim: number for each in numbers.values() for dim, number in each.items()}
            if values_at:
                top = diagrams.filled(diagrams.substituted(top, values_at, lambda one, _: one), diagrams.leaf(NOWHERE))
            return Map(possible(diagrams, top, packets), packets)

        return self._attempts.make(made)


class Comparison:
    """The new connections of a family, as two namespaces' rules divide them."""

    def __init__(self, one: Side, other: Side, family: Family) -> None:
        self._host = other[1]
        self._attempts = _Attempts(family, [one, other])

    def differences(self, direction: Direction) -> list[Difference]:
        """Where they are treated differently; empty where the rules are equal in behaviour.

        Differences of the marks alone come last.

        Raises:
            TooManyPieces: the rules divide connections into more than can be looked at.
        """

        def made(layout: Layout, namespaces: list[Namespace]) -> list[Difference]:
            diagrams = namespaces[0].diagrams
            packets = Packets(layout, direction, self._host)
            ends = [Walk(namespace, direction).run() for namespace in namespaces]
            there = expected(diagrams, layout, self._host, direction, packets)
            fates = [only(diagrams, _with_fates(diagrams, layout, each), there) for each in ends]
            return _differing(diagrams, packets, there, *[possible(diagrams, each, packets) for each in fates])

        return self._attempts.make(made)


class _Attempts:
    """Namespaces of some layouts, each made once."""

    def __init__(self, family: Family, sides: Sequence[Side]) -> None:
        self.family = family
        self.sides = sides
        self._layouts: dict[bool, Layout] = {}
        self._namespaces: dict[bool, list[Namespace]] = {}

    def make(self, made: Callable[[Layout, list[Namespace]], Made]) -> Made:
        """What is made with ports before addresses, or, where that is too much, with addresses first."""
        with Uncollected():
            try:
                return made(*self._attempt(ports_first=True))
            except TooManyPieces:
                self._namespaces.pop(True, None)
                return made(*self._attempt(ports_first=False))

    def _attempt(self, *, ports_first: bool) -> tuple[Layout, list[Namespace]]:
        if ports_first not in self._layouts:
            answers = _answers(self.family, self.sides) if len(self.sides) > 1 else ()
            self._layouts[ports_first] = layout_of(self.family, self.sides, answers, ports_first=ports_first)
        layout = self._layouts[ports_first]
        if ports_first not in self._namespaces:
            diagrams = Diagrams(layout.sizes)
            self._namespaces[ports_first] = [Namespace(diagrams, layout, *side) for side in self.sides]
        return layout, self._namespaces[ports_first]


def _answers(family: Family, sides: Sequence[Side]) -> tuple[Cause, ...]:
    """The undecidable tests, so that rule sets are compared for each of their answers; none of too many."""
    found = {
        statement.cause: None
        for netfilter, _ in sides
        for rule in _rules(netfilter, family)
        for statement in rule.body
        if isinstance(statement, Undecided)
    }
    return tuple(found) if len(found) <= MOST_ANSWERS else ()


def layout_of(family: Family, sides: Sequence[Side], answers: tuple[Cause, ...] = (), *, ports_first: bool) -> Layout:
    """The dimensions that the rules of some namespaces tell apart."""
    rules = [rule for netfilter, _ in sides for rule in _rules(netfilter, family)]
    routing = [each for _, host in sides for each in (host.rules or {}).get(family, ())]
    marks = {each.mask for each in routing if each.mark is not None}
    tos_masks = {tos_mask(each.tos) for each in routing if each.tos is not None}
    return Layout(family, rules, marks, tos_masks=tos_masks, ports_first=ports_first, answers=answers)


def in_some_order(family: Family, sides: Sequence[Side], made: Callable[[Layout], Made]) -> Made:
    """What is made with ports before addresses, as most rules need it; with addresses first if that is too much."""
    try:
        return made(layout_of(family, sides, ports_first=True))
    except TooManyPieces:
        return made(layout_of(family, sides, ports_first=False))


def _rules(netfilter: Netfilter, family: Family) -> Iterator[Rule]:
    for table in netfilter.tables:
        if table.family in NFT_FAMILIES[family]:
            for chain in table.chains.values():
                yield from chain.rules


def possible(diagrams: Diagrams, top: Node, packets: Packets) -> Node:
    """Without interfaces that no packet is asked for by: none, and inbound lo."""
    dim = packets.layout.dim(packets.interface)
    top = diagrams.without(top, dim, NO_INTERFACE)
    return diagrams.without(top, dim, number_of("lo")) if packets.direction is Direction.INBOUND else top


def outcomes_of(diagrams: Diagrams, ends: Node) -> Node:
    """What becomes of packets, whatever decides it: UNKNOWN where that cannot be told."""
    return diagrams.mapped(verdicts(diagrams, ends), lambda verdict: diagrams.leaf(verdict.outcome))


_Fates = tuple[frozenset[Fate], tuple[Cause, ...]]
"""What may become of packets and, of several, what decides: where that is the same, both sides are taken to agree."""


def _with_fates(diagrams: Diagrams, layout: Layout, ends: Node) -> Node:
    """Fates with their deciders in place of ends. A mark that a packet had already has not changed."""
    marks = {group.dim: group.mask for group in layout.groups[Field.MARK]}
    connection_marks = {group.dim: group.mask for group in layout.groups[Field.CT_MARK]}

    def leaf(found: Ends, kept: frozenset[tuple[int, int]]) -> Node:
        fates = {}
        diagrams.spend(20 * len(found.ways))
        for way in found.ways:
            outcome = outcome_of(way)
            fate = Fate(outcome)
            if outcome.kind not in STOPPED:
                fate = Fate(outcome, _marks(way, marks, kept), _marks(way, connection_marks, None))
            fates[fate] = decider_of(way)
        if len(fates) == 1:
            return diagrams.leaf(((frozenset(fates), ()), min(fates.values(), key=rank)))
        verdict = verdict_of(found)
        return diagrams.leaf(((frozenset(fates), verdict.causes), verdict.decider))

    def change(found: Ends) -> Node:
        set_to: dict[int, set[int]] = {}
        for way in found.ways:
            for dim, value in way.changes:
                if dim in marks and isinstance(value, int) and outcome_of(way).kind not in STOPPED:
                    set_to.setdefault(dim, set()).add(value)

        def below(dims: list[int], kept: frozenset[tuple[int, int]]) -> Node:
            if not dims:
                return leaf(found, kept)
            dim, *others = dims
            there = {value: below(others, kept | {(dim, value)}) for value in sorted(set_to[dim])}
            return diagrams.at(dim, there, below(others, kept))

        return below(sorted(set_to), frozenset())

    return diagrams.grafted(ends, change)


def _marks(
    way: Way, dims: dict[int, int], kept: frozenset[tuple[int, int]] | None
) -> tuple[tuple[int, int | None], ...]:
    """The parts of a mark that a way sets, but for those that are kept; None is a connection's mark, 0 before."""
    found: list[tuple[int, int | None]] = []
    for dim, value in way.changes:
        mask = dims.get(dim)
        if mask is not None and (value != 0 if kept is None else (dim, value) not in kept):
            found.append((mask, apart(value, mask) if isinstance(value, int) else None))
    return tuple(found)


def _differing(diagrams: Diagrams, packets: Packets, there: Node, one: Node, other: Node) -> list[Difference]:
    same = diagrams.leaf(None)

    def join(one: Node, other: Node) -> Node | None:
        if one is other:
            return same
        if one.children or other.children:
            return None
        return same if one.value[0] == other.value[0] else diagrams.leaf((*one.value, *other.value))

    top = only(diagrams, diagrams.combine(one, other, join), there)
    groups: dict[tuple[Fate, Fate, Decider | None, Decider | None], list[tuple[Node, int, Packet]]] = {}
    for leaf, (oddness, example) in packets.examples(top).items():
        if leaf is not same and leaf.value != NOWHERE:
            before, decider_before, after, decider_after = leaf.value
            key = (*_told(before, after), decider_before, decider_after)
            groups.setdefault(key, []).append((leaf, oddness, example))
    found = []
    for key, leaves in groups.items():
        regions = Regions(top, frozenset([leaf.value for leaf, _, _ in leaves]), packets)
        _, _, witness = min(leaves, key=lambda each: each[1])
        found.append(Difference(*key, regions, witness))
    return sorted(found, key=lambda each: each.before.outcome == each.after.outcome)


def _told(before: _Fates, after: _Fates) -> tuple[Fate, Fate]:
    """Two fates that differ, without their marks where the outcomes differ already; UNKNOWN where there are several."""
    one, other = [next(iter(each)) if len(each) == 1 else Fate(UNKNOWN) for each, _ in (before, after)]
    return (one, other) if one.outcome == other.outcome else (Fate(one.outcome), Fate(other.outcome))
