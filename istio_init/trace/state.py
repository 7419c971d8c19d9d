"""What changes on a packet's way: its fields, its connection, and what has been decided so far."""

from __future__ import annotations

from functools import cache

from istio_init.netfilter.fields import CtState, Field, bits_of
from istio_init.netfilter.intervals import Intervals, size, union
from istio_init.netfilter.names import NO_INTERFACE, number_of
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import ICMP, ICMPV6, TCP, WITH_PORTS
from istio_init.netfilter.rules import Cause, Hook, Openness
from istio_init.trace.packet_fields import (
    CT_STATE,
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
    from collections.abc import Iterable
    from typing import Any

    from istio_init.netfilter.rules import Rule
    from istio_init.trace.result import Decider

    Values = dict[Field, Any]
    """The fields of a packet; each is a `Number`. Typed loosely for the sake of the functions that compare them."""

    DecidedBy = tuple[Hook, Rule] | Decider | None
    """What has decided so far; a rule without further ado, as most are replaced by later ones."""

INVALID = int(CtState.INVALID)

FAMILY_NUMBERS = {4: 2, 6: 10}

NAT_DONE = {Hook.PREROUTING: 1 << 8, Hook.OUTPUT: 1 << 8, Hook.INPUT: 1 << 7, Hook.POSTROUTING: 1 << 7}
"""Status bits that say that nat was asked (IPS_DST_NAT_DONE, IPS_SRC_NAT_DONE), by hook."""


class Unsure(Value):
    """A field's value that is one of several, undecidable which."""

    within: Intervals
    cause: Cause


MOST_VALUES = 64
"""So many values of an unsure field are tried one by one."""


def few_values(value: Unsure) -> list[int] | None:
    """All possible values, None where there are too many."""
    if size(value.within) > MOST_VALUES:
        return None
    return [number for low, high in value.within for number in range(low, high + 1)]


def points(numbers: Iterable[int]) -> Intervals:
    """A set of numbers as intervals."""
    return union([((number, number),) for number in numbers])


Number = int | Unsure | None
"""A field's value; None where the packet has no such field."""

Decision = tuple[object, int, int]
"""What was decided where, which way it went on this way, and how many ways there are."""

DIRECT = Outcome(Kind.DIRECT)
UNDETERMINED = dict.fromkeys(Field)

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
    one on which undecided tests do not hold. ``device`` is the interface via which routing sends it; it ``is_here``
    where it was delivered.
    """

    __slots__ = (
        "because",
        "decided_by",
        "device",
        "first",
        "has_connection",
        "has_returned",
        "has_template",
        "is_here",
        "is_local",
        "is_looked_up",
        "is_mapped",
        "is_untracked",
        "nat_done",
        "outcome",
        "steps",
        "values",
        "zone",
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
        self.is_here = False
        self.has_connection = self.has_template = False
        self.zone: Number = 0
        self.is_untracked = False
        self.is_looked_up = False
        self.is_mapped = False
        self.nat_done = 0
        self.has_returned = False

    def copy(self) -> State:
        """Another way from here on, whose steps are not listed."""
        other = object.__new__(State)
        other.values = self.values.copy()
        other.because = self.because
        other.steps = None
        other.outcome, other.decided_by, other.first = self.outcome, self.decided_by, self.first
        other.device, other.is_local, other.is_here = self.device, self.is_local, self.is_here
        other.has_template, other.zone = self.has_template, self.zone
        other.has_connection, other.is_untracked = self.has_connection, self.is_untracked
        other.is_looked_up, other.is_mapped, other.nat_done = self.is_looked_up, self.is_mapped, self.nat_done
        other.has_returned = self.has_returned
        return other

    def key(self) -> tuple[object, ...]:
        """What tells two states at the same place apart."""
        first = self.first[0] if self.first is not None else None
        flags = (self.has_connection, self.is_untracked, self.is_looked_up, self.is_mapped, self.nat_done)
        return *self.values.values(), *flags, self.zone, self.device, self.is_local, self.outcome, first


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
