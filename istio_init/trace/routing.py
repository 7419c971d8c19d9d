"""Routing as a function: where the rules and tables of a host send a packet (net/core/fib_rules.c, ip-rule(8))."""

from __future__ import annotations

from copy import copy

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.host import DEFAULT_TABLE, LOCAL_TABLE, MAIN_TABLE, RoutingRule
from istio_init.netfilter.rules import Cause, Openness
from istio_init.trace.state import Unsure
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.netfilter.host import Host, Network, Route
    from istio_init.trace.state import Number

LOOPBACK_DEVICE = "lo"

FAILURES = {
    AddressType.UNREACHABLE: "unreachable",
    AddressType.BLACKHOLE: "blackhole",
    AddressType.PROHIBIT: "prohibit",
}
"""Routes and rules that end the search without a route (fib_props)."""

DEFAULT_RULES = tuple(
    RoutingRule(priority, table) for priority, table in ((0, LOCAL_TABLE), (32766, MAIN_TABLE), (32767, DEFAULT_TABLE))
)


class Query(Value):
    """What routing is asked. ``in_interface`` is lo for what this machine sends (LOOPBACK_IFINDEX)."""

    destination: int
    source: int | None = 0
    in_interface: str = LOOPBACK_DEVICE
    out_interface: str | None = None
    mark: Number = 0
    uid: int | None = 0
    tos: Number = 0
    protocol: int | None = 0
    sport: Number = 0
    dport: Number = 0


class Found(Value):
    """A route. ``type`` is UNREACHABLE where there is none, and ``words`` say so.

    ``device`` is lo for what is for this machine; ``named`` is then the one that the route itself names.
    """

    type: AddressType
    device: str | None = None
    words: str = ""
    named: str | None = None


NO_ROUTE = Found(AddressType.UNREACHABLE, None, "no route")

Finds = tuple[tuple[Found, ...], tuple[Cause, ...]]
"""The routes that are possible, the first of them the likeliest, and why it is not one alone."""


class Tables:
    """The routing tables of a family, sorted for look-ups."""

    def __init__(self, host: Host, family: Family) -> None:
        self.bits = family.bits
        self.rules = (host.rules or {}).get(family, DEFAULT_RULES)
        has_custom_rules = [(rule.priority, rule.table) for rule in self.rules] != [
            (rule.priority, rule.table) for rule in DEFAULT_RULES
        ]
        self.checks_every_source = has_custom_rules or self._has_custom_local_routes(host, family)
        """Whether the way back is asked for of every source, even where rp_filter is off (fib_validate_source)."""
        self.tables: dict[int, dict[int, dict[int, list[Route]]]] = {}
        for route in (host.routes or {}).get(family, ()):
            length, network = route.destination.prefixlen, int(route.destination.network_address)
            by_network = self.tables.setdefault(route.table, {}).setdefault(length, {})
            by_network.setdefault(network, []).append(route)
        for table, by_length in self.tables.items():
            for by_network in by_length.values():
                for routes in by_network.values():
                    routes.sort(key=lambda route: route.metric)
            self.tables[table] = dict(sorted(by_length.items(), reverse=True))

    @staticmethod
    def _has_custom_local_routes(host: Host, family: Family) -> bool:
        """Whether somebody added a route of type local, beside those that come with addresses."""
        own = {int(each) for each in host.addresses}
        return any(
            route.type is AddressType.LOCAL
            and (route.destination.prefixlen < family.bits or int(route.destination.network_address) not in own)
            and not route.destination.is_loopback
            for route in (host.routes or {}).get(family, ())
        )

    def without(self, **selectors: None) -> Tables:
        """The same, where it cannot be told whether rules match that select by any of these."""
        other = copy(self)
        other.rules = tuple(
            rule
            if all(getattr(rule, name) is None for name in selectors)
            else rule.replace(**selectors, is_known=False)
            for rule in self.rules
        )
        return other

    def candidates(self, table: int, destination: int) -> Iterator[Route]:
        """The routes of a table for an address, the most special first."""
        for length, by_network in self.tables.get(table, {}).items():
            shift = self.bits - length
            yield from by_network.get(destination >> shift << shift, ())

    def look_up(self, query: Query) -> Finds:
        """Where the rules lead: to one route, or to several where it is undecidable which."""
        found: list[Found] = []
        causes: list[Cause] = []
        self._ask(0, query, found, causes)
        distinct = tuple(dict.fromkeys(found))
        return distinct, tuple(dict.fromkeys(causes)) if len(distinct) > 1 else ()

    def _ask(self, first: int, query: Query, found: list[Found], causes: list[Cause]) -> None:
        """Ask the rules from one on."""
        for place, rule in enumerate(self.rules[first:], first):
            matches = _matches(rule, query)
            if matches is False:
                continue
            target = self.target(rule, place)
            if target is not None:
                self._ask(target, query, found, causes)
                ends: list[Found | None] = []
            else:
                ends, why = self._follow(rule, query)
                causes += why
                found += (end for end in ends if end is not None)
            if isinstance(matches, Cause):
                causes.append(matches)
            elif None not in ends:
                return
        found.append(NO_ROUTE)

    def target(self, rule: RoutingRule, place: int) -> int | None:
        """Where a rule at a place goes on that is a goto, which leads forwards alone."""
        if rule.goes_to is None:
            return None
        return next((at for at, each in enumerate(self.rules) if at > place and each.priority == rule.goes_to), None)

    def route(self, query: Query) -> Route | None:
        """The route that is taken, if it can be told and leads somewhere."""
        skipped_to = 0
        for place, rule in enumerate(self.rules):
            matches = place >= skipped_to and _matches(rule, query)
            if matches is True:
                skipped_to = self.target(rule, place) or 0
            if isinstance(matches, Cause) or (matches and rule.action in FAILURES):
                return None
            if not matches or rule.table is None:
                continue
            least = -1 if rule.suppressed_prefix_length is None else rule.suppressed_prefix_length
            found = next(self.candidates(rule.table, query.destination), None)
            if found is None or found.type is AddressType.THROW or found.destination.prefixlen <= least:
                continue
            return None if found.is_one_of_several or not found.is_known or found.type in FAILURES else found
        return None

    def _follow(self, rule: RoutingRule, query: Query) -> tuple[list[Found | None], list[Cause]]:
        """What a rule that matches leads to; None where the next rule is asked."""
        if rule.action is not None:
            if rule.action in FAILURES:
                return [Found(rule.action, None, FAILURES[rule.action])], []
            if rule.action is AddressType.THROW:  # nop, or a goto without its rule.
                return [None], []
        if rule.table is None:
            return [None], []
        least = -1 if rule.suppressed_prefix_length is None else rule.suppressed_prefix_length
        return self.search(rule.table, query, least)

    def search(self, table: int, query: Query, least: int = -1) -> tuple[list[Found | None], list[Cause]]:
        """The route of a table; None where it has none, or says so by itself (throw)."""
        found: list[Found | None] = []
        causes: list[Cause] = []
        several: Route | None = None
        for route in self.candidates(table, query.destination):
            if several is not None and (route.destination, route.metric) != (several.destination, several.metric):
                return found, causes
            if query.out_interface is not None and self._by(route) not in (query.out_interface, None):
                continue
            if route.destination.prefixlen <= least:
                found.append(None)
                return found, causes
            found.append(_result(route))
            if route.is_one_of_several:
                several = route
                causes.append(Cause(Openness.OPEN, f"which of the routes to {route.destination} is taken"))
            elif route.is_known:
                return found, causes
            else:
                causes.append(Cause(Openness.NOT_MODELLED, f"the route to {route.destination} of table {table}"))
        if several is None:
            found.append(None)
        return found, causes

    def _by(self, route: Route) -> str | None:
        """The interface of a route; IPv6 routes that fail have lo (ip6_route_info_create)."""
        if route.device is None and self.bits == 128 and (route.type in FAILURES or route.type is AddressType.THROW):
            return LOOPBACK_DEVICE
        return route.device


def _result(route: Route) -> Found | None:
    if route.type is AddressType.THROW:
        return None
    if route.type in FAILURES:
        return Found(route.type, None, FAILURES[route.type])
    if route.type is AddressType.LOCAL:
        return Found(route.type, LOOPBACK_DEVICE, named=route.device)
    return Found(route.type, route.device)


def _matches(rule: RoutingRule, query: Query) -> bool | Cause:
    """Whether a rule selects what is asked for (fib_rule_match); ``not`` turns around all of it."""
    answers = [*_selectors(rule, query)]
    if False in answers:
        return rule.negated
    undecided = next((answer for answer in answers if isinstance(answer, Cause)), None)
    if undecided is not None:
        return undecided
    if not rule.is_known:
        return Cause(Openness.NOT_MODELLED, f"the routing rule of priority {rule.priority}")
    return not rule.negated


def _selectors(rule: RoutingRule, query: Query) -> Iterable[bool | Cause]:
    if rule.in_interface is not None:
        yield rule.in_interface == query.in_interface
    if rule.out_interface is not None:
        yield rule.out_interface == query.out_interface
    if rule.mark is not None:
        yield _equal(query.mark, rule.mark & rule.mask, rule.mask)
    if rule.source is not None:
        yield query.source is not None and _within(query.source, rule.source)
    if rule.destination is not None:
        yield _within(query.destination, rule.destination)
    if rule.uids is not None:
        yield query.uid is not None and rule.uids[0] <= query.uid <= rule.uids[1]
    if rule.protocol is not None:
        yield rule.protocol == query.protocol
    if rule.tos is not None:
        yield _equal(query.tos, rule.tos, tos_mask(rule.tos))
    for wanted, port in ((rule.sports, query.sport), (rule.dports, query.dport)):
        if wanted is not None:
            yield port.cause if isinstance(port, Unsure) else port is not None and wanted[0] <= port <= wanted[1]


def tos_mask(tos: int) -> int:
    """The bits of a packet's TOS that a routing rule for a TOS looks at: those of the old meaning, or DSCP."""
    return 0xFC if tos & 0xE0 else 0x1C


def _equal(number: Number, wanted: int, mask: int) -> bool | Cause:
    if isinstance(number, Unsure):
        return number.cause
    return number is not None and number & mask == wanted


def _within(address: int, network: Network) -> bool:
    shift = network.max_prefixlen - network.prefixlen
    return address >> shift == int(network.network_address) >> shift
