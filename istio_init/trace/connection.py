"""The packet's connection: how it is found, and what is known of it (net/netfilter/nf_conntrack_core.c)."""

from __future__ import annotations

from istio_init.netfilter.fields import CtState, CtStatus, bits_of
from istio_init.netfilter.rules import Cause, Openness
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
    NFPROTO,
    PROTOCOL,
    SOURCE,
    SPORT,
)
from istio_init.trace.state import INVALID, Unsure, anything, not_given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.packet import Packet
    from istio_init.trace.state import Number, State

IPV4 = 2
"""As the field NFPROTO numbers it."""

NEW, UNTRACKED = int(CtState.NEW), int(CtState.UNTRACKED)
CONFIRMED, DNAT, SNAT = int(CtStatus.CONFIRMED), int(CtStatus.DNAT), int(CtStatus.SNAT)
TEMPLATE = Cause(Openness.NOT_MODELLED, "what rules see of a connection before it is looked up")
"""x_tables reads a template's fields, which are what the last packet left there; for nft it has none but the state."""

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


def put_template(state: State, zone: Number, *, even_untracked: bool) -> None:
    """Have a connection's template stand in for it, which is looked up in a zone (xt_CT, nft's ct zone set).

    A packet that has a connection already is not touched; one that is not to be tracked is only where nft says so.
    """
    if state.has_connection or (state.is_untracked and not even_untracked):
        return
    state.is_untracked = False
    state.has_connection = True
    state.has_template = True
    state.zone = zone
    values, address_bits = state.values, 32 if state.values[NFPROTO] == IPV4 else 128
    values[CT_STATE] = NEW
    for field in (CT_MARK, CT_STATUS, CT_ZONE, CT_DIRECTION, *_TUPLES):
        # One number more than there are stands for its absence, so that no test is sure.
        values[field] = Unsure(((0, 1 << bits_of(field, address_bits)),), TEMPLATE)


def do_not_track(state: State) -> None:
    """Have no connection looked up, or none missed that was not found (xt_CT's --notrack, nft_notrack_eval)."""
    if not state.has_connection:
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
    """Find the packet's connection (nf_conntrack_in). What came back via lo has one, or is not to be tracked, still.

    Of what has none it is looked for again, whatever template a rule has given it meanwhile.
    """
    if state.is_untracked or (state.is_looked_up and state.has_connection and not state.has_template):
        return
    state.is_looked_up = True
    values = state.values
    state.has_template = False
    bits = int(packet.state)
    if bits & (INVALID | UNTRACKED):
        state.has_connection = False
        state.is_untracked = bool(bits & UNTRACKED)
        for field in (CT_MARK, CT_STATUS, CT_ZONE, CT_DIRECTION, *_TUPLES):
            values[field] = None
        values[CT_STATE] = bits
        return
    state.has_connection = True
    values[CT_ZONE] = state.zone
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


def write_source_again(states: list[State]) -> None:
    """What came back via lo gets its connection's source once more, whatever rules made of it (nf_nat_packet)."""
    for state in states:
        values, status = state.values, state.values[CT_STATUS]
        if state.has_returned and status.__class__ is int and status & SNAT:
            for field, known in ((SOURCE, CT_REPLY_DESTINATION), (SPORT, CT_REPLY_DPORT)):
                if not _is_same(values[field], values[known]):
                    values[field] = values[known]


def _is_same(one: Number, other: Number) -> bool:
    """Whether a value is the other one, of which tests may have told more."""
    if isinstance(one, Unsure) and isinstance(other, Unsure):
        return one.cause == other.cause
    return one == other


def is_turned_away(state: State) -> bool:
    """Whether the packet's destination is no longer the one that its connection was translated to."""
    values, status = state.values, state.values[CT_STATUS]
    if status.__class__ is not int or not status & DNAT:
        return False
    return (values[DESTINATION], values[DPORT]) != (values[CT_REPLY_SOURCE], values[CT_REPLY_SPORT])
