"""A trace as lines of text: each rule looked at, the jumps indented, and the end in words."""

from __future__ import annotations

from istio_init.dialects.save import entry_text
from istio_init.inspector.words import action
from istio_init.report.trace_words import because, endpoint, missed, verdict_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.trace.engine import Hop, Leg, Trace
    from istio_init.trace.packet import Packet

SIGNS = {True: "*", False: " ", None: "?"}


def trace_lines(trace: Trace, depends_on: tuple[str, ...] = ()) -> list[str]:
    """The lines; the last one is the verdict."""
    lines = [_packet(trace.packet)]
    for leg in trace.legs:
        lines += _leg(leg)
    hinges = f"; it hinges on {', '.join(depends_on)}, which was assumed" if depends_on else ""
    lines.append(f"=> {verdict_words(trace)}: {because(trace).removesuffix('.')}{hinges}")
    return lines


def _packet(packet: Packet) -> str:
    who = f", user {packet.uid}, group {packet.gid}" if packet.uid is not None else ""
    mark = f", mark {packet.mark:#x}" if packet.mark else ""
    source = endpoint(packet.source, packet.source_port)
    destination = endpoint(packet.destination, packet.destination_port)
    return (
        f"{packet.direction.value} {packet.protocol} {source} -> {destination}"
        f" by {packet.interface}{who}{mark}, {packet.ctstate}"
    )


def _leg(leg: Leg) -> list[str]:
    lines = [f"{leg.hook} by {leg.interface}"]
    place = ""
    for hop in leg.hops:
        where = f"{hop.table.value} {hop.rule.chain}"
        if where != place:
            place = where
            lines.append(f"  {where}")
        lines.append(_hop(hop))
    if not leg.hops:
        lines.append("  no rule is looked at")
    return lines


def _hop(hop: Hop) -> str:
    entry = hop.rule.entry
    said = action(entry.rule) if hop.matched else missed(hop)
    role = f"  # {entry.role.value}" if entry.role and hop.matched else ""
    return f"  {SIGNS[hop.matched]} {hop.rule.number:>3} {entry_text(entry)}  => {said}{role}"
