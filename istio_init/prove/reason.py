"""Why a probe fared as it did: what the tracer says of the live rules, and what else could have decided it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.iptables.targets import Jump
from istio_init.inspector.findings.model import View
from istio_init.netfilter.family import Family
from istio_init.observe.unread import Part
from istio_init.system.spots import NO_SOURCE
from istio_init.trace.assume import local_marks
from istio_init.trace.engine import Outcome, Tracer
from istio_init.trace.hooks import LOOPBACK
from istio_init.trace.packet import Direction
from istio_init.visible import visible
from istio_init.wording.trace_words import because

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.observe.snapshot import Snapshot
    from istio_init.system.spots import Probe, Seen
    from istio_init.trace.engine import Trace
    from istio_init.trace.packet import Packet

MOST_LINKS = 8
UNKNOWN = Outcome("unknown")
DECIDING = frozenset([Part.RULES_NFT, Part.RULES_LEGACY, Part.ROUTING_RULES])
"""Without these nothing can be said of what decided."""


class Live:
    """The live rules of a snapshot, to be asked about probes.

    ``links`` are the interfaces by which the namespace is reached in earnest. ``blind`` says why the rules cannot be
    asked, None where they can.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        main = View(snapshot).backend
        self.main: dict[Family, Tracer] = {}
        self.others: list[Tracer] = []
        for (backend, family), rules in snapshot.rules.items():
            tracer = Tracer(rules, local_marks(snapshot, rules))
            if backend == main:
                self.main[family] = tracer
            else:
                self.others.append(tracer)
        self.routed = {family: bool(local_marks(snapshot, RuleSet(family))) for family in Family}
        self.links = tuple(each.name for each in snapshot.interfaces if each.is_up and each.name != "lo")
        self.native = tuple(
            visible(f"{each.family} {each.table} {each.name} at hook {each.hook}")
            for each in snapshot.native
            if each.hook is not None and each.rules
        )
        unread = any(each.part in DECIDING for each in snapshot.unread)
        self.blind = "the rules cannot be read here" if snapshot.partial or unread else None

    def reason(self, probe: Probe, seen: Seen) -> str:
        """Which rule decided it, or what else could have."""
        if seen.failure == NO_SOURCE and probe.bind is not None:
            return f"{probe.bind} is missing on lo, which the proxy needs as a source"
        if self.blind is not None:
            return f"which rule decides it is not known: {self.blind}"
        packet = probe.packet
        if seen.source is not None:
            packet = packet.replace(source=ip_address(seen.source[0]), source_port=seen.source[1])
        trace = self._trace(packet)
        if trace.delivered not in (probe.expected, UNKNOWN):
            return because(trace.delivered, trace.delivered_by).removesuffix(".") + _led_there(trace)
        for other in self._others(packet, probe.expected):
            if other.delivered.kind not in ("direct", "unknown"):
                return because(other.delivered, other.delivered_by)
        if trace.delivered == UNKNOWN:
            return f"the rules cannot be followed past {because(trace.delivered, trace.delivered_by)}"
        if probe.expected.kind == "tproxy" and not self.routed[probe.family]:
            return (
                f"the rules hand it to port {probe.expected.port}, but no {probe.family.value} routing rule with a "
                "local route leads what they mark to this machine"
            )
        others = f"; perhaps the nftables chain {', '.join(self.native)}" if self.native else ""
        return f"not the rules of iptables, as far as they can be followed: {_words(trace.delivered)}{others}"

    def elsewhere(self, probes: tuple[Probe, ...], wanted: Mapping[Family, Tracer]) -> tuple[list[str], list[str]]:
        """Rules that decide otherwise by the namespace's own interfaces, and such as cannot be followed there.

        No probe comes or leaves by those. ``wanted`` are tracers of the rules that the configuration calls for.
        """
        found: dict[str, None] = {}
        doubts: dict[str, None] = {}
        for probe in probes if self.blind is None else ():
            if probe.packet.interface == "lo" or self._trace(probe.packet).delivered != probe.expected:
                continue
            for link in self.links[:MOST_LINKS]:
                packet = probe.packet.replace(interface=link)
                trace = self._trace(packet)
                why = f"{packet.direction.value} by {visible(link)}: {{}}{because(trace.delivered, trace.delivered_by)}"
                if trace.delivered == UNKNOWN:
                    doubts[why.format("the rules cannot be followed past ")] = None
                elif trace.delivered != wanted[probe.family].trace(packet).delivered:
                    found[why.format("")] = None
        return list(found), list(doubts)

    def _trace(self, packet: Packet) -> Trace:
        return (self.main.get(packet.family) or Tracer(RuleSet(packet.family))).trace(packet)

    def _others(self, packet: Packet, expected: Outcome) -> Iterator[Trace]:
        """What the backend without the redirection says: of the packet, and of what the redirection makes of it."""
        packets = [packet]
        if expected.kind == "redirect" and expected.port is not None:
            family, outbound = packet.family, packet.direction is Direction.OUTBOUND
            here = LOOPBACK[family] if outbound else int(packet.destination)
            packets.append(
                packet.replace(
                    direction=Direction.INBOUND,
                    destination=IPv4Address(here) if family is Family.IPV4 else IPv6Address(here),
                    destination_port=expected.port,
                    interface="lo" if outbound else packet.interface,
                    uid=None,
                    gid=None,
                )
            )
        for tracer in self.others:
            if tracer.family is packet.family:
                yield from map(tracer.trace, packets)


def _led_there(trace: Trace) -> str:
    """The rule that jumped to the chain in which it was decided, as the end of a sentence; empty where none did."""
    last = trace.delivered_by
    hops = [hop for leg in trace.legs for hop in leg.hops]
    if last is None or last not in hops:
        return ""
    for hop in reversed(hops[: hops.index(last)]):
        if hop.matched and hop.table is last.table and hop.rule.entry.rule.target == Jump(last.rule.chain):
            text = visible(entry_text(hop.rule.entry))
            return f"; it came there by rule {hop.rule.number} of {hop.table.value} {visible(hop.rule.chain)} ({text})"
    return ""


def _words(outcome: Outcome) -> str:
    if outcome.kind == "direct":
        return "they let it go straight"
    return f"they send it to port {outcome.port}" if outcome.port is not None else outcome.kind
