"""The routing of the current network namespace as the kernel has it: all rules and all tables, in its order.

A rule or a route that asks for something that is not modelled is one that is not known (linux/fib_rules.h,
rtnetlink.h).
"""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address, ip_network

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.host import Route, RoutingRule
from istio_init.system.netlink import (
    FAMILIES,
    NETLINK_ROUTE,
    RTM_GETROUTE,
    RTM_GETRULE,
    dump,
    parse_attributes,
    text_of,
    understood,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.netfilter.host import Address, Network

DST, SRC = 1, 2
"""In rules and in routes."""

IIFNAME, GOTO, PRIORITY, FWMARK, FLOW, TUN_ID, SUPPRESS_IFGROUP, SUPPRESS_PREFIXLEN = 3, 4, 6, 10, 11, 12, 13, 14
FRA_TABLE, FWMASK, OIFNAME, FRA_PAD, UID_RANGE, MADE_BY, IP_PROTO, SPORT_RANGE, DPORT_RANGE = (
    *range(15, 19),
    *range(20, 25),
)
DSCP, SPORT_MASK, DPORT_MASK = 25, 28, 29
RULE_READ = frozenset(
    [
        DST,
        SRC,
        IIFNAME,
        GOTO,
        PRIORITY,
        FWMARK,
        FRA_TABLE,
        FWMASK,
        OIFNAME,
        UID_RANGE,
        IP_PROTO,
        SPORT_RANGE,
        DPORT_RANGE,
    ]
)
RULE_IDLE = frozenset([FLOW, FRA_PAD, MADE_BY])
"""A realm, padding, who made the rule: nothing that selects."""

RULE_UNLESS: Mapping[int, int] = {
    TUN_ID: 0,
    SUPPRESS_IFGROUP: 0xFFFFFFFF,
    SPORT_MASK: 0xFFFF,
    DPORT_MASK: 0xFFFF,
}
"""Attributes that are there and mean nothing, with the value that does."""

INVERT, UNRESOLVED = 0x2, 0x4
TO_TABLE, GO_TO = 1, 2
NO_SUPPRESSION = 0xFFFFFFFF
RULE_ACTIONS = {6: AddressType.BLACKHOLE, 7: AddressType.UNREACHABLE, 8: AddressType.PROHIBIT}

OIF, GATEWAY, METRIC, PREFSRC, METRICS, MULTIPATH, CACHEINFO, TABLE = *range(4, 10), 12, 15
VIA, PREF, EXPIRES, PAD, TTL_PROPAGATE, NH_ID = 18, 20, 23, 24, 26, 30
ROUTE_READ = frozenset([DST, OIF, GATEWAY, METRIC, PREFSRC, MULTIPATH, TABLE, VIA])
ROUTE_IDLE = frozenset([METRICS, FLOW, CACHEINFO, PREF, EXPIRES, PAD, TTL_PROPAGATE, NH_ID])
"""Nothing that leads a packet elsewhere; a router's preference decides between several routes alone."""

CLONED = 0x200
"""An exception that the kernel made for a destination: the path's MTU or a redirection by ICMP."""
DEAD = 0x1
NOWHERE = frozenset([AddressType.BLACKHOLE, AddressType.UNREACHABLE, AddressType.PROHIBIT, AddressType.THROW])
FAMILY_OF_LENGTH = {4: 2, 16: 10}


@understood
def rules() -> dict[Family, tuple[RoutingRule, ...]]:
    """The routing rules by family, in the order in which they are asked.

    Raises:
        OSError: the kernel does not tell.
    """
    found: dict[Family, list[RoutingRule]] = {family: [] for family in Family}
    for body in dump(NETLINK_ROUTE, RTM_GETRULE, bytes(12)):
        if body[0] in FAMILIES:
            found[FAMILIES[body[0]]].append(_rule(body))
    return {family: tuple(each) for family, each in found.items()}


def _rule(body: bytes) -> RoutingRule:
    family, destination, source, tos, table, _, _, action, flags = struct.unpack_from("=8BI", body)
    attributes = parse_attributes(body, 12)
    others = attributes.keys() - RULE_IDLE - RULE_READ - {DSCP, SUPPRESS_PREFIXLEN}
    told = (action, flags & UNRESOLVED)
    return RoutingRule(
        priority=_number(attributes.get(PRIORITY, b"")),
        table=_number(attributes.get(FRA_TABLE, bytes([table]))) if action == TO_TABLE else None,
        action=None if action == TO_TABLE else RULE_ACTIONS.get(action, AddressType.THROW),
        source=_network(attributes.get(SRC), source, family) if source else None,
        destination=_network(attributes.get(DST), destination, family) if destination else None,
        in_interface=_name(attributes.get(IIFNAME)),
        out_interface=_name(attributes.get(OIFNAME)),
        mark=_number(attributes.get(FWMARK, b"")) if attributes.keys() & {FWMARK, FWMASK} else None,
        mask=_number(attributes.get(FWMASK, b"\xff" * 4)),
        uids=_range(attributes.get(UID_RANGE)),
        protocol=_number(attributes[IP_PROTO]) if IP_PROTO in attributes else None,
        sports=_range(attributes.get(SPORT_RANGE)),
        dports=_range(attributes.get(DPORT_RANGE)),
        tos=tos or None,
        negated=bool(flags & INVERT),
        suppressed_prefix_length=_suppressed(attributes),
        goes_to=_number(attributes[GOTO]) if told == (GO_TO, 0) and GOTO in attributes else None,
        is_known=DSCP not in attributes and all(_number(attributes[kind]) == RULE_UNLESS.get(kind) for kind in others),
    )


def _suppressed(attributes: Mapping[int, bytes]) -> int | None:
    length = _number(attributes.get(SUPPRESS_PREFIXLEN, b"\xff" * 4))
    return None if length == NO_SUPPRESSION else length


@understood
def routes(names: Mapping[int, str]) -> dict[Family, tuple[Route, ...]]:
    """The routes of all tables by family, in the kernel's order; ``names`` are the interfaces' by their index.

    A route of several next hops comes as several routes.

    Raises:
        OSError: the kernel does not tell.
    """
    found: dict[Family, list[Route]] = {family: [] for family in Family}
    for body in dump(NETLINK_ROUTE, RTM_GETROUTE, bytes(12)):
        if body[0] in FAMILIES:
            found[FAMILIES[body[0]]] += _routes(body, names)
    return {
        Family.IPV4: tuple(found[Family.IPV4]),
        Family.IPV6: _with_siblings(found[Family.IPV6]),
    }


def _routes(body: bytes, names: Mapping[int, str]) -> Iterator[Route]:
    family, length, source_length, tos, table, _, _, kind, flags = struct.unpack_from("=8BI", body)
    if flags & CLONED:
        return
    attributes = parse_attributes(body, 12)
    known_type = kind < len(AddressType)
    first = Route(
        table=_number(attributes.get(TABLE, bytes([table]))),
        destination=_network(attributes.get(DST), length, family),
        type=AddressType(kind) if known_type else AddressType.UNSPEC,
        source=ip_address(attributes[PREFSRC]) if PREFSRC in attributes else None,
        metric=_number(attributes.get(METRIC, b"")),
        is_known=known_type and not (source_length or tos) and attributes.keys() <= ROUTE_READ | ROUTE_IDLE,
    )
    if first.type in NOWHERE:
        yield first
    elif MULTIPATH in attributes:
        hops = list(_hops(attributes[MULTIPATH]))
        for index, each in hops:
            hop = _hop(first, index, each, names)
            yield hop.replace(
                is_one_of_several=len(hops) > 1, is_known=hop.is_known and each.keys() <= ROUTE_READ | ROUTE_IDLE
            )
    elif not flags & DEAD:
        yield _hop(first, _number(attributes.get(OIF, b"")), attributes, names)


def _hops(packed: bytes) -> Iterator[tuple[int, Mapping[int, bytes]]]:
    """The next hops that are alive: interface and attributes (struct rtnexthop)."""
    offset = 0
    while offset + 8 <= len(packed):
        length, flags, index = struct.unpack_from("=HBxi", packed, offset)
        if length < 8:
            return
        if not flags & DEAD:
            yield index, parse_attributes(packed[offset : offset + length], 8)
        offset += (length + 3) & ~3


def _hop(route: Route, index: int, attributes: Mapping[int, bytes], names: Mapping[int, str]) -> Route:
    packed = attributes.get(GATEWAY) or attributes.get(VIA, b"")[2:]
    device = names.get(index)
    gateway = ip_address(packed) if len(packed) in FAMILY_OF_LENGTH else None
    return route.replace(device=device, gateway=gateway, is_known=route.is_known and device is not None)


def _with_siblings(found: list[Route]) -> tuple[Route, ...]:
    """IPv6 has the next hops of a route as routes of their own, and prefers one of equals by more than their order."""
    counts: dict[tuple[int, Network, int], int] = {}
    for each in found:
        key = each.table, each.destination, each.metric
        counts[key] = counts.get(key, 0) + 1
    several = {key for key, count in counts.items() if count > 1}
    return tuple(
        each.replace(is_one_of_several=True) if (each.table, each.destination, each.metric) in several else each
        for each in found
    )


def _network(packed: bytes | None, length: int, family: int) -> Network:
    address: Address = ip_address(packed or bytes(4 if FAMILIES[family] is Family.IPV4 else 16))
    return ip_network((address, length), strict=False)


def _name(packed: bytes | None) -> str | None:
    return None if packed is None else text_of(packed)


def _range(packed: bytes | None) -> tuple[int, int] | None:
    if packed is None:
        return None
    half = len(packed) // 2
    return _number(packed[:half]), _number(packed[half:])


def _number(packed: bytes) -> int:
    """A number in the machine's own order; 0 where there is none."""
    return int.from_bytes(packed, sys.byteorder)
