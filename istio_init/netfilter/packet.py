"""A packet as the tracer is asked about it: a connection's first one, unless its state says otherwise."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState
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

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return Family.IPV4 if self.destination.version == 4 else Family.IPV6
