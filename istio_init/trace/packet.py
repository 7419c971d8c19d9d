"""A connection's first packet."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.model.matches import CTSTATES
from istio_init.model.netfilter import Family
from istio_init.model.targets import CtZone, RestoreMark, SaveMark, SetConnmark, SetMark
from istio_init.model.value import Value


class Direction(Enum):
    """Whether the pod sends the packet or receives it."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"

    __hash__ = object.__hash__


PORT_PROTOCOLS = frozenset(["tcp", "udp", "udplite", "sctp", "dccp"])
"""Protocols with ports, as multiport takes them (iptables-extensions(8))."""

_PROTOCOLS = {
    "1": "icmp",
    "2": "igmp",
    "6": "tcp",
    "17": "udp",
    "33": "dccp",
    "47": "gre",
    "50": "esp",
    "51": "ah",
    "58": "ipv6-icmp",
    "132": "sctp",
    "136": "udplite",
    "icmp6": "ipv6-icmp",
    "icmpv6": "ipv6-icmp",
}


def is_protocol(name: str) -> bool:
    """Whether it is a protocol's name, as `protocol_name` gives it, or its number."""
    return name in PORT_PROTOCOLS or name in _PROTOCOLS.values() or (name.isdecimal() and int(name) < 256)


def protocol_name(text: str) -> str:
    """The one name of a protocol, which rules and people write in several ways, also by number."""
    name = text.lower()
    return _PROTOCOLS.get(name, name)


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


CT_BITS = {name: 1 << number for number, name in enumerate(CTSTATES)}
"""States of a connection as bits: a translated one is new, or established, and DNAT as well (xt_conntrack)."""

INVALID, DNAT = CT_BITS["INVALID"], CT_BITS["DNAT"]


class State:
    """What rules look at while the packet is on its way: the packet, and what became of it so far.

    ``ct`` are the bits of its connection's state, ``tracked`` whether it has a connection at all.
    """

    __slots__ = (
        "connmark",
        "ct",
        "destination",
        "dport",
        "gid",
        "in_interface",
        "mark",
        "out_interface",
        "protocol",
        "source",
        "sport",
        "tracked",
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
        self.ct = INVALID
        self.tracked = False

    def mark_by(self, target: SetMark | SetConnmark | SaveMark | RestoreMark | CtZone) -> None:
        """Carry out a target that changes what marks the packet or its connection."""
        match target:
            case SetMark(value, mask):
                self.mark = (self.mark & ~mask) ^ value
            case SetConnmark(value, mask) if self.tracked:
                self.connmark = (self.connmark & ~mask) ^ value
            case SaveMark(nfmask, ctmask) if self.tracked:
                self.connmark = (self.connmark & ~ctmask) ^ (self.mark & nfmask)
            case RestoreMark(nfmask, ctmask) if self.tracked:
                self.mark = (self.mark & ~nfmask) ^ (self.connmark & ctmask)
            case CtZone() if not self.tracked:
                # A template of a connection, which is new, stands in for the connection until it is looked up.
                self.ct, self.tracked = CT_BITS["NEW"], True
            case _:
                pass
