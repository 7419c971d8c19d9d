"""What becomes of packets that take one of some ways, and what decides that."""

from __future__ import annotations

from istio_init.netfilter.rules import Cause
from istio_init.space.ways import Decider, Ends, RuleDecider, Way
from istio_init.trace.result import Kind, Outcome
from istio_init.value import Value

UNKNOWN = Outcome(Kind.UNKNOWN)


class Verdict(Value):
    """What becomes of packets, what decided it, and, where that is UNKNOWN, why.

    The outcome's port and address are None where they stay what they were, too.
    """

    outcome: Outcome
    decider: Decider | None
    causes: tuple[Cause, ...] = ()


def outcome_of(way: Way) -> Outcome:
    """What becomes of packets that take a way."""
    if way.stop is not None:
        return Outcome(way.stop.kind)
    if way.delivery is None:
        return Outcome(Kind.DIRECT)
    port, address = way.delivery.port, way.delivery.address
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


def verdict_of(ends: Ends) -> Verdict:
    """What becomes of packets that take one of some ways: UNKNOWN where that makes a difference."""
    told_apart = {(id(way.stop), id(way.delivery)): way for way in ends.ways}
    outcomes = {outcome_of(way) for way in told_apart.values()}
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
