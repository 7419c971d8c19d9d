"""A connection's first packet."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.dialects.iptables.matches import CTSTATES
from istio_init.dialects.iptables.targets import CtZone, RestoreMark, SaveMark, SetConnmark, SetMark
from istio_init.netfilter.family import Family
from istio_init.value import Value


class Direction(Enum):
    """Whether the pod sends the packet or receives it."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"

    __hash__ = object.__hash__


PORT_PROTOCOLS = frozenset(["tcp", "udp", "udplite", "sctp", "dccp"])
"""Protocols with ports, as multiport takes them (iptables-extensions(8))."""

_NAMES = (
    "hopopt 0 icmp 1 igmp 2 ggp 3 ipencap 4 st 5 tcp 6 egp 8 igp 9 pup 12 udp 17 hmp 20 xns-idp 22 rdp 27 iso-tp4 29 "
    "dccp 33 xtp 36 ddp 37 idpr-cmtp 38 ipv6 41 ipv6-route 43 ipv6-frag 44 idrp 45 rsvp 46 gre 47 esp 50 ah 51 skip 57 "
    "ipv6-icmp 58 ipv6-nonxt 59 ipv6-opts 60 rspf 73 vmtp 81 eigrp 88 ospf 89 ax.25 93 ipip 94 etherip 97 encap 98 "
    "pim 103 ipcomp 108 vrrp 112 l2tp 115 isis 124 sctp 132 fc 133 mobility-header 135 udplite 136 mpls-in-ip 137 "
    "manet 138 hip 139 shim6 140 wesp 141 rohc 142 ethernet 143"
).split()
"""The names that iptables-save prints, and the numbers; other protocols it prints by number."""

_ALIASES = {
    "icmp6": "ipv6-icmp",
    "icmpv6": "ipv6-icmp",
    "ip-encap": "ipencap",
    "ipv4": "ipencap",
    "ipsec-ah": "ah",
    "ipsec-esp": "esp",
    "ipv6-mh": "mobility-header",
    "mh": "mobility-header",
    "ospfigp": "ospf",
}
_PROTOCOLS = {**dict(zip(_NAMES[1::2], _NAMES[::2], strict=True)), **_ALIASES}
_KNOWN = frozenset(_NAMES[::2])


def is_protocol(name: str) -> bool:
    """Whether it is a protocol's name, as `protocol_name` gives it, or its number."""
    return name in _KNOWN or (_is_number(name) and len(name) < 4 and int(name) < 256)


def protocol_name(text: str) -> str:
    """The one name of a protocol, which rules and people write in several ways, also by number."""
    name = text.lower()
    if _is_number(name):
        name = name.lstrip("0") or "0"
    return _PROTOCOLS.get(name, name)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


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
