"""Where routing sends what starts here, asked again when rules changed it (ip_route_me_harder)."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.trace.facts import LINK_LOCAL
from istio_init.trace.packet_fields import DESTINATION, DPORT, MARK, PROTOCOL, SOURCE, SPORT, TOS, UID
from istio_init.trace.result import Kind
from istio_init.trace.routing import FAILURES, LOOPBACK_DEVICE, Found, Query
from istio_init.trace.state import Unsure, not_given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.packet import Packet
    from istio_init.trace.facts import Facts
    from istio_init.trace.routing import Finds
    from istio_init.trace.state import State

ROUTING = not_given("the namespace's routing")
UNICAST = AddressType.UNICAST
FORBIDDEN = Found(AddressType.UNREACHABLE, None, "the loopback network does not leave the machine (martian)")
RAW = 255
"""IPPROTO_RAW, the protocol of a raw socket that writes headers itself."""

TO_LOOPBACK = Found(AddressType.LOCAL, LOOPBACK_DEVICE)


def leaving(facts: Facts, state: State, packet: Packet, *, is_first: bool = False) -> Finds:
    """The routes that the packet may take now; none at all where its destination cannot be told.

    Where no route leads by the interface that its socket is bound to, IPv4 sends there all the same.
    ``is_first``: a socket asks, before any hook, as its own user; later IPv4 asks as root (flowi4_uid is not set).
    """
    bound = packet.bound
    found, causes = _routes(facts, state, packet, is_first=is_first)
    if bound is not None and facts.family is Family.IPV4:
        found = tuple(dict.fromkeys(Found(UNICAST, bound) if each.type in FAILURES else each for each in found))
    source = state.values[SOURCE]
    if facts.family is not Family.IPV4 or not isinstance(source, int) or not facts.is_loopback(source):
        return found, causes
    checked = [answer for route in found for answer in _from_loopback(facts, route)]
    if None in checked:
        causes = (*causes, not_given("route_localnet of the outgoing interface"))
    return tuple(dict.fromkeys(FORBIDDEN if each is None else each for each in checked)), causes


def _from_loopback(facts: Facts, route: Found) -> list[Found | None]:
    """What is left of a route for a packet from the loopback network (__mkroute_output); None for doubt."""
    if route.type in FAILURES or route.device == LOOPBACK_DEVICE:
        return [route]
    allowed = (facts.host.route_localnet or {}).get(route.device or "")
    return [route] if allowed else [FORBIDDEN] if allowed is False else [route, None]


def _routes(facts: Facts, state: State, packet: Packet, *, is_first: bool) -> Finds:
    values, bound = state.values, packet.bound
    destination, source, uid = values[DESTINATION], values[SOURCE], values[UID]
    if isinstance(destination, Unsure):
        return (), (destination.cause,)
    if facts.tables is None:
        return _without_tables(facts, state, destination, bound)
    is_ipv6 = facts.family is Family.IPV6
    if destination == 0 and not is_ipv6:  # Nobody's address is this machine (ip_route_output_key_hash_rcu).
        return (TO_LOOPBACK,), ()
    query = Query(
        destination,
        source if isinstance(source, int) else None,
        out_interface=bound or (state.device if is_ipv6 and destination >> 118 == LINK_LOCAL else None),
        mark=values[MARK],
        uid=uid if isinstance(uid, int) and (is_ipv6 or is_first) else 0,
        tos=values[TOS],
        protocol=values[PROTOCOL],
        sport=values[SPORT],
        dport=values[DPORT],
    )
    if is_first and packet.is_raw:
        query = query.replace(protocol=RAW, sport=0, dport=0)
    if is_first and packet.leaves_source and is_ipv6:
        found, causes = facts.tables.look_up(query.replace(source=None))
        if not all(each.type in FAILURES for each in found):
            return found, causes  # Only where that fails is it asked with the source that was chosen all the same.
    return facts.tables.look_up(query)


def _without_tables(facts: Facts, state: State, destination: int, bound: str | None) -> Finds:
    """What is assumed of a namespace whose routing is not known: its own addresses, and marks that lead to it."""
    if bound is not None:
        return (Found(UNICAST, bound),), ()
    if facts.is_local(destination):
        return (TO_LOOPBACK,), ()
    mark, marks = state.values[MARK], facts.host.local_marks.get(facts.family, frozenset())
    if isinstance(mark, int) and mark in marks:
        return (TO_LOOPBACK,), ()
    is_astray = state.device == LOOPBACK_DEVICE and state.outcome.kind is Kind.DNAT
    is_here = state.device == LOOPBACK_DEVICE and not is_astray
    elsewhere = TO_LOOPBACK if is_here else Found(UNICAST, None if is_astray else state.device)
    if isinstance(mark, Unsure) and marks:
        return (elsewhere, TO_LOOPBACK), (mark.cause,)
    return (elsewhere,), ()
