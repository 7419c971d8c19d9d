"""A trace as JSON values; see istio_init/schemas/trace.schema.json."""

from __future__ import annotations

from istio_init.netfilter.protocols import protocol_name
from istio_init.trace.result import Kind
from istio_init.wording.outcomes import place, word
from istio_init.wording.statements import action_words
from istio_init.wording.traces import NOBODY, because, missed, undecidable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.packet import Packet
    from istio_init.trace.result import Decider, Hop, Leg, Outcome, Trace
    from istio_init.wording.traces import Reader


def trace_json(
    trace: Trace, reader: Reader = NOBODY, depends_on: tuple[str, ...] = (), caveats: tuple[str, ...] = ()
) -> dict[str, object]:
    """The trace of one packet; ``caveats`` are what could not be read, and may decide otherwise."""
    return {
        "schema": 1,
        "packet": packet_json(trace.packet),
        "legs": [_leg(leg, reader) for leg in trace.legs],
        "verdict": _outcome(trace, trace.outcome, trace.decided_by, reader, is_sure=not caveats),
        "delivered": _outcome(trace, trace.delivered, trace.delivered_by, reader, is_sure=not caveats),
        "causes": [{"why": cause.openness.value, "what": cause.words} for cause in trace.causes],
        "depends_on": list(depends_on),
        "caveats": list(caveats),
    }


def packet_json(packet: Packet) -> dict[str, object]:
    """A packet, as ``--batch`` reads it."""
    return {
        "direction": packet.direction.value,
        "family": packet.family.value,
        "proto": protocol_name(packet.protocol),
        "src": str(packet.source),
        "sport": packet.source_port,
        "dst": str(packet.destination),
        "dport": packet.destination_port,
        "uid": packet.uid,
        "gid": packet.gid,
        "interface": packet.interface,
        "mark": packet.mark,
        "ctstate": packet.state.name,
        "type": packet.icmp_type,
        "code": packet.icmp_code,
        "flags": packet.tcp_flags,
        "length": packet.length,
        "ttl": packet.ttl,
        "tos": packet.tos,
        "pkttype": packet.pkttype,
    }


def _leg(leg: Leg, reader: Reader) -> dict[str, object]:
    return {
        "hook": leg.hook.name,
        "interface": leg.interface,
        "hops": [_hop(hop, reader) for hop in leg.hops],
    }


def _hop(hop: Hop, reader: Reader) -> dict[str, object]:
    origin, role = hop.rule.origin, reader.role(hop.rule)
    return {
        "hook": hop.hook.name,
        "store": origin.store.value,
        "family": origin.family,
        "table": origin.table,
        "chain": origin.chain,
        "rule": origin.number,
        "text": origin.text,
        "role": role.value if role else None,
        "matched": hop.matched,
        "action": action_words(hop.rule) if hop.matched else missed(hop),
    }


def _outcome(
    trace: Trace, outcome: Outcome, decider: Decider | None, reader: Reader, *, is_sure: bool
) -> dict[str, object]:
    """An outcome; with a caveat standing its kind is not a confident one, and ``likely`` has what the rules say."""
    said = word(outcome, reader.proxy_ports).value
    is_told = outcome.kind is not Kind.UNKNOWN or not trace.causes
    why = because(outcome, decider, reader) if is_told else undecidable(trace, reader)
    found: dict[str, object] = {
        "outcome": said if is_sure else "undecidable",
        "kind": outcome.kind.value if is_sure else "unknown",
        "port": outcome.port,
        "to": place(outcome) if outcome.address is not None else None,
        "because": why,
    }
    return found if is_sure else {**found, "likely": outcome.kind.value}
