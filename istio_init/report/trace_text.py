"""A trace as lines of text: each rule evaluated, by table and chain, and the end in words."""

from __future__ import annotations

from istio_init.visible import visible
from istio_init.wording.statements import action_words
from istio_init.wording.traces import NOBODY, conclusion, missed, moves, packet_words, table_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.trace.result import Hop, Leg, Trace
    from istio_init.wording.traces import Reader

SIGNS = {True: "*", False: " ", None: "?"}


def trace_lines(
    trace: Trace, reader: Reader = NOBODY, depends_on: tuple[str, ...] = (), caveats: tuple[str, ...] = ()
) -> list[str]:
    """The lines; the last one is the verdict."""
    lines = [packet_words(trace.packet)]
    moved = ""
    for leg in trace.legs:
        told, moved = _leg(leg, reader, moved)
        lines += told
    return [*lines, verdict_line(trace, reader, depends_on, caveats)]


def verdict_line(
    trace: Trace, reader: Reader = NOBODY, depends_on: tuple[str, ...] = (), caveats: tuple[str, ...] = ()
) -> str:
    """How it ends, why, on which assumed values that depends, and what could not be read."""
    assumed = "which was assumed" if len(depends_on) == 1 else "which were assumed"
    depends = f"; depends on {', '.join(depends_on)}, {assumed}" if depends_on else ""
    unless = f"; not certain: {', '.join(caveats)}" if caveats else ""
    return f"=> {conclusion(trace, reader)}{depends}{unless}"


def _leg(leg: Leg, reader: Reader, moved: str) -> tuple[list[str], str]:
    """The lines, and where the packet has been sent by then."""
    lines = [f"{leg.hook.name} via {visible(leg.interface)}"]
    here: tuple[object, ...] = ()
    for hop in leg.hops:
        origin = hop.rule.origin
        where = hop.hook, origin.store, origin.family, origin.table, origin.chain
        if where != here:
            hook = f" ({hop.hook.name})" if hop.hook is not leg.hook and hop.hook.name != origin.chain else ""
            lines.append(f"  {table_words(origin.store, origin.family, origin.table)} {visible(origin.chain)}{hook}")
            here = where
        lines.append(_hop(hop, reader, moved))
        moved = moves(hop) or moved
    if not leg.hops:
        lines.append("  no rule is evaluated")
    return lines, moved


def _hop(hop: Hop, reader: Reader, moved: str) -> str:
    said = visible(action_words(hop.rule)) if hop.matched else missed(hop, moved)
    role = reader.role(hop.rule) if hop.matched else None
    note = f"  # {role.value}" if role else ""
    return f"  {SIGNS[hop.matched]} {hop.rule.origin.number:>3} {visible(hop.rule.origin.text)}  => {said}{note}"
