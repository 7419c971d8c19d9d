"""A connection's first packet."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.model.netfilter import Family
from istio_init.model.value import Value


class Direction(Enum):
    """Whether the pod sends the packet or receives it."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"


class Packet(Value):
    """A first packet as the kernel sees it at its first hook.

    ``interface`` is the one by which it leaves (outbound, before any redirection) or enters (inbound). ``uid`` and
    ``gid`` are those of the sending socket, None where there is none: an inbound packet, or one of the kernel itself.
    """

    direction: Direction
    protocol: str
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int = 40000
    destination_port: int = 0
    uid: int | None = None
    gid: int | None = None
    interface: str = "eth0"
    mark: int = 0
    ctstate: str = "NEW"

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return Family.IPV4 if self.destination.version == 4 else Family.IPV6


class State:
    """What rules look at while the packet is on its way: the packet, and what became of it so far."""

    __slots__ = (
        "connmark",
        "ctstate",
        "destination",
        "dport",
        "gid",
        "in_interface",
        "mark",
        "out_interface",
        "protocol",
        "source",
        "sport",
        "uid",
    )

    def __init__(self, packet: Packet) -> None:
        outbound = packet.direction is Direction.OUTBOUND
        self.source = int(packet.source)
        self.destination = int(packet.destination)
        self.sport = packet.source_port
        self.dport = packet.destination_port
        self.protocol = packet.protocol
        self.in_interface = None if outbound else packet.interface
        self.out_interface = packet.interface if outbound else None
        self.uid = packet.uid if outbound else None
        self.gid = packet.gid if outbound else None
        self.mark = packet.mark
        self.connmark = 0
        self.ctstate = packet.ctstate
