"""What becomes of packets that take one of some ways, and what decides that."""

from __future__ import annotations

from itertools import permutations

from istio_init.netfilter.rules import Cause
from istio_init.space.bits import together
from istio_init.space.composing import resolved, resolved_parts
from istio_init.space.diagram import Moved, leaves
from istio_init.space.ways import Decider, Ends, Parts, RuleDecider, Way
from istio_init.trace.result import Kind, Outcome
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.space.diagram import Diagrams, Node, Substitute

UNKNOWN = Outcome(Kind.UNKNOWN)

MOST_PINS = 16
"""Of so many numbers at most it is told whether a packet has them already."""


class Verdict(Value):
    """What becomes of packets, what decided it, and, where that is UNKNOWN, why.

    The outcome's port and address are None where they stay what they were, too.
    """

    outcome: Outcome
    decider: Decider | None
    causes: tuple[Cause, ...] = ()


def verdicts(diagrams: Diagrams, ends: Node) -> Node:
    """What becomes of packets in place of the ways that they can take.

    Where one way keeps a port or an address and another one sets it, packets that have it already go the same.
    """

    def change(found: Ends) -> Node:
        return _told_apart(diagrams, found, _pins(found), {})

    if any(_pins(found) for found in leaves(ends)):
        return diagrams.grafted(ends, change)
    return diagrams.mapped(ends, lambda found: diagrams.leaf(verdict_of(found)))


def _told_apart(diagrams: Diagrams, ends: Ends, pins: dict[int, set[int]], known: dict[int, Substitute]) -> Node:
    """The verdict, for each of some numbers by itself."""
    if not pins:
        return diagrams.leaf(verdict_of(ends, known))
    (dim, numbers), *more = pins.items()
    there = {each: _told_apart(diagrams, ends, dict(more), {**known, dim: each}) for each in sorted(numbers)}
    return diagrams.at(dim, there, _told_apart(diagrams, ends, dict(more), known))


def _pins(ends: Ends) -> dict[int, set[int]]:
    """By dimension the numbers for which a way that keeps it is the same as another one."""
    if len(ends.ways) < 2:
        return {}
    deliveries = {id(way.delivery): way.delivery for way in ends.ways if way.stop is None and way.delivery is not None}
    if len(deliveries) < 2:
        return {}
    found: dict[int, set[int]] = {}
    ports = [each.port for each in deliveries.values()]
    addresses = [each.address for each in deliveries.values()]
    pairs: list[tuple[object, object]] = [*permutations(ports, 2)]
    for one, other in permutations(addresses, 2):
        if isinstance(one, Parts):
            set_to = dict(other.values) if isinstance(other, Parts) else {}
            pairs += [
                (part, together(other, mask) if isinstance(other, int) else set_to.get(mask))
                for mask, part in one.values
            ]
    for kept, number in pairs:
        if isinstance(kept, Moved) and isinstance(number, int):
            found.setdefault(kept.dim, set()).add(number ^ kept.flipped)
    return dict(sorted(found.items())) if sum(map(len, found.values())) <= MOST_PINS else {}


def outcome_of(way: Way, known: dict[int, Substitute] | None = None) -> Outcome:
    """What becomes of packets that take a way, of whose dimensions some are known."""
    if way.stop is not None:
        return Outcome(way.stop.kind)
    if way.delivery is None:
        return Outcome(Kind.DIRECT)
    port, address = way.delivery.port, way.delivery.address
    if known:
        port, address = None if port is None else resolved(port, known), resolved_parts(address, known)
    return Outcome(
        way.delivery.kind, port if isinstance(port, int) else None, address if isinstance(address, int) else None
    )


def decider_of(way: Way) -> Decider | None:
    """What decides that."""
    if way.stop is not None:
        return way.stop.decider
    passed = way.passed or way.returned
    if way.delivery is None:
        return passed
    return passed or way.delivery.decider if way.delivery.kind is Kind.FORWARD else way.delivery.decider


def verdict_of(ends: Ends, known: dict[int, Substitute] | None = None) -> Verdict:
    """What becomes of packets that take one of some ways: UNKNOWN where that makes a difference."""
    told_apart = {(id(way.stop), id(way.delivery)): way for way in ends.ways}
    outcomes = {outcome_of(way, known) for way in told_apart.values()}
    if len(outcomes) == 1 and outcomes != {UNKNOWN}:
        main = ends.main or min(ends.ways, key=repr)
        return Verdict(outcomes.pop(), decider_of(main))
    causes = {doubt.cause for doubt in ends.doubts}
    causes.update(way.stop.cause for way in ends.ways if way.stop is not None and way.stop.cause is not None)
    deciders = {doubt.decider for doubt in ends.doubts}
    deciders.update(decider_of(way) for way in ends.ways if way.stop is not None and way.stop.kind is Kind.UNKNOWN)
    return Verdict(
        UNKNOWN,
        min(deciders, key=rank, default=None),
        tuple(sorted(causes, key=lambda each: (each.openness.value, each.words))),
    )


def rank(decider: Decider | None) -> tuple[int, str, int]:
    if isinstance(decider, RuleDecider):
        origin = decider.rule.origin
        return 0, f"{origin.table} {origin.chain}", origin.number
    return (2, "", 0) if decider is None else (1, repr(decider), 0)
