"""Where two rule sets treat new connections differently."""

from __future__ import annotations

from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import Cause
from istio_init.space.attempts import Attempts
from istio_init.space.bits import apart
from istio_init.space.expected import NOWHERE, expected, only
from istio_init.space.outcomes import UNKNOWN, decider_of, outcome_of, rank, verdict_of
from istio_init.space.regions import Packets
from istio_init.space.traffic import Regions
from istio_init.space.walk import Walk
from istio_init.trace.result import Kind, Outcome
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.family import Family
    from istio_init.netfilter.packet import Direction, Packet
    from istio_init.space.attempts import Side
    from istio_init.space.diagram import Diagrams, Node
    from istio_init.space.layout import Layout
    from istio_init.space.namespace import Namespace
    from istio_init.space.ways import Decider, Ends, Way

STOPPED = frozenset([Kind.DROP, Kind.REJECT, Kind.UNKNOWN])


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


def differences(one: Side, other: Side, family: Family, direction: Direction) -> list[Difference]:
    """Where two rule sets treat a new connection differently; `Comparison` looks at both directions sooner.

    Raises:
        TooManyPieces: the rules divide connections into more than can be looked at.
    """
    return Comparison(one, other, family).differences(direction)


class Comparison:
    """The new connections of a family, as two namespaces' rules divide them."""

    def __init__(self, one: Side, other: Side, family: Family) -> None:
        self._host = other[1]
        self._attempts = Attempts(family, [one, other])

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
            return _differing(diagrams, packets, there, *[packets.possible(diagrams, each) for each in fates])

        return self._attempts.make(made)


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
