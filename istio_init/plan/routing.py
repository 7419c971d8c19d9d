"""Which routing is ours, and what of it has to change.

A routing rule is ours when its mark is one that live rules of ours set, or when mark and table are Istio's defaults;
``::6`` on lo is, when IPv6 capture of ours is live or such a rule stands beside it.
"""

from __future__ import annotations

from istio_init.dialects.iptables.matches import Mark
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import SetMark, Tproxy
from istio_init.dialects.role import Role
from istio_init.mesh.roles.recognise import is_istio_chain
from istio_init.mesh.routing import MarkRoute, Routing
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.mesh.routing import LiveRouting

DEFAULT_MARK, DEFAULT_TABLE = 1337, 133

_MARKING = (Role.TPROXY_CAPTURE, Role.TPROXY_DIVERT_MARK, Role.TPROXY_SAVE_MARK, Role.TPROXY_MARKED)


def ours(live: LiveRouting, rule_sets: Iterable[RuleSet]) -> Routing:
    """The part of the live routing that is ours, by the recognised rules of all backends and families."""
    rule_sets = list(rule_sets)
    marks = {mark for rules in rule_sets for mark in _marks(rules)}
    routes = []
    for family, mark, table in live.rules:
        route = MarkRoute(family, mark, table)
        if (mark in marks or (mark, table) == (DEFAULT_MARK, DEFAULT_TABLE)) and route not in routes:
            routes.append(route)
    captures_ipv6 = any(
        rules.family is Family.IPV6 and any(is_istio_chain(chain.name) for _, chain in rules.chains())
        for rules in rule_sets
    )
    beside = any(route.family is Family.IPV6 for route in routes)
    return Routing(tuple(routes), live.passthrough_ipv6 and (captures_ipv6 or beside))


def to_add(live: LiveRouting, wanted: Routing) -> Routing:
    """What is wanted and not there, or only in part."""
    routes = [
        route
        for route in wanted.mark_routes
        if (route.family, route.mark, route.table) not in live.rules
        or (route.family, route.table) not in live.local_tables
    ]
    return Routing(tuple(routes), wanted.passthrough_ipv6 and not live.passthrough_ipv6)


def to_remove(owned: Routing, wanted: Routing, live: LiveRouting | None = None) -> Routing:
    """What is ours and not wanted. The route of a table stays while another rule, or a wanted one, leads to it."""
    routes = tuple(route for route in owned.mark_routes if route not in wanted.mark_routes)
    leaving = {(route.family, route.mark, route.table) for route in routes}
    others = () if live is None else live.rules
    used = {(family, table) for family, mark, table in others if (family, mark, table) not in leaving}
    used |= {(route.family, route.table) for route in wanted.mark_routes}
    shared = frozenset((route.family, route.table) for route in routes) & used
    return Routing(routes, owned.passthrough_ipv6 and not wanted.passthrough_ipv6, shared)


def _marks(rules: RuleSet) -> set[int]:
    """Marks that live rules of ours set or look for in mangle."""
    found: set[int] = set()
    for chain in rules.tables.get(Table.MANGLE, {}).values():
        for entry in chain.entries:
            if entry.role not in _MARKING:
                continue
            match entry.rule.target:
                case Tproxy(mark=mark) | SetMark(mark):
                    found.add(mark)
                case _:
                    found.update(match.value for match in entry.rule.matches if isinstance(match, Mark))
    return found
