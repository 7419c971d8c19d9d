"""What a trace says, in words."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import Address, Interface, Protocol
from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.role import Role
from istio_init.mesh.roles.catalogue import CATALOGUE
from istio_init.visible import visible
from istio_init.wording.arguments import endpoint
from istio_init.wording.words import conditions, phrases

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.trace.engine import Hop, Outcome, Trace

LISTENERS = {
    Role.OUTBOUND_REDIRECT: "Envoy's outbound listener",
    Role.INBOUND_REDIRECT: "Envoy's inbound listener",
    Role.TPROXY_CAPTURE: "Envoy's inbound listener",
    Role.DNS_REDIRECT: "the proxy's DNS listener",
    Role.OLDER_DNS_REDIRECT: "the proxy's DNS listener",
    Role.AMBIENT_OUTBOUND: "ztunnel's outbound listener",
    Role.AMBIENT_INBOUND: "ztunnel's inbound listener",
    Role.AMBIENT_DNS: "ztunnel's DNS listener",
}


def conclusion(trace: Trace) -> str:
    """How it ends and why, for example: reaches Envoy's outbound listener 15001, original destination 10.0.0.5:443."""
    packet, outcome, hop = trace.packet, trace.delivered, trace.delivered_by
    goal = endpoint(packet.destination, packet.destination_port or None)
    why = because(outcome, hop).removesuffix(".")
    match outcome.kind:
        case "redirect" | "tproxy":
            role = hop.rule.entry.role if hop is not None else None
            listener = LISTENERS.get(role, "this machine's port") if role is not None else "this machine's port"
            kept = ", both addresses kept" if outcome.kind == "tproxy" else ""
            return f"reaches {listener} {outcome.port}, original destination {goal}{kept}: {why}"
        case "drop":
            return f"dropped by {why}"
        case "unknown":
            return f"cannot tell past this rule: {why}"
        case _:
            return f"goes straight to {goal}: {why}"


def because(outcome: Outcome, hop: Hop | None) -> str:
    """The rule that decided, and why it exists."""
    if hop is None:
        return "the policy of a chain, for what no rule takes" if outcome.kind == "drop" else "no rule takes it"
    entry = hop.rule.entry
    why = CATALOGUE[entry.role].why if entry.role is not None else "a rule that is not Istio's"
    text = visible(entry_text(entry))
    return f"rule {hop.rule.number} of {hop.table.value} {visible(hop.rule.chain)} ({text}): {why}"


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
    return f"“{visible(conditions(phrases(alone)))}”"
