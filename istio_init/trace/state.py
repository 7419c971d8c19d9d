"""What changes on a packet's way: its fields, its connection, and what has been decided so far."""

from __future__ import annotations

from functools import cache

from istio_init.netfilter.fields import CtState, CtStatus, Field, bits_of
from istio_init.netfilter.intervals import Intervals
from istio_init.netfilter.names import NO_INTERFACE, number_of
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import ICMP, ICMPV6, TCP, WITH_PORTS
from istio_init.netfilter.rules import Cause, Hook, Openness
from istio_init.trace.packet_fields import (
    CT_DIRECTION,
    CT_MARK,
    CT_ORIG_DESTINATION,
    CT_ORIG_DPORT,
    CT_ORIG_SOURCE,
    CT_ORIG_SPORT,
    CT_PROTOCOL,
    CT_REPLY_DESTINATION,
    CT_REPLY_DPORT,
    CT_REPLY_SOURCE,
    CT_REPLY_SPORT,
    CT_STATE,
    CT_STATUS,
    CT_ZONE,
    DESTINATION,
    DPORT,
    GID,
    ICMP_CODE,
    ICMP_TYPE,
    IN_INTERFACE,
    LENGTH,
    MARK,
    NFPROTO,
    OUT_INTERFACE,
    PKTTYPE,
    PRIORITY,
    PROTOCOL,
    SOCKET,
    SOURCE,
    SPORT,
    TCP_FLAGS,
    TOS,
    TTL,
    UID,
)
from istio_init.trace.result import Kind, Outcome
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from istio_init.netfilter.rules import Rule
    from istio_init.trace.result import Decider

    Values = dict[Field, Any]
    """The fields of a packet; each is a `Number`. Typed loosely for the sake of the functions that compare them."""

    DecidedBy = tuple[Hook, Rule] | Decider | None
    """What has decided so far; a rule without further ado, as most are replaced by later ones."""

INVALID, NEW, UNTRACKED = int(CtState.INVALID), int(CtState.NEW), int(CtState.UNTRACKED)

FAMILY_NUMBERS = {4: 2, 6: 10}
CONFIRMED = int(CtStatus.CONFIRMED)
TEMPLATE_STATUS = CONFIRMED | 1 << 11
"""Of a template (IPS_TEMPLATE), which stands in for a connection between raw and the lookup."""

NAT_DONE = {Hook.PREROUTING: 1 << 8, Hook.OUTPUT: 1 << 8, Hook.INPUT: 1 << 7, Hook.POSTROUTING: 1 << 7}
"""Status bits that say that nat was asked (IPS_DST_NAT_DONE, IPS_SRC_NAT_DONE), by hook."""


class Unsure(Value):
    """A field's value that is one of several, and nobody can say which."""

    within: Intervals
    cause: Cause


Number = int | Unsure | None
"""A field's value; None where the packet has no such field."""

Decision = tuple[object, int, int]
"""What was decided where, which way it went on this way, and how many ways there are."""

DIRECT = Outcome(Kind.DIRECT)
UNDETERMINED = dict.fromkeys(Field)

CONNECTION = {
    CT_STATUS: "the connection's status",
    CT_MARK: "the connection's mark",
    CT_ZONE: "the connection's zone",
    CT_DIRECTION: "which side of the connection sent it",
    CT_ORIG_SOURCE: "the connection's original source",
    CT_ORIG_DESTINATION: "the connection's original destination",
    CT_ORIG_SPORT: "the connection's original source port",
    CT_ORIG_DPORT: "the connection's original destination port",
    CT_REPLY_SOURCE: "the source of the connection's answers",
    CT_REPLY_DESTINATION: "the destination of the connection's answers",
    CT_REPLY_SPORT: "the source port of the connection's answers",
    CT_REPLY_DPORT: "the destination port of the connection's answers",
}
"""What is not known of a connection that is no longer new, as people say it."""

interface_number = cache(number_of)


@cache
def not_given(what: str) -> Cause:
    """The cause of a fact that neither the packet nor the snapshot holds."""
    return Cause(Openness.NOT_GIVEN, what)


@cache
def anything(field: Field, address_bits: int, cause: Cause) -> Unsure:
    """Any value that a field can have."""
    return Unsure(((0, (1 << bits_of(field, address_bits)) - 1),), cause)


UNKNOWN = {
    field: anything(field, 32, not_given(f"the packet's {field.value}"))
    for field in (TCP_FLAGS, ICMP_TYPE, ICMP_CODE, LENGTH, TTL, TOS, PRIORITY)
}
"""What a packet has of which nothing is said."""


class State:
    """One way of a packet at one place. Copies of it are other ways, and share nothing that changes.

    ``because`` is what was decided on this way. ``steps`` takes the rules that are evaluated; None on all ways but the
    one on which undecided tests do not hold. ``device`` is the interface by which routing sends it.
    """

    __slots__ = (
        "because",
        "decided_by",
        "device",
        "first",
        "has_connection",
        "has_returned",
        "is_local",
        "is_looked_up",
        "is_mapped",
        "is_untracked",
        "nat_done",
        "outcome",
        "steps",
        "values",
    )

    def __init__(self, packet: Packet) -> None:
        self.values = first_values(packet)
        self.because: frozenset[Decision] = frozenset()
        self.steps: list[object] | None = []
        self.outcome = DIRECT
        self.decided_by: DecidedBy = None
        self.first: tuple[Outcome, DecidedBy] | None = None
        self.device: str | None = packet.interface
        self.is_local = True
        self.has_connection = False
        self.is_untracked = False
        self.is_looked_up = False
        self.is_mapped = False
        self.nat_done = 0
        self.has_returned = False

    def copy(self) -> State:
        """Another way from here on, whose steps nobody lists."""
        other = object.__new__(State)
        other.values = self.values.copy()
        other.because = self.because
        other.steps = None
        other.outcome, other.decided_by, other.first = self.outcome, self.decided_by, self.first
        other.device, other.is_local = self.device, self.is_local
        other.has_connection, other.is_untracked = self.has_connection, self.is_untracked
        other.is_looked_up, other.is_mapped, other.nat_done = self.is_looked_up, self.is_mapped, self.nat_done
        other.has_returned = self.has_returned
        return other

    def key(self) -> tuple[object, ...]:
        """What tells two states at the same place apart."""
        first = self.first[0] if self.first is not None else None
        flags = (self.has_connection, self.is_untracked, self.is_looked_up, self.is_mapped, self.nat_done)
        return *self.values.values(), *flags, self.device, self.is_local, self.outcome, first


def first_values(packet: Packet) -> Values:
    """The fields of a packet at its first hook; what is not known of it is any value."""
    values: Values = UNDETERMINED.copy()
    protocol = packet.protocol
    values[NFPROTO] = FAMILY_NUMBERS[packet.destination.version]
    values[PROTOCOL] = protocol
    values[SOURCE], values[DESTINATION] = int(packet.source), int(packet.destination)
    if protocol in WITH_PORTS:
        values[SPORT], values[DPORT] = packet.source_port, packet.destination_port
    if protocol == TCP:
        values[TCP_FLAGS] = UNKNOWN[TCP_FLAGS] if packet.tcp_flags is None else packet.tcp_flags
    elif protocol in (ICMP, ICMPV6):
        values[ICMP_TYPE] = UNKNOWN[ICMP_TYPE] if packet.icmp_type is None else packet.icmp_type
        values[ICMP_CODE] = UNKNOWN[ICMP_CODE] if packet.icmp_code is None else packet.icmp_code
    values[LENGTH] = UNKNOWN[LENGTH] if packet.length is None else packet.length
    values[TTL] = UNKNOWN[TTL] if packet.ttl is None else packet.ttl
    values[TOS] = UNKNOWN[TOS] if packet.tos is None else packet.tos
    values[PRIORITY] = UNKNOWN[PRIORITY] if packet.priority is None else packet.priority
    values[MARK] = packet.mark
    values[SOCKET] = 0
    if packet.direction is Direction.OUTBOUND:
        values[PKTTYPE] = packet.pkttype or 0
        values[IN_INTERFACE], values[OUT_INTERFACE] = NO_INTERFACE, interface_number(packet.interface)
        if packet.uid is not None:
            values[SOCKET] = 1
            values[UID], values[GID] = packet.uid, packet.gid
    else:
        values[PKTTYPE] = _pkttype(packet)
        values[IN_INTERFACE], values[OUT_INTERFACE] = interface_number(packet.interface), NO_INTERFACE
    values[CT_STATE] = INVALID  # As all see a packet without a connection.
    return values


def _pkttype(packet: Packet) -> int:
    if packet.pkttype is not None:
        return packet.pkttype
    if packet.destination.is_multicast:
        return 2
    return 1 if int(packet.destination) == 0xFFFFFFFF else 0


def put_template(state: State, zone: int) -> None:
    """Have a connection's template stand in for it, which is looked up in a zone (xt_CT, nft's ct zone set).

    A packet that has a connection already, or is not to be tracked, is not touched.
    """
    if state.has_connection or state.is_untracked:
        return
    state.has_connection = True
    values = state.values
    values[CT_STATE] = NEW
    values[CT_STATUS] = TEMPLATE_STATUS
    values[CT_ZONE] = zone
    for field in (CT_MARK, CT_DIRECTION, *_TUPLES):
        values[field] = 0


def do_not_track(state: State) -> None:
    """Have no connection looked up (xt_CT's --notrack, nft's notrack)."""
    if not state.has_connection and not state.is_looked_up:
        state.is_untracked = True
        state.values[CT_STATE] = UNTRACKED


_TUPLES = (
    CT_PROTOCOL,
    CT_ORIG_SOURCE,
    CT_ORIG_DESTINATION,
    CT_ORIG_SPORT,
    CT_ORIG_DPORT,
    CT_REPLY_SOURCE,
    CT_REPLY_DESTINATION,
    CT_REPLY_SPORT,
    CT_REPLY_DPORT,
)


def look_up_connection(state: State, packet: Packet) -> None:
    """Find the packet's connection (nf_conntrack_in). What came back by lo has one, or is not to be tracked, still."""
    if state.is_looked_up or state.is_untracked:
        return
    state.is_looked_up = True
    values = state.values
    zone = values[CT_ZONE] or 0
    bits = int(packet.state)
    if bits & (INVALID | UNTRACKED):
        state.has_connection = False
        state.is_untracked = bool(bits & UNTRACKED)
        for field in (CT_MARK, CT_STATUS, CT_ZONE, CT_DIRECTION, *_TUPLES):
            values[field] = None
        values[CT_STATE] = bits
        return
    state.has_connection = True
    values[CT_ZONE] = zone
    values[CT_PROTOCOL] = values[PROTOCOL]
    if bits & NEW:
        values[CT_STATE] = bits
        values[CT_MARK] = values[CT_STATUS] = values[CT_DIRECTION] = 0
        values[CT_ORIG_SOURCE] = values[CT_REPLY_DESTINATION] = values[SOURCE]
        values[CT_ORIG_DESTINATION] = values[CT_REPLY_SOURCE] = values[DESTINATION]
        values[CT_ORIG_SPORT] = values[CT_REPLY_DPORT] = values[SPORT]
        values[CT_ORIG_DPORT] = values[CT_REPLY_SPORT] = values[DPORT]
        return
    cause = not_given("whether its connection is translated")
    translations = (0, CtState.SNAT, CtState.DNAT, CtState.SNAT | CtState.DNAT)
    values[CT_STATE] = Unsure(tuple((bits | int(each), bits | int(each)) for each in translations), cause)
    for field, words in CONNECTION.items():
        if "PORT" not in field.name or values[DPORT] is not None:
            values[field] = anything(field, packet.family.bits, not_given(words))


def confirm(state: State) -> None:
    """Make the connection one that others see, where the packet leaves or is delivered (nf_confirm)."""
    status = state.values[CT_STATUS]
    if state.has_connection and status.__class__ is int:
        state.values[CT_STATUS] = status | CONFIRMED
