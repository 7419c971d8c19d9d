"""A packet's predicted way beside the one that the kernel took, as lines of text."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest

from istio_init.netfilter.rules import Store
from istio_init.report.trace_text import verdict_line
from istio_init.trace.observed import matched, place_of
from istio_init.trace.result import Kind
from istio_init.visible import visible
from istio_init.wording.traces import packet_words, table_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.trace.observed import Observed, Place
    from istio_init.trace.result import Leg, Trace
    from istio_init.wording.traces import Reader

    Row = tuple[str, str, str]
    """What was predicted, what the kernel did, and the rule's text."""

NONE = "no rule matches"


def live_lines(
    trace: Trace,
    followed: Trace,
    reader: Reader,
    seen: Observed,
    differs: str | None,
    caveats: tuple[str, ...] = (),
) -> list[str]:
    """The lines; where prediction and kernel differ, the rule is marked.

    ``followed`` is the trace with the order of chains that the kernel has, where the rules do not tell it.
    """
    hops = [hop for leg in followed.legs for hop in leg.hops]
    texts = {place_of(hop): visible(hop.rule.origin.text) for hop in hops}
    rows: list[Row] = []
    for leg, places in zip_longest(followed.legs, seen.legs):
        rows += _leg(leg, places, texts)
    if seen.counts is not None:
        rows += _counted(followed, dict(seen.counts), texts)
    width = max(len(predicted) for predicted, _, _ in rows) + 3
    other = max(len(actual) for _, actual, _ in rows) + 3
    table = [f"{predicted:<{width}}{actual:<{other}}{text}".rstrip() for predicted, actual, text in rows]
    verdict = verdict_line(trace, reader, caveats=caveats)
    return [packet_words(trace.packet), *table, verdict, _answer(trace, seen, differs)]


def _answer(trace: Trace, seen: Observed, differs: str | None) -> str:
    """Whether they agree."""
    if differs is not None:
        return f"DISAGREE: {visible(differs)}"
    end = "stopped on the way" if seen.port is None else f"it ends at port {seen.port}"
    if trace.delivered.kind is Kind.UNKNOWN:
        return f"agree as far as it could be predicted; {end}"
    return f"agree: the kernel does what was predicted; {end}"


def _leg(leg: Leg | None, places: tuple[Place, ...] | None, texts: Mapping[Place, str]) -> list[Row]:
    """The rows of one leg, which the prediction or the kernel may not have."""
    title = f"{leg.hook.name} via {visible(leg.interface)}: predicted" if leg is not None else "not predicted"
    predicted: list[Place | None] = [] if leg is None else [*matched(leg, Store.NFT)]
    actual: list[Place | None] = [*(places or ())]
    rows = [(title, "kernel" if places is not None else "kernel: never there", "")]
    for one, other in zip_longest(predicted or [None], actual or [None]):
        mark = "*" if one == other else "!"
        place = one or other
        text = texts.get(place, "") if place is not None else ""
        rows.append((f"  {mark} {_words(one)}", _words(other), text))
    return rows


def _counted(trace: Trace, counts: Mapping[Place, int], texts: Mapping[Place, str]) -> list[Row]:
    """The rows of counters: how often each legacy rule was to match, and how often it did."""
    predicted = Counter(place for leg in trace.legs for place in matched(leg, Store.LEGACY))
    rows = [("legacy: predicted", "kernel: counters that rose", "")]
    for place in dict.fromkeys([*predicted, *counts]):
        mark = "*" if predicted[place] == counts.get(place, 0) else "!"
        times = (f"{predicted[place]} x {place_words(place)}", f"{counts.get(place, 0)} x")
        rows.append((f"  {mark} {times[0]}", times[1], texts.get(place, "")))
    return rows if len(rows) > 1 else [*rows, (f"  * {NONE}", NONE, "")]


def _words(place: Place | None) -> str:
    return NONE if place is None else place_words(place)


def place_words(place: Place) -> str:
    """A rule by its place, for example ``nat OUTPUT 1``."""
    store, family, table, chain, number = place
    return f"{table_words(store, family, table)} {visible(chain)} {number}"
