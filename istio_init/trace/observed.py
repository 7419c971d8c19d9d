"""What a kernel did with a packet that was sent, and whether that is what was predicted."""

from __future__ import annotations

from collections import Counter

from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.trace.engine import Leg, Trace

Place = tuple[str, str, int]
"""Table, chain and number of a rule."""


class Observed(Value):
    """The rules that matched: leg by leg as the kernel's trace tells them, or how often each, by counters.

    ``port`` is the destination port that the packet had in the end; None where it was stopped on the way.
    ``with_answers`` is whether the counters may tell of answers, too.
    """

    legs: tuple[tuple[Place, ...], ...] | None
    counts: tuple[tuple[Place, int], ...] = ()
    port: int | None = None
    with_answers: bool = False


def matched(leg: Leg) -> tuple[Place, ...]:
    """The rules that are predicted to match on a leg."""
    return tuple((hop.table.value, hop.rule.chain, hop.rule.number) for hop in leg.hops if hop.matched)


def disagreement(trace: Trace, seen: Observed) -> str | None:
    """In what the kernel differs from the prediction; None where it does not.

    What cannot be told past some rule is compared up to that rule.
    """
    predicted = tuple(matched(leg) for leg in trace.legs)
    if trace.delivered.kind == "unknown":
        return _beginning(predicted, seen)
    stopped = trace.delivered.kind == "drop"
    if seen.legs is not None and seen.legs != predicted:
        if not stopped and seen.port is None and seen.legs == predicted[: len(seen.legs)]:
            return "the kernel stops it"
        return f"the kernel's rules are {_words(seen.legs)}, predicted are {_words(predicted)}"
    if seen.legs is None and seen.with_answers and (missing := _missing(predicted, seen)) is not None:
        return missing
    counts = Counter(place for leg in predicted for place in leg)
    if seen.legs is None and not seen.with_answers and dict(seen.counts) != counts:
        counted = tuple(place for place, times in seen.counts for _ in range(times))
        return f"the counters that rose are {_words((counted,))}, predicted are {_words(predicted)}"
    if stopped != (seen.port is None):
        return f"the kernel {'lets it pass' if stopped else 'stops it'}"
    if seen.port not in (None, trace.state.dport):
        return f"the kernel delivers it to port {seen.port}, predicted is {trace.state.dport}"
    return None


def _beginning(predicted: tuple[tuple[Place, ...], ...], seen: Observed) -> str | None:
    if seen.legs is None:
        return _missing(predicted, seen)
    *whole, last = predicted
    begun = seen.legs[len(whole)][: len(last)] if len(seen.legs) > len(whole) else ()
    if seen.legs[: len(whole)] == tuple(whole) and begun == last:
        return None
    return f"the kernel's rules are {_words(seen.legs)}, which do not begin with {_words(predicted)}"


def _missing(predicted: tuple[tuple[Place, ...], ...], seen: Observed) -> str | None:
    missing = Counter(place for leg in predicted for place in leg) - Counter(dict(seen.counts))
    return f"these counters did not rise: {_words((tuple(missing),))}" if missing else None


def _words(legs: tuple[tuple[Place, ...], ...]) -> str:
    texts = [", ".join(f"{table} {chain} {number}" for table, chain, number in leg) or "none" for leg in legs]
    return "; then on lo ".join(texts)
