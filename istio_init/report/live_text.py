"""A packet's predicted way beside the one that the kernel took, as lines of text."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest

from istio_init.dialects.iptables.save import entry_text
from istio_init.report.trace_text import packet_line, verdict_line
from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.trace.engine import Hop, Leg, Trace
    from istio_init.trace.observed import Observed, Place

NONE = "no rule matches"


def live_lines(trace: Trace, seen: Observed, differs: str | None) -> list[str]:
    """The lines; where prediction and kernel differ, the rule is marked."""
    rows: list[tuple[str, str, str]] = []
    if seen.legs is None:
        rows += _counted(trace, seen)
    else:
        for leg, places in zip_longest(trace.legs, seen.legs):
            rows += _leg(leg, places)
    width = max(len(predicted) for predicted, _, _ in rows) + 3
    other = max(len(actual) for _, actual, _ in rows) + 3
    table = [f"{predicted:<{width}}{actual:<{other}}{text}".rstrip() for predicted, actual, text in rows]
    return [packet_line(trace.packet), *table, verdict_line(trace), _answer(trace, seen, differs)]


def _answer(trace: Trace, seen: Observed, differs: str | None) -> str:
    """Whether they agree."""
    if differs is not None:
        return f"DISAGREE: {visible(differs)}"
    end = "stopped on the way" if seen.port is None else f"in the end it goes to port {seen.port}"
    if trace.delivered.kind == "unknown":
        return f"agree as far as it could be predicted; {end}"
    return f"agree: the kernel does what was predicted; {end}"


def _leg(leg: Leg | None, places: tuple[Place, ...] | None) -> list[tuple[str, str, str]]:
    """The rows of one leg, which the prediction or the kernel may not have."""
    title = f"{leg.hook} by {visible(leg.interface)}" if leg is not None else "not predicted"
    texts = {} if leg is None else {_words(_place(hop)): visible(entry_text(hop.rule.entry)) for hop in leg.hops}
    predicted = [] if leg is None else [_words(_place(hop)) for hop in leg.hops if hop.matched]
    actual = [_words(place) for place in places or ()]
    rows = [(f"{title}: predicted", "kernel" if places is not None else "kernel: never there", "")]
    for one, other in zip_longest(predicted or [NONE], actual or [NONE], fillvalue=""):
        mark = "*" if one == other else "!"
        rows.append((f"  {mark} {one}", other, texts.get(one or other, "")))
    return rows


def _counted(trace: Trace, seen: Observed) -> list[tuple[str, str, str]]:
    """The rows of counters: how often each rule was to match, and how often it did."""
    hops = [hop for leg in trace.legs for hop in leg.hops]
    texts = {_place(hop): visible(entry_text(hop.rule.entry)) for hop in hops}
    predicted = Counter(_place(hop) for hop in hops if hop.matched)
    counts = dict(seen.counts)
    rows = [("predicted", "kernel: counters that rose", "")]
    for place in dict.fromkeys([*predicted, *counts]):
        mark = "*" if predicted[place] == counts.get(place, 0) else "!"
        times = (f"{predicted[place]} x {_words(place)}", f"{counts.get(place, 0)} x")
        rows.append((f"  {mark} {times[0]}", times[1], texts.get(place, "")))
    return rows if len(rows) > 1 else [*rows, (f"  * {NONE}", NONE, "")]


def _place(hop: Hop) -> Place:
    return hop.table.value, hop.rule.chain, hop.rule.number


def _words(place: Place) -> str:
    table, chain, number = place
    return f"{table} {visible(chain)} {number}"
