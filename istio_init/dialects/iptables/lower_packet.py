"""Matches that look at the packet alone."""

from __future__ import annotations

from istio_init.dialects.iptables.icmp import ICMP_TYPES, ICMPV6_TYPES, icmp_type
from istio_init.dialects.iptables.lower_extension import address_range, masked_test, number, number_range
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import union
from istio_init.netfilter.rules import AnyOf, Never, Openness, Test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.lower_extension import Asked, Lowered
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Condition, Statement

TCP_FLAGS = {
    "FIN": 1,
    "SYN": 2,
    "RST": 4,
    "PSH": 8,
    "ACK": 16,
    "URG": 32,
    "ALL": 63,
    "NONE": 0,
}
"""As iptables-extensions(8) names them for --tcp-flags."""

_PORTS = {
    "--sport": Field.SPORT,
    "--source-port": Field.SPORT,
    "--dport": Field.DPORT,
    "--destination-port": Field.DPORT,
}
_HIGHEST_PORT = 65535


def _port_test(field: Field, text: str, negated: bool) -> Test:
    return Test(field, number_range(text, ":", _HIGHEST_PORT), None, negated, False)


def tcp(asked: Asked) -> Lowered:
    """tcp: ports and flags (tcp_mt in xt_tcpudp.c). Options of the TCP header are not known of a packet."""
    found: list[Statement] = []
    for flag, negated, values in asked.options():
        if flag in _PORTS:
            [value] = values
            found.append(_port_test(_PORTS[flag], value, negated))
        elif flag == "--tcp-flags":
            mask, wanted = [sum({TCP_FLAGS[name] for name in value.split(",")}) for value in values]
            found.append(Test(Field.TCP_FLAGS, ((wanted, wanted),), mask, negated, False))
        elif flag == "--syn" and not values:
            found.append(Test(Field.TCP_FLAGS, ((2, 2),), 1 | 2 | 4 | 16, negated, False))
        elif flag == "--tcp-option":
            found.append(asked.undecided(Openness.NOT_GIVEN))
        else:
            raise ValueError(flag)
    return tuple(found)


def ports(asked: Asked) -> Lowered:
    """udp, udplite, sctp, dccp: ports; what else sctp and dccp look at is not known of a packet."""
    found: list[Statement] = []
    for flag, negated, values in asked.options():
        if flag in _PORTS:
            [value] = values
            found.append(_port_test(_PORTS[flag], value, negated))
        else:
            found.append(asked.undecided(Openness.NOT_GIVEN))
    return tuple(found)


_MULTIPORT = {
    "--sports": (Field.SPORT,),
    "--source-ports": (Field.SPORT,),
    "--dports": (Field.DPORT,),
    "--destination-ports": (Field.DPORT,),
    "--ports": (Field.SPORT, Field.DPORT),
}


def multiport(asked: Asked) -> Lowered:
    """multiport: one of the ports, or, negated, none (xt_multiport.c). What has no ports fails either."""
    [(flag, negated, [value])] = asked.options()
    within = union(number_range(each, ":", _HIGHEST_PORT) for each in value.split(","))
    tests = tuple([Test(field, within, None, negated, False) for field in _MULTIPORT[flag]])
    return tests if negated or len(tests) == 1 else (AnyOf(tuple([(test,) for test in tests])),)


def icmp(asked: Asked) -> Lowered:
    """icmp: a type with one code or all; ``any`` is 255, whose negation no packet passes (icmp_type_code_match)."""
    [(_, negated, [value])] = asked.options()
    kind, code = (255, None) if value == "any" else icmp_type(value, ICMP_TYPES)
    if kind == 255:
        return (Never(),) if negated else ()
    return _icmp_type(kind, code, negated)


def icmp6(asked: Asked) -> Lowered:
    """icmp6: a type with one code or all (icmp6_type_code_match in ip6_tables.c)."""
    [(_, negated, [value])] = asked.options()
    return _icmp_type(*icmp_type(value, ICMPV6_TYPES), negated)


def _icmp_type(kind: int, code: int | None, negated: bool) -> Lowered:
    of_type = Test(Field.ICMP_TYPE, ((kind, kind),), None, negated and code is None, False)
    if code is None:
        return (of_type,)
    of_code = Test(Field.ICMP_CODE, ((code, code),), None, False, False)
    if not negated:
        return of_type, of_code
    return (AnyOf(((of_type, of_code),), True),)


def mark(asked: Asked) -> Lowered:
    """mark: the packet's mark under a mask (xt_mark.c)."""
    [(_, negated, [value])] = asked.options()
    return (masked_test(Field.MARK, value, negated),)


def length(asked: Asked) -> Lowered:
    """length: bytes with the IP header (xt_length.c)."""
    [(_, negated, [value])] = asked.options()
    return (Test(Field.LENGTH, number_range(value, ":", 65535), None, negated, False),)


def hop_limit(asked: Asked) -> Lowered:
    """ttl, hl: equal, lower or greater (xt_hl.c)."""
    [(flag, negated, [value])] = asked.options()
    limit = number(value, 255)
    within: Intervals
    match flag[-3:]:
        case "-eq":
            within = ((limit, limit),)
        case "-lt":
            within = ((0, limit - 1),) if limit else ()
        case "-gt":
            within = ((limit + 1, 255),) if limit < 255 else ()
        case _:
            raise ValueError(flag)
    return (Test(Field.TTL, within, None, negated, False),)


def dscp(asked: Asked) -> Lowered:
    """dscp: the upper six bits of the TOS byte (xt_dscp.c)."""
    [(flag, negated, [value])] = asked.options()
    if flag != "--dscp":
        raise ValueError(flag)
    wanted = number(value, 63) << 2
    return (Test(Field.TOS, ((wanted, wanted),), 0xFC, negated, False),)


def tos(asked: Asked) -> Lowered:
    """tos: the TOS byte under a mask (xt_dscp.c)."""
    [(_, negated, [value])] = asked.options()
    return (masked_test(Field.TOS, value, negated, 0xFF),)


def ecn(asked: Asked) -> Lowered:
    """ecn: the two ECN bits of the IP header and the two of TCP's (xt_ecn.c)."""
    found: list[Statement] = []
    for flag, negated, values in asked.options():
        if flag in ("--ecn-tcp-cwr", "--ecn-tcp-ece"):
            bit = 128 if flag.endswith("cwr") else 64
            found.append(Test(Field.TCP_FLAGS, ((bit, bit),), bit, negated, False))
        elif flag == "--ecn-ip-ect":
            wanted = number(values[0], 3)
            found.append(Test(Field.TOS, ((wanted, wanted),), 3, negated, False))
        else:
            raise ValueError(flag)
    return tuple(found)


_SIDES = {"--src-range": Field.SOURCE, "--dst-range": Field.DESTINATION}


def iprange(asked: Asked) -> Lowered:
    """iprange: source and destination within ranges of addresses (xt_iprange.c). In a reversed one is none."""
    found: list[Condition] = []
    for flag, negated, [value] in asked.options():
        low, high = address_range(value, asked.family, is_ordered=False)
        if low <= high:
            found.append(Test(_SIDES[flag], ((low, high),), None, negated, False))
        elif not negated:
            found.append(Never())
    return tuple(found)


_PACKET_TYPES = {"unicast": 0, "broadcast": 1, "multicast": 2}
_LOOPED_BACK = 5
_IPV4_MULTICAST = ((0xE0000000, 0xEFFFFFFF),)


def pkttype(asked: Asked) -> Lowered:
    """pkttype: how the frame came; what is looped back counts as broadcast or multicast (xt_pkttype.c)."""
    [(_, negated, [value])] = asked.options()
    kind = _PACKET_TYPES[value]
    as_sent = Test(Field.PKTTYPE, ((kind, kind),), None, False, False)
    looped = Test(Field.PKTTYPE, ((_LOOPED_BACK, _LOOPED_BACK),), None, False, False)
    if asked.family is Family.IPV6:
        if value == "multicast":
            return (AnyOf(((as_sent,), (looped,)), negated),)
    elif value != "unicast":
        other = value != "multicast"
        return (AnyOf(((as_sent,), (looped, Test(Field.DESTINATION, _IPV4_MULTICAST, None, other, False))), negated),)
    return (as_sent.replace(negated=negated),)
