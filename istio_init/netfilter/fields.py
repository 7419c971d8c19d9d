"""What a rule can look at: facts of a packet, of its socket, of its connection, and of the way it takes."""

from __future__ import annotations

from enum import Enum, IntFlag


class Field(Enum):
    """One fact, as a whole number; the value is what people call it.

    Addresses are numbers of 32 or 128 bits. Names of interfaces are numbers, too: their 16 bytes, padded with zeros, so
    that a name is a number and a prefix an interval (`istio_init.netfilter.names`); no interface is 0.
    """

    __hash__ = object.__hash__

    NFPROTO = "address family"
    """2 (IPv4) or 10 (IPv6), as linux/netfilter.h numbers them."""
    PROTOCOL = "protocol"
    SOURCE = "source address"
    DESTINATION = "destination address"
    SPORT = "source port"
    DPORT = "destination port"
    TCP_FLAGS = "TCP flags"
    """The byte: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128."""
    ICMP_TYPE = "ICMP type"
    ICMP_CODE = "ICMP code"
    LENGTH = "length"
    """Bytes of the packet with its IP header."""
    TTL = "TTL"
    """IPv6: hop limit."""
    TOS = "TOS"
    """The byte: DSCP in the upper six bits, ECN in the lower two. IPv6: traffic class."""
    PKTTYPE = "packet type"
    """As linux/if_packet.h: 0 to this host, 1 broadcast, 2 multicast, 3 to another host, 4 outgoing, 5 looped back."""
    IN_INTERFACE = "incoming interface"
    OUT_INTERFACE = "outgoing interface"
    MARK = "mark"
    PRIORITY = "priority"

    SOCKET = "socket"
    """1 where the packet belongs to a local socket, else 0."""
    UID = "user of the socket"
    GID = "group of the socket"

    CT_STATE = "connection state"
    """Bits of `CtState`; 0 is never seen."""
    CT_STATUS = "connection status"
    """Bits of `CtStatus`."""
    CT_MARK = "connection mark"
    CT_ZONE = "connection zone"
    CT_DIRECTION = "connection direction"
    """0 original, 1 reply."""
    CT_PROTOCOL = "connection protocol"
    CT_ORIG_SOURCE = "original source address of the connection"
    CT_ORIG_DESTINATION = "original destination address of the connection"
    CT_ORIG_SPORT = "original source port of the connection"
    CT_ORIG_DPORT = "original destination port of the connection"
    CT_REPLY_SOURCE = "source address of the connection's answers"
    CT_REPLY_DESTINATION = "destination address of the connection's answers"
    CT_REPLY_SPORT = "source port of the connection's answers"
    CT_REPLY_DPORT = "destination port of the connection's answers"

    SOURCE_TYPE = "type of the source address"
    """Of `AddressType`, as the routing tables say (fib saddr type)."""
    DESTINATION_TYPE = "type of the destination address"
    SOURCE_TYPE_IN = "type of the source address on the incoming interface"
    """The same, asked for the interface alone (addrtype --limit-iface-in, fib saddr . iif type)."""
    DESTINATION_TYPE_IN = "type of the destination address on the incoming interface"
    SOURCE_TYPE_OUT = "type of the source address on the outgoing interface"
    DESTINATION_TYPE_OUT = "type of the destination address on the outgoing interface"
    RETURN_INTERFACE = "interface of the route back"
    """The interface via which an answer to the source would leave, 0 where there is no route (fib saddr oif)."""
    RETURN_INTERFACE_MARK = "interface of the route back, asked with the mark"
    RETURN_INTERFACE_HERE = "interface of the route back, asked for the incoming interface"
    """0 unless the answer would leave via the interface that the packet came in via (fib saddr . iif oif)."""
    RETURN_INTERFACE_HERE_MARK = "interface of the route back, asked for the incoming interface and with the mark"

    SOCKET_FOUND = "local socket for the packet"
    """1 where a local socket, not bound to every address, would take the packet (xt_socket); else 0."""
    SOCKET_FOUND_ANY = "local socket for the packet, wildcards included"
    SOCKET_TRANSPARENT = "transparent local socket for the packet"
    SOCKET_TRANSPARENT_ANY = "transparent local socket for the packet, wildcards included"
    IPSEC = "protection by IPsec"
    """1 where the packet came protected, or will leave so (secpath_exists, dst_xfrm); else 0."""


class CtState(IntFlag):
    """States of a connection as one packet sees them (xt_conntrack's --ctstate, nft's ct state).

    The first five exclude each other; `SNAT` and `DNAT` come on top of them where the connection is translated.
    """

    INVALID = 1
    ESTABLISHED = 2
    RELATED = 4
    NEW = 8
    UNTRACKED = 64
    SNAT = 256
    DNAT = 512


class CtStatus(IntFlag):
    """Status bits of a connection (linux/netfilter/nf_conntrack_common.h, IPS_…)."""

    EXPECTED = 1
    SEEN_REPLY = 2
    ASSURED = 4
    CONFIRMED = 8
    SNAT = 16
    DNAT = 32


class AddressType(Enum):
    """What the routing tables call an address (linux/rtnetlink.h, RTN_…)."""

    UNSPEC = 0
    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8
    THROW = 9
    NAT = 10
    XRESOLVE = 11


BITS: dict[Field, int] = {
    **dict.fromkeys(Field, 32),
    Field.NFPROTO: 8,
    Field.PROTOCOL: 8,
    Field.SPORT: 16,
    Field.DPORT: 16,
    Field.CT_ORIG_SPORT: 16,
    Field.CT_ORIG_DPORT: 16,
    Field.CT_REPLY_SPORT: 16,
    Field.CT_REPLY_DPORT: 16,
    Field.TCP_FLAGS: 8,
    Field.ICMP_TYPE: 8,
    Field.ICMP_CODE: 8,
    Field.LENGTH: 16,
    Field.TTL: 8,
    Field.TOS: 8,
    Field.PKTTYPE: 3,
    Field.IN_INTERFACE: 128,
    Field.OUT_INTERFACE: 128,
    Field.RETURN_INTERFACE: 128,
    Field.RETURN_INTERFACE_MARK: 128,
    Field.RETURN_INTERFACE_HERE: 128,
    Field.RETURN_INTERFACE_HERE_MARK: 128,
    Field.SOCKET: 1,
    Field.IPSEC: 1,
    Field.CT_ZONE: 16,
    Field.CT_DIRECTION: 1,
    Field.CT_PROTOCOL: 8,
    Field.CT_STATE: 10,
}
"""How many bits a field has; addresses have 32 or 128, by family (`bits_of`)."""

ADDRESSES = frozenset(
    [
        Field.SOURCE,
        Field.DESTINATION,
        Field.CT_ORIG_SOURCE,
        Field.CT_ORIG_DESTINATION,
        Field.CT_REPLY_SOURCE,
        Field.CT_REPLY_DESTINATION,
    ]
)

PORTS = frozenset(
    [Field.SPORT, Field.DPORT, Field.CT_ORIG_SPORT, Field.CT_ORIG_DPORT, Field.CT_REPLY_SPORT, Field.CT_REPLY_DPORT]
)


def bits_of(field: Field, address_bits: int) -> int:
    """The width of a field in a family whose addresses have so many bits."""
    return address_bits if field in ADDRESSES else BITS[field]
