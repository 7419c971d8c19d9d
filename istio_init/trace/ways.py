"""Several ways of one packet: which of them are the same, and on which decisions it hinges how they end."""

from __future__ import annotations

from istio_init.trace.result import Outcome
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.netfilter.rules import Cause
    from istio_init.trace.result import Hop
    from istio_init.trace.state import DecidedBy, Decision, State

    Because = frozenset[Decision]

MOST_RESOLVED = 64
"""Of so many conditions at most it is found out which can be stated as one."""


class Open(Value):
    """An undecidable decision: why, and the rule that it stands in, if it does."""

    causes: tuple[Cause, ...]
    hop: Hop | None = None


class Finish(Value):
    """How one way ended: first its first leg, then all of it.

    ``cause`` is set where it is undecidable what then becomes of the packet.
    """

    state: State
    outcome: Outcome
    decided_by: DecidedBy
    delivered: Outcome
    delivered_by: DecidedBy
    cause: Cause | None = None


def merged(states: list[State]) -> list[State]:
    """The different ones of states at the same place, the main way first; what they differed in no longer matters."""
    groups: dict[tuple[object, ...], list[State]] = {}
    for state in states:
        groups.setdefault(state.key(), []).append(state)
    if len(groups) == len(states):
        return states
    kept = []
    for same in groups.values():
        main = next((state for state in same if state.steps is not None), same[0])
        if len(same) > 1:
            left = resolved({state.because for state in same})
            main.because = frozenset.intersection(*left)
        kept.append(main)
    return kept


def resolved(conditions: Iterable[Because]) -> set[Because]:
    """Conditions stated shorter: where all ways of a decision lead on, it is left out."""
    found = set(conditions)
    if len(found) > MOST_RESOLVED:
        return found
    while True:
        holding: dict[Decision, list[Because]] = {}
        for condition in found:
            for decision in condition:
                holding.setdefault(decision, []).append(condition)
        shorter = next(filter(None, (_shorter(condition, found, holding) for condition in found)), None)
        if shorter is None:
            return {each for each in found if not any(other < each for other in found)}
        rest, replaced = shorter
        found = (found - replaced) | {rest}


def _shorter(
    condition: Because, found: set[Because], holding: dict[Decision, list[Because]]
) -> tuple[Because, set[Because]] | None:
    smaller = [each for each in found if each < condition]
    for decision in condition:
        place, _, ways = decision
        rest = condition - {decision}
        siblings = {way: rest | {way} for way in ((place, number, ways) for number in range(ways))}
        # What holds along a way names that way, or holds along all of them.
        if any(each <= rest for each in smaller) or all(
            any(each <= sibling for each in holding.get(way, ())) for way, sibling in siblings.items()
        ):
            return rest, set(siblings.values())
    return None


def relevant(finishes: Iterable[Finish]) -> set[object]:
    """The places of decisions on which it hinges how ways end; empty where all end the same."""
    by_end: dict[tuple[Outcome, Outcome], set[Because]] = {}
    for each in finishes:
        by_end.setdefault((each.outcome, each.delivered), set()).add(each.state.because)
    if len(by_end) < 2:
        return set()
    left = [condition for conditions in by_end.values() for condition in resolved(conditions)]
    places = {place for condition in left for place, _, _ in condition}
    return places or {place for conditions in by_end.values() for each in conditions for place, _, _ in each}
