"""What statements do to a packet and its connection, but for verdicts."""

from __future__ import annotations

from istio_init.netfilter.fields import CtState, CtStatus
from istio_init.netfilter.names import name_of
from istio_init.netfilter.rules import Cause, Hook, NatKind, Openness
from istio_init.trace.packet_fields import (
    CT_REPLY_DESTINATION,
    CT_REPLY_DPORT,
    CT_REPLY_SOURCE,
    CT_REPLY_SPORT,
    CT_STATE,
    CT_STATUS,
    DESTINATION,
    DPORT,
    IN_INTERFACE,
    OUT_INTERFACE,
    SOURCE,
    SPORT,
)
from istio_init.trace.state import Unsure, anything, few_values, not_given, points

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Assign, Forget, Nat
    from istio_init.trace.facts import Facts
    from istio_init.trace.state import Number, State, Values

LOOPBACK = {32: 0x7F000001, 128: 1}
"""Where REDIRECT sends what starts here, by the length of addresses: 127.0.0.1, ::1 (nf_nat_redirect.c)."""

IPV4_LINK_LOCAL = 0xA9FE
"""The first half of IPv4's link-local addresses."""


def assign(values: Values, statement: Assign, facts: Facts) -> None:
    """Give a field its new value. What a packet without a connection, or without ports, lacks stays absent."""
    field, number = statement.field, statement.constant
    if values[field] is None:
        return
    unsure: list[tuple[Unsure, int]] = []
    for part, mask in statement.parts:
        value = facts.derived[part](values) if part in facts.derived else values[part]
        if isinstance(value, Unsure):
            if mask:
                unsure.append((value, mask))
        elif value is not None:
            number ^= value & mask
    if not unsure:
        values[field] = number
        return
    [(first, mask), *others] = unsure
    few = None if others else few_values(first)
    if few is None:
        values[field] = anything(field, facts.family.bits, first.cause)
    else:
        values[field] = Unsure(points(number ^ (each & mask) for each in few), first.cause)


def forget(values: Values, statement: Forget, facts: Facts) -> None:
    """Leave a field with an unknown value."""
    if values[statement.field] is not None:
        values[statement.field] = anything(statement.field, facts.family.bits, statement.cause)


class Translation:
    """What a nat statement makes of a packet's source or destination (nf_nat_core.c).

    It starts from what the connection has, not from the header, which a rule may have changed since the connection was
    looked up (nf_nat_setup_info); where the connection changes, the header gets all that the connection has.
    """

    def __init__(self, nat: Nat, hook: Hook, facts: Facts) -> None:
        self.nat = nat
        self.hook = hook
        self.facts = facts
        self.bits = facts.family.bits
        self.is_destination = nat.kind.is_of_destination

    def apply(self, state: State) -> bool:
        """Translate; false where the kernel drops the packet instead: there is no address to give it."""
        values = state.values
        fields = (DESTINATION, DPORT) if self.is_destination else (SOURCE, SPORT)
        tuple_fields = (
            (CT_REPLY_SOURCE, CT_REPLY_SPORT) if self.is_destination else (CT_REPLY_DESTINATION, CT_REPLY_DPORT)
        )
        header = values[fields[0]], values[fields[1]]
        before = [_of_connection(values[field], own) for field, own in zip(tuple_fields, header, strict=True)]
        address = self._address(values, before[0], header[0])
        if address is None:
            return False
        after = [address, None if before[1] is None else self._port(before[1])]
        state.is_mapped = True
        if after != before:
            values.update(zip(fields, after, strict=True))
            values.update(zip(tuple_fields, after, strict=True))
            self._remember(values)
        return True

    def _address(self, values: Values, old: Number, header: Number) -> Number:
        nat = self.nat
        if nat.kind is NatKind.REDIRECT:
            return LOOPBACK[self.bits] if self.hook is Hook.OUTPUT else self._of_interface(values, header)
        if nat.kind is NatKind.MASQUERADE:
            return self._of_leaving(values)
        if nat.cause is not None:
            return anything(DESTINATION, self.bits, nat.cause)
        if nat.addresses is None:
            return old
        low, high = nat.addresses
        if nat.netmap:
            hosts = high - low
            if isinstance(header, int):
                return low | header & hosts
            return Unsure(((low, high),), _random("NETMAP", low, high))
        if low == high:
            return low
        if nat.kind is NatKind.SNAT and isinstance(old, int) and low <= old <= high and not nat.random:
            return old
        return Unsure(((low, high),), _random("address", low, high))

    def _of_interface(self, values: Values, old: Number) -> Number:
        """The first address of the incoming interface; of IPv6 one whose scope fits (nf_nat_redirect_ipv6)."""
        known = self.facts.addresses.get(name_of(values[IN_INTERFACE]))
        if known is None:
            return anything(DESTINATION, self.bits, not_given("the addresses of the incoming interface"))
        scope = scope_of(old) if self.bits == 128 and isinstance(old, int) else 0
        usable = [each for each in known if not scope or scope & scope_of(each)]
        return usable[0] if usable else None

    def _of_leaving(self, values: Values) -> Number:
        """The address that the outgoing interface has for a neighbour: one of its own, where it has any."""
        known = self.facts.addresses.get(name_of(values[OUT_INTERFACE]), [])
        usable = [each for each in known if not self._is_near(each)]
        destination = values[DESTINATION]
        cause = not_given("the address of the outgoing interface")
        if self.bits == 128 and (not isinstance(destination, int) or destination in self.facts.local):
            # What is sent to an address of ours comes from it, ::1 included (ipv6_dev_get_saddr).
            return Unsure(points(self.facts.local), cause)
        if len(usable) == 1:
            return usable[0]
        others = usable or [each for each in self.facts.local if not self._is_near(each)]
        return Unsure(points(others), cause) if others else anything(SOURCE, self.bits, cause)

    def _is_near(self, address: int) -> bool:
        """Whether an address is of use on its link or its machine alone, so that one of another interface is taken."""
        if self.bits == 128:
            return scope_of(address) not in (0, COMPATIBLE)  # The latter's scope is global (ipv6_addr_type).
        return self.facts.is_loopback(address) or address >> 16 == IPV4_LINK_LOCAL

    def _port(self, old: Number) -> Number:
        """The new port: a destination's is the first of the range, a source's any, unless the old one is within."""
        nat = self.nat
        if nat.ports is None:
            chosen = nat.random and not self.is_destination
            return Unsure(((1, 0xFFFF),), _random("port", 1, 0xFFFF)) if chosen else old
        low, high = nat.ports
        if low == high:
            return low
        within: Intervals = ((low, high),)
        if nat.random or not isinstance(old, int):
            return Unsure(within, _random("port", low, high))
        if low <= old <= high:
            return old
        return low if self.is_destination else Unsure(within, _random("port", low, high))

    def _remember(self, values: Values) -> None:
        """Have the connection's status say so."""
        state, status = values[CT_STATE], values[CT_STATUS]
        if isinstance(state, int):
            values[CT_STATE] = state | int(CtState.DNAT if self.is_destination else CtState.SNAT)
        if isinstance(status, int):
            values[CT_STATUS] = status | int(CtStatus.DNAT if self.is_destination else CtStatus.SNAT)


LOOPBACK_SCOPE, LINK_LOCAL, SITE_LOCAL, COMPATIBLE = 0x10, 0x20, 0x40, 0x80
_MULTICAST_SCOPES = {1: LOOPBACK_SCOPE, 2: LINK_LOCAL, 5: SITE_LOCAL}


def scope_of(address: int) -> int:
    """The scope of an IPv6 address, 0 for a global one (ipv6_addr_scope)."""
    if address >> 120 == 0xFF:
        return _MULTICAST_SCOPES.get(address >> 112 & 15, 0)
    if address >> 32 == 0 and address:
        return LOOPBACK_SCOPE if address == 1 else COMPATIBLE
    return {0xFE80 >> 6: LINK_LOCAL, 0xFEC0 >> 6: SITE_LOCAL}.get(address >> 118, 0)


def _of_connection(value: Number, header: Number) -> Number:
    """What the connection has; a related one begins as its first packet, of which nothing else is told."""
    return header if isinstance(value, Unsure) else value


def _random(what: str, low: int, high: int) -> Cause:
    return Cause(Openness.OPEN, f"which {what} of several is chosen")
