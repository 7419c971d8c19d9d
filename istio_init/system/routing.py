"""The routing that TPROXY, IPv6 capture and ambient pods need: read and changed over netlink."""

from __future__ import annotations

import errno
import os
import struct
from ipaddress import IPv6Address

from istio_init.errors import ToolError
from istio_init.mesh.routing import LiveRouting, MarkRoute, Routing
from istio_init.netfilter.family import MAX_MARK, Family
from istio_init.system import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PASSTHROUGH_IPV6 = IPv6Address("::6")
LO_INDEX = 1
RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWRULE = 20, 24, 32
"""To add an address, a route, a routing rule; the number behind each removes it (linux/rtnetlink.h)."""
REMOVES = 1
NEW = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
IFA_ADDRESS, RTA_OIF, RTA_TABLE, FRA_TABLE = 1, 4, 15, 15
RTPROT_UNSPEC, RTPROT_BOOT = 0, 3
"""Who made a route: ip(8)'s own mark for adding, anybody's for removing."""
RT_SCOPE_UNIVERSE, RT_SCOPE_HOST = 0, 254
PREFERENCE = 32000
"""Of a routing rule for which none is asked. The kernel's own choice depends on the rules of others at that time."""
RT_TABLE_COMPAT = 252
"""Stands where the number of a table does not fit."""


def read(tables: frozenset[int]) -> LiveRouting:
    """The routing rules by mark, the tables that deliver locally, and whether ``::6`` is on lo.

    ``tables`` are tables of interest besides those that the rules lead to; all routes are read only where there is one.
    """
    every = netlink.mark_rules()
    rules = tuple((rule.family, rule.mark, rule.table) for rule in every if rule.mask == MAX_MARK)
    masked = tuple(_route_of(rule) for rule in every if rule.mask != MAX_MARK)
    passthrough = any(each.address == PASSTHROUGH_IPV6 and each.index == LO_INDEX for each in netlink.addresses())
    local_tables = netlink.local_default_tables() if every or tables else set()
    return LiveRouting(rules, frozenset(local_tables), passthrough, masked)


def _route_of(rule: netlink.MarkRule) -> MarkRoute:
    return MarkRoute(rule.family, rule.mark, rule.table, rule.mask, rule.preference)


def exactly(wanted: Routing) -> LiveRouting:
    """What `read` gives where there is just the wanted routing."""
    routes = wanted.mark_routes
    return LiveRouting(
        tuple((route.family, route.mark, route.table) for route in routes if route.mask == MAX_MARK),
        frozenset((route.family, route.table) for route in routes if route.has_route),
        wanted.passthrough_ipv6,
        tuple(route.replace(has_route=True) for route in routes if route.mask != MAX_MARK),
    )


def ipv6_on_lo() -> bool:
    """Whether lo of the current namespace has IPv6, without which nothing can be delivered by it."""
    try:
        with open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", encoding="ascii") as setting:
            return setting.read().strip() == "0"
    except OSError:
        return False


def ipv6_in_kernel() -> bool:
    """Whether the kernel has IPv6 at all: not where it was started with ``ipv6.disable=1``, or built without."""
    return os.path.exists("/proc/sys/net/ipv6")


def add(wanted: Routing, live: LiveRouting) -> None:
    """Add what is wanted and missing.

    Raises:
        ToolError: the kernel refused; says which part and why.
    """
    if wanted.passthrough_ipv6 and not live.passthrough_ipv6:
        _change("::6/128 cannot be added to lo", _passthrough, NEW)
    for route in wanted.mark_routes:
        if route.has_route and not live.delivers(route):
            _change(f"a local default route cannot be added to table {route.table}", _route, NEW, route)
        if not live.holds(route):
            _change(f"the routing rule for mark {route.selector} cannot be added", _rule, NEW, route)


def remove(unwanted: Routing, live: LiveRouting) -> None:
    """Remove what is ours and not wanted; a routing rule as often as it is there, after the route that it leads to.

    Raises:
        ToolError: the kernel refused; says which part and why.
    """
    removed: set[tuple[Family, int]] = set()
    for route in unwanted.mark_routes:
        place = route.family, route.table
        if live.delivers(route) and place not in {*unwanted.shared_tables, *removed}:
            what = f"the local default route cannot be removed from table {route.table}"
            _change(what, _route, 0, route)
            removed.add(place)
        for body in netlink.dump(netlink.NETLINK_ROUTE, netlink.RTM_GETRULE, bytes(12)):
            rule = netlink.mark_rule(body)
            if rule is not None and route.is_met_by(_route_of(rule)):
                _remove_rule(body, f"the routing rule for mark {route.selector} cannot be removed")
    if unwanted.passthrough_ipv6 and live.passthrough_ipv6:
        _change("::6/128 cannot be removed from lo", _passthrough, 0)


def _remove_rule(body: bytes, failure: str) -> None:
    """Remove just this rule: the kernel gets back all that it told of it, whoever made it."""
    _ask(failure, RTM_NEWRULE + REMOVES, body, 0, errno.ENOENT)


def put_back(before: LiveRouting, now: LiveRouting, added: Routing | None = None) -> None:
    """Return from one state to an earlier one, as far as routing by mark and the passthrough address go.

    ``added`` is what was to be added: its routes go also where the rules that lead to them were never made.

    Raises:
        ToolError: the kernel refused.
    """
    lost_tables = before.local_tables - now.local_tables
    gone = [
        route.replace(has_route=before.delivers(route))
        for route in before.every
        if not now.holds(route) or (route.family, route.table) in lost_tables
    ]
    add(Routing(tuple(dict.fromkeys(gone)), before.passthrough_ipv6), now)
    new = [route for route in now.every if not before.holds(route)]
    passthrough = now.passthrough_ipv6 and not before.passthrough_ipv6
    kept = now.replace(local_tables=now.local_tables - before.local_tables)
    remove(Routing(tuple(dict.fromkeys(new)), passthrough), kept)
    led_to = {(route.family, route.table) for route in new}
    for route in added.mark_routes if added is not None else ():
        place = route.family, route.table
        if place in now.local_tables - before.local_tables and place not in led_to:
            _change(f"the local default route cannot be removed from table {route.table}", _route, 0, route)
            led_to.add(place)


def _change(failure: str, message: Callable[..., tuple[int, bytes]], flags: int, *args: MarkRoute) -> None:
    """Add or remove; what is to be ``NEW`` must not be there."""
    request, body = message(*args, adds=bool(flags))
    _ask(failure, request + (0 if flags else REMOVES), body, flags)


def _ask(failure: str, request: int, body: bytes, flags: int, *fine: int) -> None:
    try:
        number = netlink.ask(netlink.NETLINK_ROUTE, request, body, flags)
    except OSError as error:
        number = error.errno or errno.EIO
    if number not in (0, *fine):
        raise ToolError(f"{failure}: {os.strerror(number)}", fix=_explain(number))


def _explain(code: int) -> str | None:
    if code in (13, 95):
        return "IPv6 is off on lo: see net.ipv6.conf.lo.disable_ipv6 and net.ipv6.conf.all.disable_ipv6"
    if code == 1:
        return "run as root, or with the capability NET_ADMIN"
    return None


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


def _family(family: Family) -> int:
    return next(number for number, each in netlink.FAMILIES.items() if each is family)


def _passthrough(*, adds: bool) -> tuple[int, bytes]:
    header = struct.pack("=4BI", _family(Family.IPV6), 128, 0, 0, LO_INDEX)
    return RTM_NEWADDR, header + netlink.attribute(IFA_ADDRESS, PASSTHROUGH_IPV6.packed)


def _rule(route: MarkRoute, *, adds: bool) -> tuple[int, bytes]:
    table = route.table if route.table < 256 else RT_TABLE_COMPAT
    body = struct.pack("=8BI", _family(route.family), 0, 0, 0, table, 0, 0, netlink.FR_ACT_TO_TBL, 0)
    body += netlink.attribute(netlink.FRA_FWMARK, _number(route.mark)) + netlink.attribute(
        FRA_TABLE, _number(route.table)
    )
    if route.mask != MAX_MARK:
        body += netlink.attribute(netlink.FRA_FWMASK, _number(route.mask))
    preference = PREFERENCE if route.preference is None else route.preference
    body += netlink.attribute(netlink.FRA_PRIORITY, _number(preference))
    return RTM_NEWRULE, body


def _route(route: MarkRoute, *, adds: bool) -> tuple[int, bytes]:
    """The local default route of a table."""
    table = route.table if route.table < 256 else RT_TABLE_COMPAT
    scope = RT_SCOPE_HOST if route.family is Family.IPV4 else RT_SCOPE_UNIVERSE
    made_by = RTPROT_BOOT if adds else RTPROT_UNSPEC
    body = struct.pack("=8BI", _family(route.family), 0, 0, 0, table, made_by, scope, netlink.RTN_LOCAL, 0)
    body += netlink.attribute(RTA_OIF, _number(LO_INDEX)) + netlink.attribute(RTA_TABLE, _number(route.table))
    return RTM_NEWROUTE, body
