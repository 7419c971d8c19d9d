"""What the host makes of a packet: types of addresses, routes back, sockets. Asked only where a rule looks at it."""

from __future__ import annotations

from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, CtState, Field
from istio_init.netfilter.host import LOCAL_TABLE
from istio_init.netfilter.names import NO_INTERFACE, name_of
from istio_init.trace.packet_fields import (
    CT_STATE,
    DESTINATION,
    DPORT,
    IN_INTERFACE,
    MARK,
    OUT_INTERFACE,
    PROTOCOL,
    SOCKET,
    SOURCE,
    TOS,
)
from istio_init.trace.routing import LOOPBACK_DEVICE, Query, Tables
from istio_init.trace.state import Unsure, few_values, interface_number, not_given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from istio_init.netfilter.host import Host, Listener
    from istio_init.netfilter.rules import Cause
    from istio_init.trace.state import Number, Values

LINK_LOCAL = 0xFE80 >> 6
"""The first ten bits of IPv6's link-local addresses."""

LIMITED_BROADCAST = 0xFFFFFFFF
LOOPBACK_INTERFACE = interface_number(LOOPBACK_DEVICE)
TCP, UDP = 6, 17
IPSEC = not_given("whether IPsec protects the packet")
WILDCARDS = frozenset([Field.SOCKET_FOUND_ANY, Field.SOCKET_TRANSPARENT_ANY])
TRANSPARENT = frozenset([Field.SOCKET_TRANSPARENT, Field.SOCKET_TRANSPARENT_ANY])
"""Fields that count sockets bound to every address, and that ask for transparent ones."""

OWN_SOCKET = "the socket that sends the packet"
ROUTING = not_given("the namespace's routing")


class Facts:
    """What is known of the host for one family. ``tables`` is None where nothing is known of the routing."""

    def __init__(self, host: Host, family: Family) -> None:
        self.host = host
        self.family = family
        self.tables = Tables(host, family) if host.routes is not None else None
        self.local = frozenset(int(each) for each in host.addresses if each.version == (4, 6)[family is Family.IPV6])
        self.addresses = {
            link.name: [int(each) for each in link.addresses if each.version == (4, 6)[family is Family.IPV6]]
            for link in host.links
        }
        self.down = frozenset(link.name for link in host.links if not link.is_up)
        self.derived: dict[Field, Callable[[Values], Number]] = {
            Field.SOURCE_TYPE: lambda values: self._type(values, SOURCE, None),
            Field.DESTINATION_TYPE: lambda values: self._type(values, DESTINATION, None),
            Field.SOURCE_TYPE_IN: lambda values: self._type(values, SOURCE, IN_INTERFACE),
            Field.DESTINATION_TYPE_IN: lambda values: self._type(values, DESTINATION, IN_INTERFACE),
            Field.SOURCE_TYPE_OUT: lambda values: self._type(values, SOURCE, OUT_INTERFACE),
            Field.DESTINATION_TYPE_OUT: lambda values: self._type(values, DESTINATION, OUT_INTERFACE),
            Field.RETURN_INTERFACE: lambda values: self._back(values, here=False, mark=False),
            Field.RETURN_INTERFACE_MARK: lambda values: self._back(values, here=False, mark=True),
            Field.RETURN_INTERFACE_HERE: lambda values: self._back(values, here=True, mark=False),
            Field.RETURN_INTERFACE_HERE_MARK: lambda values: self._back(values, here=True, mark=True),
            Field.SOCKET_FOUND: lambda values: self._socket(values, Field.SOCKET_FOUND),
            Field.SOCKET_FOUND_ANY: lambda values: self._socket(values, Field.SOCKET_FOUND_ANY),
            Field.SOCKET_TRANSPARENT: lambda values: self._socket(values, Field.SOCKET_TRANSPARENT),
            Field.SOCKET_TRANSPARENT_ANY: lambda values: self._socket(values, Field.SOCKET_TRANSPARENT_ANY),
            Field.IPSEC: lambda _: self.ipsec,
        }

    @property
    def ipsec(self) -> Number:
        """Whether IPsec protects a packet: none is, where it has nothing to do."""
        return 0 if self.host.has_ipsec is False else Unsure(((0, 1),), IPSEC)

    def is_loopback(self, address: int) -> bool:
        """Whether it is an address of the loopback network."""
        return address >> 24 == 127 if self.family is Family.IPV4 else address == 1

    def is_local(self, address: int) -> bool:
        """Whether it is an address of this machine, as far as its interfaces tell."""
        return self.is_loopback(address) or address in self.local

    def is_multicast(self, address: int) -> bool:
        """Whether it is a group's address."""
        return address >> 28 == 14 if self.family is Family.IPV4 else address >> 120 == 0xFF

    def type_of(self, address: int, device: str | None = None) -> AddressType | None:
        """What the routing tables call an address (inet_dev_addr_type; nft_fib6_eval_type); None is not known."""
        if self.is_multicast(address):
            return AddressType.MULTICAST
        if self.family is Family.IPV4:
            if address in (0, LIMITED_BROADCAST):
                return AddressType.BROADCAST
        elif address == 0:
            return AddressType.UNSPEC
        if self.tables is None:
            return self._type_by_links(address, device)
        if self.family is Family.IPV6:
            return self._type_of_ipv6(address, device)
        found, _ = self.tables.search(LOCAL_TABLE, Query(address))
        result = found[0]
        if result is None:
            return AddressType.UNICAST
        if device is not None:
            routes = list(self.tables.candidates(LOCAL_TABLE, address))
            return result.type if routes[0].device == device else AddressType.UNICAST
        return result.type

    def _type_of_ipv6(self, address: int, device: str | None) -> AddressType | None:
        if device is not None and address in self.addresses.get(device, ()):
            return AddressType.LOCAL
        is_link_local = address >> 118 == LINK_LOCAL
        found, _ = self._tables_for_types.look_up(Query(address, out_interface=device if is_link_local else None))
        kinds = {each.type for each in found}
        if len(kinds) > 1:
            return None
        kind = kinds.pop()
        return AddressType.UNICAST if kind is AddressType.LOCAL and device is not None else kind

    @cached_property
    def _tables_for_types(self) -> Tables:
        """The tables as types of addresses are asked for.

        nft asks for the packet's protocol, TOS and other address (nft_fib6_flowi_init), iptables for none of them
        (match_lookup_rt6): whether rules match that select by these cannot be told for both.
        """
        assert self.tables is not None
        return self.tables.without(source=None, tos=None, protocol=None)

    def _type_by_links(self, address: int, device: str | None) -> AddressType | None:
        if self.is_loopback(address):
            return AddressType.LOCAL if device in (None, LOOPBACK_DEVICE) else AddressType.UNICAST
        if not self.host.links:
            return None
        local = self.addresses.get(device, ()) if device is not None else self.local
        return AddressType.LOCAL if address in local else AddressType.UNICAST

    def _type(self, values: Values, field: Field, interface: Field | None) -> Number:
        address = values[field]
        device = None if interface is None or values[interface] == NO_INTERFACE else name_of(values[interface])
        if isinstance(address, Unsure):
            kinds = {self.type_of(each, device) for each in few_values(address) or ()}
            only = kinds.pop() if len(kinds) == 1 else None
            return only.value if only is not None else Unsure(((0, 11),), address.cause)
        kind = self.type_of(address, device)
        return kind.value if kind is not None else Unsure(((0, 11),), ROUTING)

    def _back(self, values: Values, *, here: bool, mark: bool) -> Number:
        """The interface of an answer (nft_fib4_eval, nft_fib6_eval). What came via lo would go via lo."""
        incoming, source, destination = values[IN_INTERFACE], values[SOURCE], values[DESTINATION]
        if incoming == LOOPBACK_INTERFACE:
            return LOOPBACK_INTERFACE
        if self.tables is None:
            return _any_interface(ROUTING)
        unsure = next((each for each in (source, destination) if isinstance(each, Unsure)), None)
        if unsure is not None:
            return _any_interface(unsure.cause)
        is_link_local = self.family is Family.IPV6 and source >> 118 == LINK_LOCAL
        device = name_of(incoming) if (here or is_link_local) and incoming != NO_INTERFACE else None
        query = Query(
            source,
            destination,
            mark=values[MARK] if mark else 0,
            out_interface=device if is_link_local else None,
            tos=values[TOS],
        )
        found, causes = self.tables.look_up(query)
        if causes:
            return _any_interface(causes[0])
        if found[0].type is not AddressType.UNICAST or found[0].device is None:
            return NO_INTERFACE
        return interface_number(found[0].device) if device in (None, found[0].device) else NO_INTERFACE

    def _socket(self, values: Values, asked: Field) -> Number:
        """Whether a socket would take the packet (nf_sk_lookup_slow_v4). Of established connections none is known.

        A packet that TPROXY gave a socket has the answer with it; of what is sent it is the sender's (nft_socket_eval).
        """
        bits, port, known = values[CT_STATE], values[DPORT], values[asked]
        if known is not None:
            return known  # type: ignore[no-any-return]
        if values[IN_INTERFACE] == NO_INTERFACE:
            is_told = asked is Field.SOCKET_FOUND_ANY or not values[SOCKET]
            return values[SOCKET] if is_told else Unsure(((0, 1),), not_given(OWN_SOCKET))
        if port is None:
            return 0
        listeners = self.host.listeners
        if listeners is None or not isinstance(bits, int) or bits & (CtState.ESTABLISHED | CtState.RELATED):
            return Unsure(((0, 1),), not_given("the namespace's sockets"))
        destination = values[DESTINATION]
        if isinstance(destination, Unsure) or isinstance(port, Unsure):
            return Unsure(((0, 1),), not_given("the packet's destination"))
        if (doubt := self.choosy_about(values[PROTOCOL], port)) is not None:
            return Unsure(((0, 1),), doubt)
        found = list(self.listening(values[PROTOCOL], destination, port))
        if not found or (asked not in WILDCARDS and int(found[0].address) == 0):
            return 0
        if asked not in TRANSPARENT:
            return 1
        answers = {listener.is_transparent for listener in found}
        if len(answers) > 1 or None in answers:
            return Unsure(((0, 1),), not_given(f"whether the socket on port {port} is transparent"))
        return int(answers == {True})

    @cached_property
    def choosy(self) -> dict[tuple[int, int], str]:
        """Protocols and ports of sockets that do not take all packets there, with what they are."""
        found = {(UDP, port): "connected socket" for port in self.host.connected}
        of_interface = [each for each in self.host.listeners or () if each.is_of_interface]
        return {**{(each.protocol, each.port): "socket of one interface" for each in of_interface}, **found}

    def choosy_about(self, protocol: int, port: int) -> Cause | None:
        """Why it cannot be told which socket takes a packet: one on the port has a peer, or an interface."""
        which = self.choosy.get((protocol, port))
        return None if which is None else not_given(f"whether a {which} on port {port} takes the packet")

    def listening(self, protocol: int, address: int, port: int) -> Iterator[Listener]:
        """The sockets that would take a packet to an address: those bound to it, else those bound to every one."""
        same = [each for each in self.host.listeners or () if (each.protocol, each.port) == (protocol, port)]
        exact = [each for each in same if self._is_bound(each, address)]
        wanted = IPv4Address if self.family is Family.IPV4 else IPv6Address
        wild = [
            each for each in same if int(each.address) == 0 and (isinstance(each.address, wanted) or self._takes(each))
        ]
        yield from exact or wild

    def _is_bound(self, listener: Listener, address: int) -> bool:
        bound = listener.address
        if isinstance(bound, IPv6Address) and bound.ipv4_mapped is not None:
            return self.family is Family.IPV4 and int(bound.ipv4_mapped) == address
        return int(bound) == address != 0 and (bound.version == 4) == (self.family is Family.IPV4)

    def _takes(self, listener: Listener) -> bool:
        return self.family is Family.IPV4 and listener.takes_ipv4_too


def _any_interface(cause: Cause) -> Unsure:
    return Unsure(((0, (1 << 128) - 1),), cause)
