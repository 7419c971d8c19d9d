"""A trace as lines of text: each rule looked at, the jumps indented, and the end in words."""

from __future__ import annotations

from istio_init.dialects.iptables.save import entry_text
from istio_init.trace.packet import PORT_PROTOCOLS, Direction
from istio_init.visible import visible
from istio_init.wording.arguments import endpoint
from istio_init.wording.trace_words import conclusion, missed
from istio_init.wording.words import action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.trace.engine import Hop, Leg, Trace
    from istio_init.trace.packet import Packet

SIGNS = {True: "*", False: " ", None: "?"}


def trace_lines(trace: Trace, depends_on: tuple[str, ...] = (), caveats: tuple[str, ...] = ()) -> list[str]:
    """The lines; the last one is the verdict."""
    lines = [packet_line(trace.packet)]
    for leg in trace.legs:
        lines += _leg(leg)
    return [*lines, verdict_line(trace, depends_on, caveats)]


def verdict_line(trace: Trace, depends_on: tuple[str, ...] = (), caveats: tuple[str, ...] = ()) -> str:
    """How it ends, why, on what that hinges, and what was not looked at."""
    assumed = "which was assumed" if len(depends_on) == 1 else "which were assumed"
    hinges = f"; it hinges on {', '.join(depends_on)}, {assumed}" if depends_on else ""
    unless = f"; unless what is not looked at decides otherwise: {', '.join(caveats)}" if caveats else ""
    return f"=> {conclusion(trace)}{hinges}{unless}"


def packet_line(packet: Packet) -> str:
    """The packet in a line."""
    has_ports = packet.protocol in PORT_PROTOCOLS
    source = endpoint(packet.source, packet.source_port if has_ports else None)
    destination = endpoint(packet.destination, packet.destination_port if has_ports else None)
    who = ""
    if packet.direction is Direction.OUTBOUND:
        who = ", no socket" if packet.uid is None else f", user {packet.uid}, group {packet.gid}"
    mark = f", mark {packet.mark:#x}" if packet.mark else ""
    direction, protocol, interface = packet.direction.value, visible(packet.protocol), visible(packet.interface)
    return f"{direction} {protocol} {source} -> {destination} by {interface}{who}{mark}, {packet.ctstate}"


def _leg(leg: Leg) -> list[str]:
    lines = [f"{leg.hook} by {visible(leg.interface)}"]
    place: tuple[object, ...] = ()
    for hop in leg.hops:
        where = hop.hook, hop.table, hop.rule.chain
        if where != place:
            hook = f" ({hop.hook})" if hop.hook not in (leg.hook, hop.rule.chain) else ""
            lines.append(f"  {hop.table.value} {visible(hop.rule.chain)}{hook}")
            place = where
        lines.append(_hop(hop))
    if not leg.hops:
        lines.append("  no rule is looked at")
    return lines


def _hop(hop: Hop) -> str:
    entry = hop.rule.entry
    said = visible(action(entry.rule)) if hop.matched else missed(hop)
    role = f"  # {entry.role.value}" if entry.role and hop.matched else ""
    return f"  {SIGNS[hop.matched]} {hop.rule.number:>3} {visible(entry_text(entry))}  => {said}{role}"
