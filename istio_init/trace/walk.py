"""One packet's way from hook to hook, with what the kernel does between them.

Outbound: OUTPUT and POSTROUTING; what leaves via lo comes in again, through PREROUTING and INPUT, but not through nat,
whose translation is decided. Inbound: PREROUTING, and then as routing says INPUT, or FORWARD and POSTROUTING.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.names import NO_INTERFACE
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.protocols import TCP, UDP
from istio_init.netfilter.rules import Cause, Hook, Openness
from istio_init.trace.arrival import IS_HERE, Arrival, End
from istio_init.trace.body import DROP, UNKNOWN
from istio_init.trace.connection import confirm, is_turned_away
from istio_init.trace.facts import LINK_LOCAL
from istio_init.trace.leaving import ROUTING, leaving
from istio_init.trace.packet_fields import (
    DESTINATION,
    GID,
    IN_INTERFACE,
    OUT_INTERFACE,
    PKTTYPE,
    PRIORITY,
    SOCKET,
    SOURCE,
    TOS,
    TTL,
    UID,
)
from istio_init.trace.result import Kind, Leg, Outcome, RoutingDecider
from istio_init.trace.routing import FAILURES, LOOPBACK_DEVICE
from istio_init.trace.stages import Stages
from istio_init.trace.state import NAT_DONE, State, Unsure, anything, interface_number
from istio_init.trace.ways import Finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.netfilter.packet import Packet
    from istio_init.trace.arrival import Arrivals
    from istio_init.trace.state import DecidedBy
    from istio_init.trace.tracer import FamilyTracer

LOOPBACK_INTERFACE = interface_number(LOOPBACK_DEVICE)
TO_ANOTHER_HOST = 3
"""The packet type PACKET_OTHERHOST."""

TURNED_AWAY = Cause(Openness.NOT_MODELLED, "nat and another rule give it different destinations")
"""Nat translates anew what comes back via lo, which then may have to be routed again."""

BROADCAST = IPv4Address("255.255.255.255")
BEYOND_SCOPE = "its source is of no use behind another interface"
NO_SOURCE = "its source would be no address of this machine"
CONNECTED = Cause(Openness.NOT_GIVEN, "whether its socket is connected")
NOT_LOCAL = "its route leads to lo but is not a local one"
TTL_ENDS = "its TTL ends here"
TO_MANY = "TCP is not sent to many hosts"

PRIORITIES = (0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4)
"""The priority that IPv4 gives what it forwards, by four bits of the TOS (ip_tos2prio)."""


class Walk:
    """All ways of one packet, followed to their ends: ``finishes``."""

    __slots__ = ("arriving", "facts", "finishes", "netfilter", "packet", "stages")

    def __init__(self, tracer: FamilyTracer, packet: Packet) -> None:
        self.packet = packet
        self.netfilter = tracer.netfilter
        self.facts = tracer.facts
        self.arriving = tracer.arriving
        self.finishes: list[Finish] = []
        self.stages = Stages(packet, tracer.plan, tracer.facts, tracer.evaluator, self.finish)

    def run(self) -> None:
        """Follow the packet."""
        state = State(self.packet)
        if self.packet.direction is Direction.OUTBOUND:
            self._leave(state)
        elif self.packet.interface == LOOPBACK_DEVICE:
            state.nat_done = NAT_DONE[Hook.PREROUTING] | NAT_DONE[Hook.INPUT]
            self._come_back([state])
        else:
            self._come_in(state)

    def finish(self, state: State, outcome: Outcome, decided_by: DecidedBy, cause: Cause | None) -> None:
        """Take a way that has ended."""
        first = state.first or (outcome, decided_by)
        self.finishes.append(Finish(state, *first, outcome, decided_by, cause))

    def _leave(self, state: State) -> None:
        lacks_source = self._lacks_source(state)
        if (why := NO_SOURCE if lacks_source else self._refusal(state)) is not None:
            is_sent = lacks_source and self.packet.protocol == UDP  # By sendto(), which does not ask.
            options = (True, False) if is_sent else (False,)
            *going, refused = (each for each, _ in self.stages.either(state, options, (CONNECTED,), "refusal"))
            words = f"{why}: its sender gets an error, and no rule sees it"
            self.finish(refused, DROP, RoutingDecider(words), None)
            if not going:
                return
            [state] = going
        self._leg(Hook.OUTPUT, self.packet.interface)
        left = self._out(self.stages.hook([state], Hook.OUTPUT), NO_INTERFACE)
        returning = []
        for state in left:
            state.first = state.outcome, state.decided_by
            if state.device == LOOPBACK_DEVICE:
                values = state.values
                values[SOCKET], values[UID], values[GID] = 0, None, None
                state.has_returned = True
                returning.append(state)
            else:
                self.finish(state, *state.first, None)
        if returning:
            self._come_back(returning)

    def _lacks_source(self, state: State) -> bool:
        """Whether the source that a route of the type local gave it, its destination, is no address of this machine."""
        packet, facts = self.packet, self.facts
        to = packet.destination
        if facts.tables is None or facts.family is not Family.IPV4 or packet.uid is None:
            return False
        is_chosen = packet.leaves_source and packet.source == to and not (to.is_multicast or to == BROADCAST)
        return is_chosen and facts.type_of(state.values[SOURCE]) is not AddressType.LOCAL

    def _refusal(self, state: State) -> str | None:
        """Why it is not sent: no route leads anywhere for it, or not to one host; None where one does, or may.

        What goes to many leaves via the interface of its source, whatever the routes (ip_route_output_key_hash_rcu).
        """
        packet = self.packet
        if self.facts.tables is None:
            return None
        to, is_tcp = packet.destination, packet.protocol == TCP and packet.uid is not None and not packet.is_raw
        if to.is_multicast or to == BROADCAST:
            return TO_MANY if is_tcp else None
        found, _ = leaving(self.facts, state, packet, is_first=True)
        if all(route.type in FAILURES for route in found):
            return found[0].words
        is_to_many = self.facts.family is Family.IPV4 and found[0].type is AddressType.BROADCAST
        return TO_MANY if is_tcp and is_to_many and len(found) == 1 else None

    def _out(self, states: list[State], incoming: int) -> list[State]:
        """Leave by the interface that routing chose, which POSTROUTING is the first to see."""
        for state in states:
            state.values[IN_INTERFACE] = incoming
            if state.device is None:
                state.values[OUT_INTERFACE] = anything(OUT_INTERFACE, 32, ROUTING)
            else:
                state.values[OUT_INTERFACE] = interface_number(state.device)
        left = []
        for state in self.stages.hook(states, Hook.POSTROUTING):
            confirm(state)
            if not self._is_met(state, self.netfilter.egress, state.device):
                left.append(state)
        return left

    def _is_met(self, state: State, chains: Mapping[str, str], device: str | None) -> bool:
        """Whether chains at an interface, which are not modelled, decide what becomes of the packet."""
        chain = chains.get(device or "", chains.get(""))
        if chain is not None:
            words = f"what {chain} does at {device}"
            self.finish(state, UNKNOWN, RoutingDecider(words), Cause(Openness.NOT_MODELLED, words))
        return chain is not None

    def _come_back(self, states: list[State]) -> None:
        """Enter via lo; the route is the one that led there (skb_dst_force in loopback_xmit)."""
        states = [each for each in states if not self._is_met(each, self.netfilter.ingress, LOOPBACK_DEVICE)]
        if not states:
            return
        if any(state.steps is not None for state in states):
            self._leg(Hook.PREROUTING, LOOPBACK_DEVICE)
        for state in states:
            state.values[IN_INTERFACE], state.values[OUT_INTERFACE] = LOOPBACK_INTERFACE, NO_INTERFACE
        here = []
        for state in self.stages.hook(states, Hook.PREROUTING):
            if state.nat_done and is_turned_away(state):
                self.finish(state, UNKNOWN, RoutingDecider(TURNED_AWAY.words), TURNED_AWAY)
            elif state.is_local:
                here.append(state)
            else:
                self.finish(state, DROP, RoutingDecider(NOT_LOCAL), None)
        self._deliver(here)

    def _come_in(self, state: State) -> None:
        """Enter via an interface, and go on as routing says."""
        self._leg(Hook.PREROUTING, self.packet.interface)
        values = state.values
        if self.facts.family is Family.IPV6 and 1 in (values[SOURCE], values[DESTINATION]):
            words = f"{self.packet.interface} takes no packets of ::1"  # ip6_rcv_core drops them before any hook.
            self.finish(state, DROP, RoutingDecider(words), None)
            return
        if self.facts.family is Family.IPV6 and self.facts.is_multicast(values[SOURCE]):
            self.finish(state, DROP, RoutingDecider("no interface takes packets from a group"), None)
            return
        if self.packet.interface in self.facts.down:
            self.finish(state, DROP, RoutingDecider(f"{self.packet.interface} is down"), None)
            return
        if self._is_met(state, self.netfilter.ingress, self.packet.interface):
            return
        if values[PKTTYPE] == TO_ANOTHER_HOST:  # ip_rcv_core, ip6_rcv_core
            self.finish(state, DROP, RoutingDecider("its link-layer address is another host's"), None)
            return
        here, onwards = [], []
        arrived = self.stages.hook([state], Hook.PREROUTING)
        for state in arrived:
            found, causes = self._arrivals(state)
            for each, arrival in self.stages.either(state, found, causes, "arrival"):
                if arrival.end is End.HERE:
                    here.append(each)
                elif arrival.end is End.ONWARDS:
                    each.device = arrival.device
                    onwards.append(each)
                else:
                    self.finish(each, DROP, arrival.decided_by, None)
        self._deliver(here)
        self._forward(onwards)

    def _arrivals(self, state: State) -> Arrivals:
        """Where routing sends what came in; where that is unknown, it is delivered here unless it was translated."""
        destination, kind = state.values[DESTINATION], state.outcome.kind
        if isinstance(destination, Unsure) and kind is Kind.REDIRECT:
            return (IS_HERE,), ()
        if self.arriving is not None:
            return self.arriving.arrive(state.values, self.packet.interface, has_socket=state.values[SOCKET] == 1)
        if kind is not Kind.DNAT or (isinstance(destination, int) and self.facts.is_local(destination)):
            return (IS_HERE,), ()
        return (Arrival(End.ONWARDS), IS_HERE), (ROUTING,)

    def _deliver(self, states: list[State]) -> None:
        if states:
            for state in self.stages.hook(states, Hook.INPUT):
                confirm(state)
                state.device, state.is_here = None, True
                self.finish(state, state.outcome, state.decided_by, None)

    def _forward(self, states: list[State]) -> None:
        """Go through FORWARD, one hop nearer to the end, and out. A TTL that is not given is taken to be enough."""
        going = []
        for state in states:
            values = state.values
            ttl, tos = values[TTL], values[TOS]
            if values[PKTTYPE] != 0:
                self.finish(
                    state, DROP, RoutingDecider("only packets addressed to this host alone are forwarded"), None
                )
                continue
            if isinstance(ttl, int):
                if ttl <= 1:
                    self.finish(state, DROP, RoutingDecider(TTL_ENDS), None)
                    continue
                values[TTL] = ttl - 1
            elif ttl.cause.openness is not Openness.NOT_GIVEN:  # A rule has changed it, undecidable to what.
                state, ended = (each for each, _ in self.stages.either(state, (True, False), (ttl.cause,), "TTL"))
                self.finish(ended, DROP, RoutingDecider(TTL_ENDS), None)
            if self._is_beyond_scope(state):
                self.finish(state, DROP, RoutingDecider(BEYOND_SCOPE), None)
                continue
            if self.facts.family is Family.IPV4:
                is_known = isinstance(tos, int)
                values[PRIORITY] = PRIORITIES[tos >> 1 & 15] if is_known else anything(PRIORITY, 32, tos.cause)
            values[OUT_INTERFACE] = (
                interface_number(state.device) if state.device else anything(OUT_INTERFACE, 32, ROUTING)
            )
            if state.outcome.kind is Kind.DIRECT:
                state.outcome = Outcome(Kind.FORWARD)
            going.append(state)
        if going:
            for state in self._out(self.stages.hook(going, Hook.FORWARD), interface_number(self.packet.interface)):
                if state.device == LOOPBACK_DEVICE:  # It comes back, and is forwarded again, until its TTL ends.
                    self.finish(state, DROP, RoutingDecider(NOT_LOCAL), None)
                    continue
                words = f"routing forwards it via {state.device or 'some interface'}"
                self.finish(state, state.outcome, state.decided_by or RoutingDecider(words), None)

    def _is_beyond_scope(self, state: State) -> bool:
        """Whether IPv6 does not forward from such a source to another interface (ip6_forward)."""
        source = state.values[SOURCE]
        if self.facts.family is not Family.IPV6 or state.device in (None, self.packet.interface):
            return False
        return isinstance(source, int) and (source == 0 or source >> 118 == LINK_LOCAL)

    def _leg(self, hook: Hook, interface: str) -> None:
        self.stages.legs.append(Leg(hook, interface))
