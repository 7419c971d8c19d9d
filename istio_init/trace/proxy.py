"""TPROXY: which socket takes a packet, and what it is then (net/netfilter/nf_tproxy_core.c, xt_TPROXY.c)."""

from __future__ import annotations

from istio_init.netfilter.fields import CtState, Field
from istio_init.netfilter.names import name_of
from istio_init.trace.packet_fields import CT_STATE, DESTINATION, DPORT, GID, IN_INTERFACE, MARK, PROTOCOL, SOCKET, UID
from istio_init.trace.result import Kind, Outcome
from istio_init.trace.state import Unsure, anything, not_given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.rules import Cause, Tproxy
    from istio_init.trace.facts import Facts
    from istio_init.trace.state import Number, State, Values

PROXIED = frozenset([6, 17])
"""TCP and UDP: nothing else is handed to a socket."""


def target_of(facts: Facts, proxy: Tproxy, values: Values) -> tuple[int | None, int | None]:
    """The address and port of the socket that is looked for, as far as they are known.

    Where no address is given, it is the first of the incoming interface, else the packet's own (nf_tproxy_laddr4).
    """
    address = proxy.address
    if address is None:
        known = facts.addresses.get(name_of(values[IN_INTERFACE]))
        own = values[DESTINATION]
        if known is None:
            address = None
        elif known:
            address = known[0]
        else:
            address = own if isinstance(own, int) else None
    port = proxy.port if proxy.port is not None else values[DPORT]
    return address, port if isinstance(port, int) else None


def socket_for(facts: Facts, proxy: Tproxy, values: Values) -> bool | Cause:
    """Whether there is a transparent socket for the packet. Where sockets are not known one is taken to be there."""
    if values[PROTOCOL] not in PROXIED:
        return False
    if facts.host.listeners is None:
        return True
    address, port = target_of(facts, proxy, values)
    if port is None:
        return not_given("the packet's port")
    if _is_established(values):
        return True  # The connection has a socket of its own, which is looked for first.
    if address is None:
        bound = {each.address for each in facts.host.listeners if each.port == port and int(each.address) != 0}
        if bound:
            return not_given("the addresses of the incoming interface")
        address = 0
    doubt = _connected(facts, values, port)
    if doubt is not None:
        return doubt
    answers = {listener.is_transparent for listener in facts.listening(values[PROTOCOL], address, port)}
    if len(answers) > 1 or None in answers:
        return not_given(f"whether the socket on port {port} is transparent")
    return answers == {True}


def hand_over(state: State, proxy: Tproxy, facts: Facts) -> None:
    """Give the packet its mark and its socket."""
    values = state.values
    mark = values[MARK]
    if isinstance(mark, int):
        values[MARK] = mark & ~proxy.mask ^ proxy.mark
    elif proxy.mask == 0xFFFFFFFF:
        values[MARK] = proxy.mark
    values[SOCKET] = 1
    values.update(_as_rules_see_it(facts, proxy, values))
    for field in (UID, GID):
        values[field] = anything(field, facts.family.bits, not_given(f"the {field.value} that takes the packet"))
    port = proxy.port if proxy.port is not None else values[DPORT]
    state.outcome = Outcome(Kind.TPROXY, port if isinstance(port, int) else None, proxy.address)


def _as_rules_see_it(facts: Facts, proxy: Tproxy, values: Values) -> dict[Field, Number]:
    """What xt_socket and nft's socket find of the packet, which has a socket now: that one."""
    cause = not_given("the socket that takes the packet")
    address, port = target_of(facts, proxy, values)
    bound: set[bool] = set()
    is_sure = facts.host.listeners is not None and None not in (address, port) and not _is_established(values)
    if is_sure and _connected(facts, values, port) is None:
        bound = {int(each.address) != 0 for each in facts.listening(values[PROTOCOL], address or 0, port or 0)}
    found = int(bound.pop()) if len(bound) == 1 else Unsure(((0, 1),), cause)
    return {
        Field.SOCKET_FOUND: found,
        Field.SOCKET_TRANSPARENT: found,
        Field.SOCKET_FOUND_ANY: 1,
        Field.SOCKET_TRANSPARENT_ANY: 1,
    }


def _connected(facts: Facts, values: Values, port: int | None) -> Cause | None:
    """Why another socket may take the packet: before those that listen, one is looked for that has a peer there."""
    numbers = [number for number in (values[DPORT], port) if isinstance(number, int)]
    doubts = (facts.choosy_about(values[PROTOCOL], number) for number in numbers)
    return next((doubt for doubt in doubts if doubt is not None), None)


def _is_established(values: Values) -> bool:
    state = values[CT_STATE]
    return isinstance(state, Unsure) or bool(state & CtState.ESTABLISHED)
