"""The classes of a partition: which packets have which outcome, and how two rule sets differ."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.targets import OpaqueTarget
from istio_init.space.intervals import intersection
from istio_init.space.partition import partition
from istio_init.space.pieces import Decider, joined
from istio_init.space.space import CONNMARK, MARK, Region, Space, split
from istio_init.trace.engine import Outcome
from istio_init.trace.packet import Direction, Packet
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.space.pieces import Piece

NO_MARKS: frozenset[int] = frozenset()


class TrafficClass(Value):
    """Packets with one outcome, decided by one rule: the regions that they fill."""

    outcome: Outcome
    decider: Decider | None
    regions: tuple[Region, ...]


class Fate(Value):
    """What becomes of a connection: its outcome, and the marks that its packet and itself have in the end.

    A mark is None where it is the one that the packet began with. ``how`` is what ends it where that matters: the
    target that rejects it, or the rule that cannot be told past.
    """

    outcome: Outcome
    mark: int | None = None
    connmark: int = 0
    how: Rule | None = None


class Difference(Value):
    """Packets whose fate differs between two rule sets, and one of them."""

    before: Fate
    after: Fate
    witness: Packet
    regions: tuple[Region, ...]


def classes(
    rules: RuleSet, direction: Direction, local_marks: frozenset[int] = NO_MARKS
) -> tuple[Space, list[TrafficClass]]:
    """All new connections of a direction, in classes; each packet is in exactly one.

    ``local_marks`` are the marks whose routing rule leads to this machine.
    """
    space = Space(direction, rules.family, [rules], local_marks=local_marks)
    found: dict[tuple[Outcome, Decider | None], list[Region]] = {}
    for piece in partition(rules, space, local_marks):
        found.setdefault((piece.outcome, piece.decider), []).append(piece.region)
    return space, [
        TrafficClass(*key, regions=tuple(joined(regions)))
        for key, regions in found.items()
        if any(space.possible(region) for region in regions)
    ]


def differences(
    before: RuleSet,
    after: RuleSet,
    direction: Direction,
    marks_before: frozenset[int] = NO_MARKS,
    marks_after: frozenset[int] = NO_MARKS,
) -> tuple[Space, list[Difference]]:
    """Where two rule sets of a family treat a new connection differently; empty where they are equal in behaviour.

    Differences of the marks alone come last.
    """
    space = Space(direction, before.family, [before, after], answers=True, local_marks=marks_before | marks_after)
    one = _fates(space, partition(before, space, marks_before))
    other = _fates(space, partition(after, space, marks_after))
    found: dict[tuple[Fate, Fate], list[Region]] = {}
    for fate, regions in one.items():
        for another, others in other.items():
            meeting = _common(regions, others) if fate != another else ()
            common = [region for region in meeting if space.possible(region)]
            if common:
                found.setdefault(_said(fate, another), []).extend(common)
    differing = [Difference(*key, _witness(space, regions), tuple(joined(regions))) for key, regions in found.items()]
    return space, sorted(differing, key=lambda each: each.before.outcome == each.after.outcome)


class Change(Value):
    """Another outcome that packets have in the rules ``after``, and one of those for which the same rule decides it."""

    before: Outcome
    after: Outcome
    witness: Packet


def changes(
    before: RuleSet,
    after: RuleSet,
    direction: Direction,
    local_marks: frozenset[int] = NO_MARKS,
    most: int | None = None,
) -> list[Change]:
    """Where the outcome of new connections differs between two rule sets, apart for each rule that decides it.

    Raises:
        TooManyPieces: a map of them would take more than ``most`` pieces.
    """
    space = Space(direction, before.family, [before, after], answers=True, local_marks=local_marks)
    wanted: dict[Outcome, list[Region]] = {}
    for piece in partition(before, space, local_marks, most):
        wanted.setdefault(piece.outcome, []).append(piece.region)
    live: dict[tuple[Outcome, Decider | None], list[Region]] = {}
    for piece in partition(after, space, local_marks, most):
        live.setdefault((piece.outcome, piece.decider), []).append(piece.region)
    found = []
    joined_live = [(outcome, joined(regions)) for (outcome, _), regions in live.items()]
    for outcome, regions in wanted.items():
        whole = joined(regions)
        for other, others in joined_live:
            meeting = _common(whole, others) if outcome != other else ()
            if common := [region for region in meeting if space.possible(region)]:
                found.append(Change(outcome, other, _witness(space, common)))
    return found


def _said(one: Fate, other: Fate) -> tuple[Fate, Fate]:
    """Two fates that differ, without their marks where the outcomes differ already."""
    if one.outcome == other.outcome:
        return one, other
    return Fate(one.outcome, how=one.how), Fate(other.outcome, how=other.how)


def _witness(space: Space, regions: list[Region]) -> Packet:
    """The most ordinary packet of some regions."""
    packets = [space.packet_in(part) for region in regions for part in space.possible(region)]
    return min(packets, key=lambda packet: oddness(space.direction, packet))


def oddness(direction: Direction, packet: Packet) -> tuple[bool, ...]:
    """How little one would expect a packet."""
    return (
        direction is Direction.OUTBOUND and packet.uid is None,
        packet.mark != 0,
        packet.protocol not in ("tcp", "udp"),
        packet.interface == "lo",
        packet.uid not in (None, 1000),
    )


def _fates(space: Space, pieces: list[Piece]) -> dict[Fate, list[Region]]:
    """The regions of packets with each fate."""
    found: dict[Fate, list[Region]] = {}
    for piece in pieces:
        for fate, region in _fate(space, piece):
            found.setdefault(fate, []).append(region)
    return {fate: joined(regions) for fate, regions in found.items()}


def _fate(space: Space, piece: Piece) -> Iterator[tuple[Fate, Region]]:
    """The fate of a piece's packets; those that began with the mark that others were given are told apart."""
    outcome, mark = piece.outcome, dict(piece.changed).get(MARK)
    if outcome.kind in ("drop", "unknown"):
        yield Fate(outcome, how=_how(piece)), piece.region
        return
    connmark = space.marks.example(piece.get(CONNMARK) or 0)
    if mark is None:
        yield Fate(outcome, None, connmark), piece.region
        return
    same, rest = split(piece.region, {MARK: ((mark, mark),)})
    if same is not None:
        yield Fate(outcome, None, connmark), same
    for region in rest:
        yield Fate(outcome, space.marks.example(mark), connmark), region


def _how(piece: Piece) -> Rule | None:
    if piece.decider is None:
        return None
    rule = piece.decider.rule
    if isinstance(rule.target, OpaqueTarget):
        return Rule(target=rule.target)
    return rule if piece.outcome.kind == "unknown" else None


def _common(some: list[Region], others: list[Region]) -> Iterator[Region]:
    """The regions that two sets of regions have in common."""
    for one in some:
        for other in others:
            found = []
            for first, second in zip(one, other, strict=True):
                both = intersection(first, second)
                if not both:
                    break
                found.append(both)
            else:
                yield tuple(found)
