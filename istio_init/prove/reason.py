"""Why a probe fared as it did: what the tracer says of everything that is live."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.inspector.reader import roles_by_place
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.rules import Dispatch, End
from istio_init.netfilter.stages import Netfilter
from istio_init.observe.unread import Part
from istio_init.system.spots import NO_SOURCE
from istio_init.trace.result import Hop, Kind, ReversePathDecider, RoutingDecider, SocketDecider
from istio_init.trace.routing import Query, Tables
from istio_init.trace.tracer import Tracer
from istio_init.visible import visible
from istio_init.wording.outcomes import outcome_words
from istio_init.wording.traces import Reader, because, rule_place, undecidable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.netfilter.host import Host
    from istio_init.netfilter.packet import Packet
    from istio_init.netfilter.rules import Rule
    from istio_init.observe.snapshot import Snapshot
    from istio_init.prove.subject import Subject
    from istio_init.system.spots import IPAddress, Probe, Seen
    from istio_init.trace.result import Outcome, Trace

MOST_LINKS = 8
STRANGER = {4: 0xC6336401, 6: (0x20010DB8 << 96) | 1}
"""An address of nobody's, by version, for what comes by a default route (RFC 5737, 3849)."""

STOPPED = frozenset([Kind.DROP, Kind.REJECT])
DECIDING = frozenset([Part.NATIVE, Part.ROUTING, Part.ROUTING_RULES, Part.INTERFACES, Part.SETS])
"""Without these another thing may decide than what is known says."""


class Live:
    """What is live, to be asked about probes.

    ``host`` is the namespace as the probes met it, with the interface and the listeners that were there for them;
    ``subject`` is what is proved. ``blind`` says why the rules cannot be asked, None where they can.
    """

    def __init__(self, snapshot: Snapshot, host: Host, subject: Subject) -> None:
        self.host = host
        self.reader = Reader(roles_by_place(snapshot), subject.ports)
        self._local_mark = subject.local_mark
        self.links = tuple(each.name for each in snapshot.interfaces if each.is_up and each.name != "lo")
        self._tracer = Tracer(snapshot.netfilter, host)
        self.blind = "the rules cannot be read here" if snapshot.missing_rules else None
        missing = [each.part.value for each in snapshot.unread if each.part in DECIDING]
        self._unless = f"; not read, and perhaps what decides: {', '.join(dict.fromkeys(missing))}" if missing else ""

    def reason(self, probe: Probe, seen: Seen) -> str:
        """What decided it."""
        if seen.failure == NO_SOURCE and probe.bind is not None:
            return f"{probe.bind} is missing on lo, which the proxy needs as a source"
        if self.blind is not None:
            return f"which rule decides it is not known: {self.blind}"
        packet = probe.packet
        if seen.source is not None:
            packet = packet.replace(source=ip_address(seen.source[0]), source_port=seen.source[1])
        return self._reason(self._tracer.trace(packet), probe) + self._unless

    def _reason(self, trace: Trace, probe: Probe) -> str:
        outcome, decider = trace.delivered, trace.delivered_by
        if outcome.kind is Kind.UNKNOWN:
            return undecidable(trace, self.reader)
        if is_same(outcome, probe.expected):
            if probe.is_transparent and (lost := self._lost_answer(trace)) is not None:
                return lost
            words = outcome_words(outcome, self.reader.proxy_ports)
            return f"by the rules and the routing it is {words}: something else stops it, or its answer"
        if probe.expected.kind is Kind.TPROXY and isinstance(decider, RoutingDecider):
            return (
                f"the rules hand it to port {probe.expected.port}, but no {probe.family.value} routing rule with a "
                f"local route keeps what they mark in the pod: {decider.words}"
            )
        return self._said(trace) + _led_there(trace)

    def _lost_answer(self, trace: Trace) -> str | None:
        """Why what answers a connection from an address of nobody's does not come back; None where it does."""
        packet, mark = trace.packet, self._local_mark
        if mark is None:
            return None
        if trace.state.connection_mark != mark:
            return f"no rule marks the connection {mark:#x}, so that its answers leave for the client instead"
        query = Query(int(packet.source), int(packet.destination), mark=mark)
        routes, _ = Tables(self.host, packet.family).look_up(query) if self.host.routes is not None else ((), ())
        if any(each.type is not AddressType.LOCAL for each in routes):
            return (
                f"answers are marked {mark:#x}, but no {packet.family.value} routing rule with a local route leads "
                "them to this machine"
            )
        return f"its connection is marked {mark:#x}, but no rule gives answers that mark, or another one takes it away"

    def _said(self, trace: Trace) -> str:
        """The outcome, and what decided it."""
        outcome = trace.delivered
        words = outcome_words(outcome, self.reader.proxy_ports)
        return f"{words}: {because(outcome, trace.delivered_by, self.reader).removesuffix('.')}"

    def elsewhere(self, probes: Iterable[Probe], wanted: Netfilter, *, is_told: bool) -> tuple[list[str], list[str]]:
        """Rules that decide otherwise via the namespace's own interfaces, and such as are undecidable there.

        No probe comes or leaves by those. ``wanted`` are the rules that the configuration calls for. With
        ``is_told`` what goes astray is told already, and only what is dropped or rejected remains.
        """
        ideal = Tracer(wanted, self.host)
        found: dict[str, None] = {}
        doubts: dict[str, None] = {}
        for probe in probes if self.blind is None else ():
            if probe.packet.interface == "lo":
                continue
            if not is_same(self._tracer.trace(probe.packet).delivered, probe.expected):
                continue
            for link in self.links[:MOST_LINKS]:
                packet = self._via(probe, link)
                trace, meant = self._tracer.trace(packet), ideal.trace(packet).delivered
                via = f"{packet.direction.value} via {visible(link)}: "
                if is_same(trace.delivered, meant) or isinstance(trace.delivered_by, ReversePathDecider):
                    continue  # Where its source is not believed, nothing comes that a probe could stand for.
                if is_told and trace.delivered.kind not in STOPPED:
                    continue
                if trace.delivered.kind is Kind.UNKNOWN:
                    doubts[via + undecidable(trace, self.reader)] = None
                else:
                    found[via + self._said(trace)] = None
        return list(found), list(doubts)

    def _via(self, probe: Probe, link: str) -> Packet:
        """The same via another interface; what comes in comes from where its answers would leave by that."""
        packet = probe.packet
        if (
            packet.direction is Direction.INBOUND
            and probe.bind is None
            and (source := self._beyond(link, packet)) is not None
        ):
            packet = packet.replace(source=source)
        return packet.replace(interface=link, bound=link if packet.bound is not None else None)

    def _beyond(self, link: str, packet: Packet) -> IPAddress | None:
        """An address that routes lead to via an interface; None where none does."""
        for route in (self.host.routes or {}).get(packet.family, ()):
            network = route.destination
            if route.device != link or route.type is not AddressType.UNICAST or network.is_link_local:
                continue
            if network.prefixlen == 0:
                number = STRANGER[network.version]
                return IPv4Address(number) if network.version == 4 else IPv6Address(number)
            last = min(network.num_addresses - 1, 8)
            picks = [network.network_address + offset for offset in range(1 if last else 0, last + 1)]
            return next((each for each in picks if each not in self.host.addresses), None)
        return None


def is_same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are the same to whoever waits: the address that a redirection gives is the kernel's."""
    return (one.kind, one.port) == (other.kind, other.port)


def _led_there(trace: Trace) -> str:
    """The rule that jumped to the chain in which it was decided, as the end of a sentence; empty where none did."""
    decider = trace.delivered_by
    last = decider.hop if isinstance(decider, SocketDecider) else decider
    if not isinstance(last, Hop):
        return ""
    for leg in reversed(trace.legs):
        before: list[Rule] = []
        for hop in leg.hops:
            if hop.rule is last.rule and hop.hook is last.hook:
                led = next((rule for rule in reversed(before) if _leads(rule, last.rule)), None)
                return f"; it came there by {rule_place(led)} ({visible(led.origin.text)})" if led is not None else ""
            if hop.matched:
                before.append(hop.rule)
    return ""


def _leads(rule: Rule, there: Rule) -> bool:
    """Whether a rule calls the chain of another."""
    here, other = rule.origin, there.origin
    if (here.store, here.family, here.table) != (other.store, other.family, other.table):
        return False
    ends = [each for each in rule.body if isinstance(each, End)]
    ends += [end for each in rule.body if isinstance(each, Dispatch) for _, end in each.verdicts]
    return any(end.chain == other.chain for end in ends)
