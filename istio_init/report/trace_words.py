"""What a trace says, in words."""

from __future__ import annotations

from istio_init.dialects.save import entry_text
from istio_init.inspector.words import conditions, phrases
from istio_init.model.matches import Address, Interface, Protocol
from istio_init.model.rules import Rule
from istio_init.roles.catalogue import CATALOGUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from istio_init.trace.engine import Hop, Trace
    from istio_init.trace.packet import Packet

PROXY_PORTS = {15001: "Envoy's outbound listener", 15006: "Envoy's inbound listener", 15053: "the proxy's DNS listener"}


def verdict_words(trace: Trace) -> str:
    """For example: reaches Envoy's outbound listener, port 15001, original destination 10.0.0.5:443."""
    packet, outcome = trace.packet, trace.delivered
    shown = f"[{packet.destination}]" if packet.destination.version == 6 else str(packet.destination)
    goal = f"{shown}:{packet.destination_port}" if packet.destination_port else shown
    match outcome.kind:
        case "redirect" | "tproxy":
            listener = PROXY_PORTS.get(outcome.port or 0, "a listener of this machine")
            kept = ", both addresses kept" if outcome.kind == "tproxy" else ""
            return f"reaches {listener}, port {outcome.port}, original destination {goal}{kept}"
        case "drop":
            return "is dropped"
        case "unknown":
            return "cannot be told past this rule"
        case _:
            return f"goes straight to {goal}"


def because(trace: Trace) -> str:
    """The rule that decided, and why it exists."""
    hop = trace.decided_by
    if hop is None:
        return "no rule takes it" if trace.outcome.kind != "drop" else "the chain's policy drops what no rule takes"
    entry = hop.rule.entry
    why = f": {CATALOGUE[entry.role].why}" if entry.role is not None else ""
    return f"rule {hop.rule.number} of {hop.table.value} {hop.rule.chain} ({entry_text(entry)}){why}"


def missed(hop: Hop) -> str:
    """Why a rule did not match."""
    if hop.matched is None:
        return f"cannot tell: {_part(hop)} is not known here"
    return f"no: it is not {_part(hop)}" if hop.missed is not None else "no"


def _part(hop: Hop) -> str:
    part, rule = hop.missed, hop.rule.entry.rule
    match part:
        case Protocol():
            alone = Rule(protocol=part)
        case Address():
            alone = Rule(source=part) if part is rule.source else Rule(destination=part)
        case Interface():
            alone = Rule(in_interface=part) if part is rule.in_interface else Rule(out_interface=part)
        case _:
            alone = Rule(matches=(part,))  # type: ignore[arg-type]
    return f"“{conditions(phrases(alone))}”"


def packet_arguments(packet: Packet) -> str:
    """The packet as arguments of ``istio-init trace``."""
    source = endpoint(packet.source, packet.source_port)
    destination = endpoint(packet.destination, packet.destination_port)
    words = [packet.direction.value, packet.protocol, destination, "--src", source, "--interface", packet.interface]
    if packet.uid is not None:
        words += ["--uid", str(packet.uid), "--gid", str(packet.gid)]
    if packet.mark:
        words += ["--mark", f"{packet.mark:#x}"]
    return " ".join(words)


def endpoint(address: IPv4Address | IPv6Address, port: int) -> str:
    """Address and port, IPv6 in brackets."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
