"""What was seen of a probe, beside what has to become of it; where they differ, the rule behind it."""

from __future__ import annotations

from ipaddress import ip_address

from istio_init.report.trace_words import because, endpoint
from istio_init.trace.engine import Tracer
from istio_init.verify.model import Probe, Seen, Side, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from istio_init.model.netfilter import Family
    from istio_init.trace.engine import Trace
    from istio_init.trace.packet import Packet

MOST_LINKS = 8
TIMED_OUT = "timed out"
REFUSED = "refused"


class Judge:
    """Knows the live rules, where they may be read.

    ``tracers`` are those of each backend that holds rules, by family, and ``wanted`` those of the configuration that is
    to be proved. ``routed`` tells whether the mark of TPROXY leads to this machine. ``links`` are the interfaces by
    which the namespace is reached in earnest. ``occupant`` names who listens instead of us where a probe has to come
    out. ``blind`` says why the rules cannot be asked, None where they can.
    """

    def __init__(
        self,
        tracers: Mapping[Family, tuple[Tracer, ...]],
        wanted: Mapping[Family, Tracer],
        routed: Mapping[Family, bool],
        links: tuple[str, ...],
        occupant: Callable[[Probe], str | None],
        blind: str | None = None,
    ) -> None:
        self.tracers = tracers
        self.wanted = wanted
        self.links = links
        self.routed = routed
        self.occupant = occupant
        self.blind = blind

    def verdict(self, probe: Probe, seen: Seen) -> Verdict:
        """Whether a probe did what it has to."""
        occupant = self.occupant(probe)
        happened = _difference(probe, seen, occupied=occupant is not None)
        if happened is None:
            note = None
            if occupant is not None:
                port = probe.expected.port or probe.packet.destination_port
                note = f"{occupant} listens on port {port}; that a connection came there is seen, not what it was told"
            return Verdict(probe, True, seen.latency, note=note)
        return Verdict(probe, False, happened=happened, reason=self._reason(probe, seen))

    def elsewhere(self, probes: tuple[Probe, ...]) -> tuple[str, ...]:
        """Rules that decide otherwise by the namespace's own interfaces, which no probe comes or leaves by."""
        found: dict[str, None] = {}
        for probe in probes if self.blind is None else ():
            if probe.packet.interface == "lo" or probe.packet.interface in self.links:
                continue
            for link in self.links[:MOST_LINKS]:
                packet = probe.packet.replace(interface=link)
                expected = self.wanted[probe.family].trace(packet).delivered
                for tracer in self.tracers.get(probe.family, ()):
                    here, there = tracer.trace(probe.packet), tracer.trace(packet)
                    if here.delivered == probe.expected and there.delivered != expected:
                        direction = packet.direction.value
                        found[f"{direction} by {link}: {because(there.delivered, there.delivered_by)}"] = None
        return tuple(found)

    def _reason(self, probe: Probe, seen: Seen) -> str:
        """Which rule decided it, or what else could have."""
        if self.blind is not None:
            return f"which rule decides it is not known: {self.blind}"
        packet = _real(probe.packet, seen)
        traces = [tracer.trace(packet) for tracer in self.tracers.get(probe.family, ())]
        for trace in traces:
            if (trace.delivered.kind, trace.delivered.port) != (probe.expected.kind, probe.expected.port):
                return because(trace.delivered, trace.delivered_by)
        if probe.expected.kind == "tproxy" and not self.routed.get(probe.family, True):
            return (
                f"the rules hand it to port {probe.expected.port}, but no {probe.family.value} routing rule with a "
                "local route leads what they mark to this machine"
            )
        if not traces:
            return "no rule takes it" if probe.is_captured else "no rule stops it; something else does"
        return f"not the rules, as far as they can be followed: {_predicted(traces[0])}"


def _predicted(trace: Trace) -> str:
    outcome = trace.delivered
    if outcome.kind == "direct":
        return "they let it go straight"
    return f"they send it to port {outcome.port}" if outcome.port is not None else outcome.kind


def _real(packet: Packet, seen: Seen) -> Packet:
    """The packet with the source that the kernel chose."""
    if seen.source is None:
        return packet
    return packet.replace(source=ip_address(seen.source[0]), source_port=seen.source[1])


def _difference(probe: Probe, seen: Seen, *, occupied: bool) -> str | None:
    """In what a probe's fate is not what was expected; None where it is."""
    if (where := _elsewhere(probe, seen, occupied=occupied)) is not None:
        return where
    arrival = seen.arrival
    assert arrival is not None
    meant = str(probe.packet.destination), probe.packet.destination_port
    if arrival.original is not None and probe.packet.protocol == "tcp" and arrival.original != meant:
        host, port = arrival.original
        return f"the listener was told another destination: {endpoint(ip_address(host), port)}"
    if probe.expected.kind == "tproxy" and seen.source and arrival.peer not in (None, seen.source[0]):
        return f"the listener sees {arrival.peer} instead of the client's address"
    if seen.latency is None and not occupied:
        return "it came there, but no answer came back"
    return None


def _elsewhere(probe: Probe, seen: Seen, *, occupied: bool) -> str | None:
    """Where it came out instead, or what stopped it; None where it came out at the right place."""
    goal = probe.packet.destination_port
    side = Side.POD if probe.is_captured else probe.waits
    port = probe.expected.port if probe.is_captured else goal
    arrival = seen.arrival
    if arrival is not None and (arrival.side, arrival.port) == (side, port):
        return None
    if arrival is None:
        ended = {REFUSED: "it was refused: nobody listens where it came to", TIMED_OUT: "it timed out"}
        if seen.failure is None:
            return "it reached somebody else" if not occupied else "it reached somebody, but not at that port"
        return ended.get(seen.failure, seen.failure)
    if probe.is_captured and arrival.port == goal and arrival.side is (probe.waits or Side.NEIGHBOUR):
        return "it reached its destination directly"
    loop = ": it would loop" if "proxy" in probe.who and not probe.is_captured else ""
    return f"it came to port {arrival.port}{' of the second namespace' * (arrival.side is Side.NEIGHBOUR)}{loop}"
