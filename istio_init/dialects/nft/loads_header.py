"""Headers of packets: fields by name, and bytes by their place (``@nh,96,32``)."""

from __future__ import annotations

from istio_init.dialects.nft.operands import Operand
from istio_init.dialects.nft.values import Kind, OddError
from istio_init.netfilter.fields import Field
from istio_init.netfilter.protocols import DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE
from istio_init.netfilter.rules import Openness, Test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.ruleset import Json

IPV4, IPV6 = Test(Field.NFPROTO, ((2, 2),)), Test(Field.NFPROTO, ((10, 10),))

_PROTOCOLS = {
    "tcp": TCP,
    "udp": UDP,
    "udplite": UDPLITE,
    "dccp": DCCP,
    "sctp": SCTP,
    "icmp": ICMP,
    "icmpv6": ICMPV6,
    "esp": 50,
    "ah": 51,
    "comp": 108,
    "igmp": 2,
    "gre": 47,
}
_NETWORK = {"ip": IPV4, "ip6": IPV6}
_BY_FAMILY = {"icmp": IPV4, "icmpv6": IPV6}
"""Protocols that belong to one family: nft tests it along with them in inet tables."""

_DSCP = Operand(Kind.DSCP, 6, Field.TOS, mask=0xFC, shift=2)
_ECN = Operand(Kind.ECN, 2, Field.TOS, mask=3)
_NEXT = Operand(Kind.PROTOCOL, 8, Field.PROTOCOL)
_HOPS = Operand(Kind.NUMBER, 8, Field.TTL)
_FIELDS: dict[tuple[str, str], Operand] = {
    ("ip", "saddr"): Operand(Kind.IPV4, 32, Field.SOURCE),
    ("ip", "daddr"): Operand(Kind.IPV4, 32, Field.DESTINATION),
    ("ip", "protocol"): _NEXT,
    ("ip", "dscp"): _DSCP,
    ("ip", "ecn"): _ECN,
    ("ip", "ttl"): _HOPS,
    ("ip", "length"): Operand(Kind.NUMBER, 16, Field.LENGTH),
    ("ip", "version"): Operand(Kind.NUMBER, 4, Field.NFPROTO, cases=((4, ((2, 2),)),)),
    ("ip6", "saddr"): Operand(Kind.IPV6, 128, Field.SOURCE),
    ("ip6", "daddr"): Operand(Kind.IPV6, 128, Field.DESTINATION),
    ("ip6", "nexthdr"): _NEXT,
    ("ip6", "dscp"): _DSCP,
    ("ip6", "ecn"): _ECN,
    ("ip6", "hoplimit"): _HOPS,
    ("ip6", "length"): Operand(Kind.NUMBER, 16, Field.LENGTH, add=-40),
    ("ip6", "version"): Operand(Kind.NUMBER, 4, Field.NFPROTO, cases=((6, ((10, 10),)),)),
    ("tcp", "flags"): Operand(Kind.TCP_FLAGS, 8, Field.TCP_FLAGS),
    ("icmp", "type"): Operand(Kind.ICMP_TYPE, 8, Field.ICMP_TYPE),
    ("icmp", "code"): Operand(Kind.ICMP_CODE, 8, Field.ICMP_CODE),
    ("icmpv6", "type"): Operand(Kind.ICMPV6_TYPE, 8, Field.ICMP_TYPE),
    ("icmpv6", "code"): Operand(Kind.ICMPV6_CODE, 8, Field.ICMP_CODE),
    **{
        (protocol, name): Operand(Kind.NUMBER, 16, field)
        for protocol in ("tcp", "udp", "udplite", "dccp", "sctp")
        for name, field in (("sport", Field.SPORT), ("dport", Field.DPORT))
    },
    ("th", "sport"): Operand(Kind.NUMBER, 16, Field.SPORT, of_any_transport=True),
    ("th", "dport"): Operand(Kind.NUMBER, 16, Field.DPORT, of_any_transport=True),
}
EVERY_FAMILY = ((0, 255),)
_FRAGMENT = Operand(Kind.NUMBER, 16, Field.NFPROTO, cases=((0, EVERY_FAMILY),))
"""``ip frag-off & 0x1fff``: the offset, 0 for a whole packet, or the first of its fragments."""
_OFFSET = 0x1FFF

_IPV4_PLACES = (
    (8, 8, Field.TOS),
    (16, 16, Field.LENGTH),
    (64, 8, Field.TTL),
    (72, 8, Field.PROTOCOL),
    (96, 32, Field.SOURCE),
    (128, 32, Field.DESTINATION),
)
_IPV6_PLACES = (
    (48, 8, Field.PROTOCOL),
    (56, 8, Field.TTL),
    (64, 128, Field.SOURCE),
    (192, 128, Field.DESTINATION),
)
_PORT_PLACES = ((0, 16, Field.SPORT), (16, 16, Field.DPORT))


def payload(body: dict[str, Json], family: str) -> Operand:
    """A field of a header, with the tests of protocols that nft puts before it and leaves out when it prints."""
    if "base" in body:
        return _bytes(body, family)
    protocol, name = body.get("protocol"), body.get("field")
    if not (isinstance(protocol, str) and isinstance(name, str)):
        raise OddError("a header without a name")
    known = _READY.get((protocol, name, family))
    return known if known is not None else _field(protocol, name, family)


def _field(protocol: str, name: str, family: str) -> Operand:
    needs = []
    network = _NETWORK.get(protocol) or (_BY_FAMILY.get(protocol) if family == "inet" else None)
    if network is not None and network is not _NETWORK.get(family):
        needs.append(network)  # Of the other family it is a header that no packet has.
    if protocol in _PROTOCOLS:
        needs.append(Test(Field.PROTOCOL, ((_PROTOCOLS[protocol], _PROTOCOLS[protocol]),)))
    known = _FIELDS.get((protocol, name))
    if known is None:
        known = Operand(Kind.NUMBER, 32, openness=Openness.NOT_GIVEN)
    return known.replace(needs=tuple(needs)) if needs else known


_READY = {
    (protocol, name, family): _field(protocol, name, family)
    for protocol, name in _FIELDS
    for family in ("ip", "ip6", "inet")
}


def is_fragment_offset(expression: Json) -> bool:
    """Whether it is ``ip frag-off & 0x1fff``."""
    match expression:
        case {"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, int(mask)]}:
            return mask | _OFFSET == _OFFSET
        case {"&": [int(mask), {"payload": {"protocol": "ip", "field": "frag-off"}}]}:
            return mask | _OFFSET == _OFFSET
    return False


def fragment_offset(family: str) -> Operand:
    """The offset of a fragment."""
    return _FRAGMENT if family == "ip" else _FRAGMENT.replace(needs=(IPV4,))


def _bytes(body: dict[str, Json], family: str) -> Operand:
    """Bits by their place, where they are those of one known field."""
    base, offset, length = body.get("base"), body.get("offset"), body.get("len")
    if not (isinstance(offset, int) and isinstance(length, int) and 0 < length <= 128 and offset >= 0):
        raise OddError("bytes without a place")
    places: tuple[tuple[int, int, Field], ...] = ()
    if base == "th":
        places = _PORT_PLACES
    elif base == "nh":
        places = {"ip": _IPV4_PLACES, "ip6": _IPV6_PLACES}.get(family, ())
    for start, size, field in places:
        if start <= offset and offset + length <= start + size:
            shift = start + size - offset - length
            mask = ((1 << length) - 1) << shift
            return Operand(Kind.NUMBER, length, field, mask, shift=shift, of_any_transport=base == "th")
    return Operand(Kind.NUMBER, length)
