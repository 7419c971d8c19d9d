"""The routing that TPROXY, IPv6 capture and ambient pods need: read over netlink, changed through pyroute2."""

from __future__ import annotations

import errno
import os
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
RTM_DELRULE = 33
RTPROT_UNSPEC, RTPROT_BOOT = 0, 3
"""Who made a route: ip(8)'s own mark for adding, anybody's for removing (linux/rtnetlink.h)."""


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
        _change("::6/128 cannot be added to lo", _passthrough, "add")
    for route in wanted.mark_routes:
        if route.has_route and not live.delivers(route):
            _change(f"a local default route cannot be added to table {route.table}", _route, "add", route)
        if not live.holds(route):
            _change(f"the routing rule for mark {route.selector} cannot be added", _rule, "add", route)


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
            _change(what, _route, "del", route)
            removed.add(place)
        for body in netlink.dump(netlink.NETLINK_ROUTE, netlink.RTM_GETRULE, bytes(12)):
            rule = netlink.mark_rule(body)
            if rule is not None and route.is_met_by(_route_of(rule)):
                _remove_rule(body, f"the routing rule for mark {route.selector} cannot be removed")
    if unwanted.passthrough_ipv6 and live.passthrough_ipv6:
        _change("::6/128 cannot be removed from lo", _passthrough, "del")


def _remove_rule(body: bytes, failure: str) -> None:
    """Remove just this rule: the kernel gets back all that it told of it, whoever made it."""
    try:
        number = netlink.ask(netlink.NETLINK_ROUTE, RTM_DELRULE, body)
    except OSError as error:
        number = error.errno or errno.EIO
    if number not in (0, errno.ENOENT):
        raise ToolError(f"{failure}: {os.strerror(number)}", fix=_explain(number))


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
            _change(f"the local default route cannot be removed from table {route.table}", _route, "del", route)
            led_to.add(place)


def _change(failure: str, change: Callable[..., None], *args: object) -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            change(ip, *args)
    except NetlinkError as error:
        raise ToolError(f"{failure}: {error.args[-1]}", fix=_explain(error.code)) from error


def _explain(code: int) -> str | None:
    if code in (13, 95):
        return "IPv6 is off on lo: see net.ipv6.conf.lo.disable_ipv6 and net.ipv6.conf.all.disable_ipv6"
    if code == 1:
        return "run as root, or with the capability NET_ADMIN"
    return None


def _passthrough(ip: IPRoute, verb: str) -> None:
    ip.addr(verb, index=LO_INDEX, address=str(PASSTHROUGH_IPV6), prefixlen=128, family=10)


def _number_of(family: Family) -> int:
    return next(number for number, each in netlink.FAMILIES.items() if each is family)


def _rule(ip: IPRoute, verb: str, route: MarkRoute) -> None:
    more = {"fwmask": route.mask} if route.mask != MAX_MARK else {}
    if route.preference is not None:
        more["priority"] = route.preference
    ip.rule(verb, family=_number_of(route.family), fwmark=route.mark, table=route.table, **more)


def _route(ip: IPRoute, verb: str, route: MarkRoute) -> None:
    ip.route(
        verb,
        family=_number_of(route.family),
        dst="default",
        oif=LO_INDEX,
        table=route.table,
        type="local",
        proto=RTPROT_BOOT if verb == "add" else RTPROT_UNSPEC,
        scope="host" if route.family is Family.IPV4 else "universe",
    )


if TYPE_CHECKING:
    from pyroute2 import IPRoute
