"""The classes of a partition: which packets have which outcome, and how two rule sets differ."""

from __future__ import annotations

from istio_init.model.value import Value
from istio_init.trace.intervals import intersection
from istio_init.trace.partition import Piece, partition
from istio_init.trace.space import Space

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.model.rules import RuleSet
    from istio_init.trace.engine import Outcome
    from istio_init.trace.packet import Direction, Packet
    from istio_init.trace.partition import Decider
    from istio_init.trace.space import Region


class TrafficClass(Value):
    """Packets with one outcome, decided by one rule: the regions that they fill."""

    outcome: Outcome
    decider: Decider | None
    regions: tuple[Region, ...]


class Difference(Value):
    """Packets whose outcome differs between two rule sets, and one of them."""

    before: Outcome
    after: Outcome
    witness: Packet
    region: Region


def classes(rules: RuleSet, direction: Direction) -> tuple[Space, list[TrafficClass]]:
    """All new connections of a direction, in classes; each packet is in exactly one."""
    space = Space(direction, rules.family, [rules])
    found: dict[tuple[Outcome, Decider | None], list[Region]] = {}
    for piece in partition(rules, space):
        found.setdefault((piece.outcome, piece.decider), []).append(piece.region)
    return space, [TrafficClass(*key, regions=tuple(regions)) for key, regions in found.items()]


def differences(before: RuleSet, after: RuleSet, direction: Direction) -> tuple[Space, list[Difference]]:
    """Where two rule sets of a family treat a new connection differently; empty where they are equal in behaviour."""
    space = Space(direction, before.family, [before, after])
    one, other = partition(before, space), partition(after, space)
    return space, list(_differing(space, one, other))


def _differing(space: Space, one: list[Piece], other: list[Piece]) -> Iterator[Difference]:
    for piece in one:
        for counterpart in other:
            if piece.outcome == counterpart.outcome and piece.outcome.kind != "unknown":
                continue
            if piece.outcome == counterpart.outcome and piece.decider == counterpart.decider:
                continue
            region = _common(piece.region, counterpart.region)
            if region is not None:
                yield Difference(piece.outcome, counterpart.outcome, space.packet_in(region), region)


def _common(one: Region, other: Region) -> Region | None:
    found = []
    for first, second in zip(one, other, strict=True):
        both = intersection(first, second)
        if not both:
            return None
        found.append(both)
    return tuple(found)
