"""Transport protocols by number and name (/etc/protocols, and libxtables' own names)."""

from __future__ import annotations

ICMP, TCP, UDP, DCCP, GRE, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 47, 58, 132, 136

WITH_PORTS = frozenset([TCP, UDP, DCCP, SCTP, UDPLITE])
"""Protocols that begin with two ports, as multiport takes them (xt_multiport.c)."""

_NAMES = (
    "hopopt 0 icmp 1 igmp 2 ggp 3 ipencap 4 st 5 tcp 6 egp 8 igp 9 pup 12 udp 17 hmp 20 xns-idp 22 rdp 27 iso-tp4 29 "
    "dccp 33 xtp 36 ddp 37 idpr-cmtp 38 ipv6 41 ipv6-route 43 ipv6-frag 44 idrp 45 rsvp 46 gre 47 esp 50 ah 51 skip 57 "
    "ipv6-icmp 58 ipv6-nonxt 59 ipv6-opts 60 rspf 73 vmtp 81 eigrp 88 ospf 89 ax.25 93 ipip 94 etherip 97 encap 98 "
    "pim 103 ipcomp 108 vrrp 112 l2tp 115 isis 124 sctp 132 fc 133 mobility-header 135 udplite 136 mpls-in-ip 137 "
    "manet 138 hip 139 shim6 140 wesp 141 rohc 142 ethernet 143"
).split()
"""The names that iptables-save prints, and the numbers; other protocols it prints by number."""

_ALIASES = {
    "icmp6": 58,
    "icmpv6": 58,
    "ip-encap": 4,
    "ipv4": 4,
    "ipsec-ah": 51,
    "ipsec-esp": 50,
    "ipv6-mh": 135,
    "mh": 135,
    "ospfigp": 89,
}

_BY_NUMBER = dict(zip(map(int, _NAMES[1::2]), _NAMES[::2], strict=True))
_BY_NAME = {**{name: number for number, name in _BY_NUMBER.items()}, **_ALIASES}


def protocol_number(text: str) -> int:
    """The number of a protocol, from its name, in any case, or its number.

    Raises:
        ValueError: it is neither.
    """
    found = _BY_NAME.get(text.lower())
    if found is not None:
        return found
    if not (text.isascii() and text.isdecimal() and int(text) < 256):
        raise ValueError(f"{text!r} is no protocol")
    return int(text)


def protocol_name(number: int) -> str:
    """The name that iptables-save prints; the number where it has none."""
    return _BY_NUMBER.get(number, str(number))
