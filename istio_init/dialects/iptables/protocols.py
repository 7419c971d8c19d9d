"""Numbers of the protocols that iptables prints by name, and of the types of ICMP that people write by name."""

from __future__ import annotations

ICMP, TCP, UDP, DCCP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 58, 132, 136

WITH_PORTS = frozenset([TCP, UDP, DCCP, SCTP, UDPLITE])
"""What xt_multiport.c takes."""

_NAMES = (
    "all 0 ip 0 hopopt 0 icmp 1 igmp 2 ggp 3 ipencap 4 ip-encap 4 ipv4 4 st 5 tcp 6 egp 8 igp 9 pup 12 udp 17 hmp 20 "
    "xns-idp 22 rdp 27 iso-tp4 29 dccp 33 xtp 36 ddp 37 idpr-cmtp 38 ipv6 41 ipv6-route 43 ipv6-frag 44 idrp 45 "
    "rsvp 46 gre 47 esp 50 ipsec-esp 50 ah 51 ipsec-ah 51 skip 57 ipv6-icmp 58 icmpv6 58 icmp6 58 ipv6-nonxt 59 "
    "ipv6-opts 60 rspf 73 vmtp 81 eigrp 88 ospf 89 ospfigp 89 ax.25 93 ipip 94 etherip 97 encap 98 pim 103 ipcomp 108 "
    "vrrp 112 l2tp 115 isis 124 sctp 132 fc 133 mobility-header 135 ipv6-mh 135 mh 135 udplite 136 mpls-in-ip 137 "
    "manet 138 hip 139 shim6 140 wesp 141 rohc 142 ethernet 143"
).split()

NUMBERS = dict(zip(_NAMES[::2], map(int, _NAMES[1::2]), strict=True))
"""By name (/etc/protocols, and libxtables' own)."""

ICMP_TYPES: dict[str, tuple[int, int | None]] = {
    "echo-reply": (0, None),
    "pong": (0, None),
    "destination-unreachable": (3, None),
    "network-unreachable": (3, 0),
    "host-unreachable": (3, 1),
    "protocol-unreachable": (3, 2),
    "port-unreachable": (3, 3),
    "fragmentation-needed": (3, 4),
    "source-quench": (4, None),
    "redirect": (5, None),
    "echo-request": (8, None),
    "ping": (8, None),
    "router-advertisement": (9, None),
    "router-solicitation": (10, None),
    "time-exceeded": (11, None),
    "ttl-exceeded": (11, None),
    "parameter-problem": (12, None),
    "timestamp-request": (13, None),
    "timestamp-reply": (14, None),
    "address-mask-request": (17, None),
    "address-mask-reply": (18, None),
}
"""Type and code by name (iptables -p icmp -h); no code: all of them."""

ICMPV6_TYPES: dict[str, tuple[int, int | None]] = {
    "destination-unreachable": (1, None),
    "no-route": (1, 0),
    "communication-prohibited": (1, 1),
    "address-unreachable": (1, 3),
    "port-unreachable": (1, 4),
    "packet-too-big": (2, None),
    "time-exceeded": (3, None),
    "ttl-exceeded": (3, None),
    "parameter-problem": (4, None),
    "echo-request": (128, None),
    "ping": (128, None),
    "echo-reply": (129, None),
    "pong": (129, None),
    "router-solicitation": (133, None),
    "router-advertisement": (134, None),
    "neighbour-solicitation": (135, None),
    "neighbor-solicitation": (135, None),
    "neighbour-advertisement": (136, None),
    "neighbor-advertisement": (136, None),
    "redirect": (137, None),
}
"""The same for IPv6 (ip6tables -p icmpv6 -h)."""


def protocol_number(text: str) -> int:
    """The number of a protocol, from its name or number.

    Raises:
        ValueError: it is neither.
    """
    number = NUMBERS.get(text)
    if number is None:
        number = NUMBERS.get(text.lower())
    if number is None:
        number = int(text)
    if not 0 <= number <= 255:
        raise ValueError(text)
    return number


def icmp_type(text: str, names: dict[str, tuple[int, int | None]]) -> tuple[int, int | None]:
    """Type and code of ``8/0``, ``8`` or a name; no code: all of them."""
    if text in names:
        return names[text]
    kind, slash, code = text.partition("/")
    return int(kind), int(code) if slash else None
