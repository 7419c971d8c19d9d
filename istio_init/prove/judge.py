"""What was seen of a probe, beside what has to become of it."""

from __future__ import annotations

from ipaddress import ip_address

from istio_init.netfilter.protocols import TCP
from istio_init.prove.model import Verdict
from istio_init.system.spots import REFUSED, TIMED_OUT, Probe, Seen, Side
from istio_init.trace.result import Kind, Outcome
from istio_init.wording.outcomes import outcome_words
from istio_init.wording.traces import endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.prove.reason import Live


def verdict(probe: Probe, seen: Seen, live: Live, occupant: str | None) -> Verdict:
    """Whether a probe did what it has to, and if not, what the live rules say of it.

    ``occupant`` is who listens instead of us where it has to come out.
    """
    happened = _difference(probe, seen, live.reader.proxy_ports, occupied=occupant is not None)
    if happened is not None:
        return Verdict(probe, False, happened=happened, reason=live.reason(probe, seen))
    note = None
    if occupant is not None:
        port = probe.expected.port or probe.packet.destination_port
        note = f"{occupant} listens on port {port}; that a connection arrived there is seen, not what it was told"
    return Verdict(probe, True, seen.latency, note=note)


def _difference(probe: Probe, seen: Seen, proxy_ports: frozenset[int], *, occupied: bool) -> str | None:
    """In what a probe's fate is not what was expected; None where it is."""
    if (where := _elsewhere(probe, seen, proxy_ports, occupied=occupied)) is not None:
        return where
    arrival = seen.arrival
    assert arrival is not None
    meant = str(probe.packet.destination), probe.packet.destination_port
    if arrival.original is not None and probe.packet.protocol == TCP and arrival.original != meant:
        host, port = arrival.original
        return f"the listener was told another destination: {endpoint(ip_address(host), port)}"
    if probe.expected.kind is Kind.TPROXY and seen.source and arrival.peer not in (None, seen.source[0]):
        return f"the listener sees {arrival.peer} instead of the client's address"
    if seen.latency is None and not occupied:
        return "it arrived there, but no answer came back"
    return None


def _elsewhere(probe: Probe, seen: Seen, proxy_ports: frozenset[int], *, occupied: bool) -> str | None:
    """Where it came out instead, or what stopped it; None where it came out at the right place."""
    goal = probe.packet.destination_port
    side = Side.POD if probe.is_captured else probe.waits
    port = probe.expected.port if probe.is_captured else goal
    arrival = seen.arrival
    if arrival is not None and (arrival.side, arrival.port) == (side, port):
        return None
    if arrival is None:
        ended = {REFUSED: "refused: nothing listens where it arrived, or a rule rejects it", TIMED_OUT: "it timed out"}
        if seen.failure is None:
            return "it reached another listener" if not occupied else "it reached a listener, but not at that port"
        return ended.get(seen.failure, seen.failure)
    if probe.is_captured and arrival.port == goal and arrival.side is (probe.waits or Side.NEIGHBOUR):
        return "direct: it reached its destination"
    is_proxy = "proxy" in probe.who or "ztunnel" in probe.who
    loop = ": it would loop" if is_proxy and not probe.is_captured else ""
    if arrival.side is Side.NEIGHBOUR:
        return f"it arrived at port {arrival.port} of the second namespace{loop}"
    return f"{outcome_words(Outcome(Kind.REDIRECT, arrival.port), proxy_ports)}{loop}"
