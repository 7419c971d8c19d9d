"""What changes on a packet's way: its fields, its connection, and what has been decided so far."""

from __future__ import annotations

from functools import cache

from istio_init.netfilter.fields import CtState, CtStatus, Field, bits_of
from istio_init.netfilter.intervals import Intervals
from istio_init.netfilter.names import NO_INTERFACE, number_of
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import ICMP, ICMPV6, TCP, WITH_PORTS
from istio_init.netfilter.rules import Cause, Hook, Openness
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

NFPROTO = {4: 2, 6: 10}
TEMPLATE_STATUS = CtStatus.CONFIRMED | 1 << 11
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
    Field.CT_STATUS: "the connection's status",
    Field.CT_MARK: "the connection's mark",
    Field.CT_ZONE: "the connection's zone",
    Field.CT_DIRECTION: "which side of the connection sent it",
    Field.CT_ORIG_SOURCE: "the connection's original source",
    Field.CT_ORIG_DESTINATION: "the connection's original destination",
    Field.CT_ORIG_SPORT: "the connection's original source port",
    Field.CT_ORIG_DPORT: "the connection's original destination port",
    Field.CT_REPLY_SOURCE: "the source of the connection's answers",
    Field.CT_REPLY_DESTINATION: "the destination of the connection's answers",
    Field.CT_REPLY_SPORT: "the source port of the connection's answers",
    Field.CT_REPLY_DPORT: "the destination port of the connection's answers",
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
    values[Field.NFPROTO] = NFPROTO[packet.destination.version]
    values[Field.PROTOCOL] = protocol
    values[Field.SOURCE], values[Field.DESTINATION] = int(packet.source), int(packet.destination)
    if protocol in WITH_PORTS:
        values[Field.SPORT], values[Field.DPORT] = packet.source_port, packet.destination_port
    if protocol == TCP:
        values[Field.TCP_FLAGS] = _known(Field.TCP_FLAGS, packet.tcp_flags, "the packet's TCP flags")
    elif protocol in (ICMP, ICMPV6):
        values[Field.ICMP_TYPE] = _known(Field.ICMP_TYPE, packet.icmp_type, "the packet's ICMP type")
        values[Field.ICMP_CODE] = _known(Field.ICMP_CODE, packet.icmp_code, "the packet's ICMP code")
    values[Field.LENGTH] = _known(Field.LENGTH, packet.length, "the packet's length")
    values[Field.TTL] = _known(Field.TTL, packet.ttl, "the packet's TTL")
    values[Field.TOS] = _known(Field.TOS, packet.tos, "the packet's TOS")
    values[Field.PRIORITY] = _known(Field.PRIORITY, packet.priority, "the packet's priority")
    values[Field.MARK] = packet.mark
    values[Field.SOCKET] = 0
    if packet.direction is Direction.OUTBOUND:
        values[Field.PKTTYPE] = packet.pkttype or 0
        values[Field.IN_INTERFACE], values[Field.OUT_INTERFACE] = NO_INTERFACE, interface_number(packet.interface)
        if packet.uid is not None:
            values[Field.SOCKET] = 1
            values[Field.UID], values[Field.GID] = packet.uid, packet.gid
    else:
        values[Field.PKTTYPE] = _pkttype(packet)
        values[Field.IN_INTERFACE], values[Field.OUT_INTERFACE] = interface_number(packet.interface), NO_INTERFACE
    values[Field.CT_STATE] = 1  # INVALID, as all see a packet without a connection.
    return values


def _known(field: Field, value: int | None, words: str) -> Number:
    return value if value is not None else anything(field, 32, not_given(words))


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
    values[Field.CT_STATE] = int(CtState.NEW)
    values[Field.CT_STATUS] = int(TEMPLATE_STATUS)
    values[Field.CT_ZONE] = zone
    for field in (Field.CT_MARK, Field.CT_DIRECTION, *_TUPLES):
        values[field] = 0


def do_not_track(state: State) -> None:
    """Have no connection looked up (xt_CT's --notrack, nft's notrack)."""
    if not state.has_connection and not state.is_looked_up:
        state.is_untracked = True
        state.values[Field.CT_STATE] = int(CtState.UNTRACKED)


_TUPLES = (
    Field.CT_PROTOCOL,
    Field.CT_ORIG_SOURCE,
    Field.CT_ORIG_DESTINATION,
    Field.CT_ORIG_SPORT,
    Field.CT_ORIG_DPORT,
    Field.CT_REPLY_SOURCE,
    Field.CT_REPLY_DESTINATION,
    Field.CT_REPLY_SPORT,
    Field.CT_REPLY_DPORT,
)


def look_up_connection(state: State, packet: Packet) -> None:
    """Find the packet's connection (nf_conntrack_in). What came back by lo has one, or is not to be tracked, still."""
    if state.is_looked_up or state.is_untracked:
        return
    state.is_looked_up = True
    values = state.values
    zone = values[Field.CT_ZONE] or 0
    bits = int(packet.state)
    if bits & (CtState.INVALID | CtState.UNTRACKED):
        state.has_connection = False
        state.is_untracked = bool(bits & CtState.UNTRACKED)
        for field in (Field.CT_MARK, Field.CT_STATUS, Field.CT_ZONE, Field.CT_DIRECTION, *_TUPLES):
            values[field] = None
        values[Field.CT_STATE] = bits
        return
    state.has_connection = True
    values[Field.CT_ZONE] = zone
    values[Field.CT_PROTOCOL] = values[Field.PROTOCOL]
    if bits & CtState.NEW:
        values[Field.CT_STATE] = bits
        values[Field.CT_MARK] = values[Field.CT_STATUS] = values[Field.CT_DIRECTION] = 0
        values[Field.CT_ORIG_SOURCE] = values[Field.CT_REPLY_DESTINATION] = values[Field.SOURCE]
        values[Field.CT_ORIG_DESTINATION] = values[Field.CT_REPLY_SOURCE] = values[Field.DESTINATION]
        values[Field.CT_ORIG_SPORT] = values[Field.CT_REPLY_DPORT] = values[Field.SPORT]
        values[Field.CT_ORIG_DPORT] = values[Field.CT_REPLY_SPORT] = values[Field.DPORT]
        return
    cause = not_given("whether its connection is translated")
    translations = (0, CtState.SNAT, CtState.DNAT, CtState.SNAT | CtState.DNAT)
    values[Field.CT_STATE] = Unsure(tuple((bits | int(each), bits | int(each)) for each in translations), cause)
    for field, words in CONNECTION.items():
        if "PORT" not in field.name or values[Field.DPORT] is not None:
            values[field] = anything(field, packet.family.bits, not_given(words))


def confirm(state: State) -> None:
    """Make the connection one that others see, where the packet leaves or is delivered (nf_confirm)."""
    status = state.values[Field.CT_STATUS]
    if state.has_connection and status.__class__ is int:
        assert isinstance(status, int)
        state.values[Field.CT_STATUS] = status | int(CtStatus.CONFIRMED)
