"""A packet as the tracer is asked about it: a connection's first one, unless its state says otherwise."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState
from istio_init.netfilter.protocols import ICMP, ICMPV6, TCP
from istio_init.value import Value


class Direction(Enum):
    """Whether the pod sends the packet or receives it."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"

    __hash__ = object.__hash__


class Packet(Value):
    """A packet as the kernel sees it at its first hook.

    ``protocol`` is a number. ``interface`` is the one by which it leaves (outbound, before any redirection) or enters
    (inbound). ``uid`` and ``gid`` are those of the sending socket, None where there is none. Other facts that are None
    are not known: what depends on them is undecided.
    """

    direction: Direction
    protocol: int
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int = 0
    destination_port: int = 0
    uid: int | None = None
    gid: int | None = None
    interface: str = "eth0"
    mark: int = 0
    state: CtState = CtState.NEW
    tcp_flags: int | None = 2
    icmp_type: int | None = None
    icmp_code: int | None = None
    length: int | None = None
    ttl: int | None = None
    tos: int | None = 0
    pkttype: int | None = None
    """None: as the direction has it, 0 for what is sent to this host, and for what leaves (linux/skbuff.h)."""

    priority: int | None = 0
    bound: str | None = None
    """The interface that its socket is bound to (SO_BINDTODEVICE), by which it leaves wherever it is sent."""

    leaves_source: bool = False
    """Its socket leaves its source to the kernel, which in IPv6 asks for a route without one (ip6_dst_lookup_tail)."""

    is_raw: bool = False
    """Its socket is a raw one, which asks for a route for IPPROTO_RAW, without ports (raw_sendmsg)."""

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return Family.IPV4 if self.destination.version == 4 else Family.IPV6


_SYN, _ACK, _URG = 2, 16, 32
_NO_BEGINNING = 8 | 64 | 128
"""PSH, ECE and CWR, which tell nothing of a connection's state."""

_BEGINNINGS, _PICKED_UP = frozenset([_SYN, _SYN | _URG]), frozenset([_ACK, _ACK | _URG])
_REQUESTS = {Family.IPV4: (ICMP, frozenset([8, 13, 15, 17])), Family.IPV6: (ICMPV6, frozenset([128, 139]))}
_NEIGHBOURS = frozenset([130, 131, 132, 133, 134, 135, 136, 143])
"""Messages of neighbour and listener discovery, of which no connections are tracked (nf_conntrack_proto_icmpv6.c)."""


def first_state(packet: Packet, *, picks_up: bool = True) -> CtState:
    """The state that connection tracking gives a packet of no connection that is known (nf_conntrack_proto_tcp.c, …).

    TCP begins with SYN, or is picked up with ACK (``picks_up``: nf_conntrack_tcp_loose); other flags are INVALID.
    """
    family = packet.family
    if packet.protocol == TCP and packet.tcp_flags is not None:
        flags = packet.tcp_flags & ~_NO_BEGINNING
        return CtState.NEW if flags in (_BEGINNINGS | _PICKED_UP if picks_up else _BEGINNINGS) else CtState.INVALID
    protocol, requests = _REQUESTS[family]
    if packet.protocol == protocol and packet.icmp_type is not None:
        if family is Family.IPV6 and packet.icmp_type in _NEIGHBOURS:
            return CtState.UNTRACKED
        return CtState.NEW if packet.icmp_type in requests else CtState.INVALID
    return CtState.NEW
