"""Which routing is ours, and what of it has to change.

A routing rule is a sidecar's when its mark is one that live rules of a sidecar set, or when mark and table are Istio's
defaults; ``::6`` on lo is, when a sidecar's IPv6 capture is live or such a rule stands beside it. An ambient pod's is
told by its mark, the bits that count, and the table.
"""

from __future__ import annotations

from istio_init.dialects.iptables.matches import Mark
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import SetMark, Tproxy
from istio_init.dialects.role import Role
from istio_init.mesh.roles.recognise import BOTH_KINDS, MeshKind, kinds
from istio_init.mesh.routing import MarkRoute, Routing
from istio_init.netfilter.family import MAX_MARK, Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.mesh.routing import LiveRouting

DEFAULT_MARK, DEFAULT_TABLE = 1337, 133
AMBIENT_MARK, AMBIENT_BITS, AMBIENT_TABLE = 0x111, 0xFFF, 100

_MARKING = (Role.TPROXY_CAPTURE, Role.TPROXY_DIVERT_MARK, Role.TPROXY_SAVE_MARK, Role.TPROXY_MARKED)


def ours(live: LiveRouting, rule_sets: Iterable[RuleSet], owned: frozenset[MeshKind] = BOTH_KINDS) -> Routing:
    """The part of the live routing that is ours, by the recognised rules of all backends and families.

    ``owned`` are the kinds of pods of which something may be ours.
    """
    routes = list(_ambient(live)) if MeshKind.AMBIENT in owned else []
    if MeshKind.SIDECAR not in owned:
        return Routing(tuple(dict.fromkeys(routes)))
    rule_sets = list(rule_sets)
    marks = {mark for rules in rule_sets for mark in _marks(rules)}
    sidecars = [route for route in live.every if _is_sidecars(route, marks)]
    captures_ipv6 = any(rules.family is Family.IPV6 and MeshKind.SIDECAR in kinds(rules) for rules in rule_sets)
    beside = any(route.family is Family.IPV6 for route in sidecars)
    return Routing(tuple(dict.fromkeys([*sidecars, *routes])), live.passthrough_ipv6 and (captures_ipv6 or beside))


def _ambient(live: LiveRouting) -> Iterator[MarkRoute]:
    for route in live.every:
        if (route.mark, route.mask, route.table) == (AMBIENT_MARK, AMBIENT_BITS, AMBIENT_TABLE):
            yield route


def _is_sidecars(route: MarkRoute, marks: set[int]) -> bool:
    is_usual = (route.mark, route.table) == (DEFAULT_MARK, DEFAULT_TABLE)
    return route.mask == MAX_MARK and (is_usual or route.mark in marks)


def to_add(live: LiveRouting, wanted: Routing) -> Routing:
    """What is wanted and not there, or only in part."""
    routes = [
        route for route in wanted.mark_routes if not live.holds(route) or (route.has_route and not live.delivers(route))
    ]
    return Routing(tuple(routes), wanted.passthrough_ipv6 and not live.passthrough_ipv6)


def to_remove(owned: Routing, wanted: Routing, live: LiveRouting | None = None) -> Routing:
    """What is ours and not wanted. The route of a table stays while another rule, or a wanted one, leads to it."""
    leaving = tuple(
        route for route in owned.mark_routes if not any(each.is_met_by(route) for each in wanted.mark_routes)
    )
    staying = [] if live is None else [route for route in live.every if route not in leaving]
    used = {(route.family, route.table) for route in (*staying, *wanted.mark_routes)}
    shared = frozenset((route.family, route.table) for route in leaving) & used
    return Routing(leaving, owned.passthrough_ipv6 and not wanted.passthrough_ipv6, shared)


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
