"""A trace as JSON values; see istio_init/schemas/trace.schema.json."""

from __future__ import annotations

from istio_init.dialects.iptables.save import entry_text
from istio_init.wording.trace_words import because, missed
from istio_init.wording.words import action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.trace.engine import Hop, Leg, Outcome, Trace
    from istio_init.trace.packet import Packet


def trace_json(trace: Trace, depends_on: tuple[str, ...] = (), caveats: tuple[str, ...] = ()) -> dict[str, object]:
    """The trace of one packet; ``caveats`` are what the kernel asks as well, and was not looked at."""
    return {
        "schema": 1,
        "packet": packet_json(trace.packet),
        "legs": [_leg(leg) for leg in trace.legs],
        "verdict": {**_outcome(trace.outcome), "because": because(trace.outcome, trace.decided_by)},
        "delivered": {**_outcome(trace.delivered), "because": because(trace.delivered, trace.delivered_by)},
        "depends_on": list(depends_on),
        "caveats": list(caveats),
    }


def packet_json(packet: Packet) -> dict[str, object]:
    """A packet, as ``--batch`` reads it."""
    return {
        "direction": packet.direction.value,
        "family": packet.family.value,
        "proto": packet.protocol,
        "src": str(packet.source),
        "sport": packet.source_port,
        "dst": str(packet.destination),
        "dport": packet.destination_port,
        "uid": packet.uid,
        "gid": packet.gid,
        "interface": packet.interface,
        "mark": packet.mark,
        "ctstate": packet.ctstate,
    }


def _leg(leg: Leg) -> dict[str, object]:
    return {"hook": leg.hook, "interface": leg.interface, "hops": [_hop(hop) for hop in leg.hops]}


def _hop(hop: Hop) -> dict[str, object]:
    entry = hop.rule.entry
    return {
        "hook": hop.hook,
        "table": hop.table.value,
        "chain": hop.rule.chain,
        "rule": hop.rule.number,
        "text": entry_text(entry),
        "role": entry.role.value if entry.role else None,
        "matched": hop.matched,
        "action": action(entry.rule) if hop.matched else missed(hop),
    }


def _outcome(outcome: Outcome) -> dict[str, object]:
    return {"kind": outcome.kind, "port": outcome.port}
