"""Whether packets with the mesh's mark are delivered in the pod, by a routing rule and a route of their own."""

from __future__ import annotations

from ipaddress import ip_address

from istio_init.config.model import InterceptionMode
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.model import Finding, View
from istio_init.inspector.findings.ordinary import STRANGERS
from istio_init.mesh.policy import ambient
from istio_init.mesh.routing import MarkRoute
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.host import is_usable
from istio_init.trace.facts import Facts
from istio_init.trace.routing import LOOPBACK_DEVICE, Query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def tproxy_routing(view: View) -> Iterator[Finding]:
    """Routing by mark is missing, a rule is there more than once, or another one takes precedence."""
    if view.inferred is None or not view.snapshot.is_live:
        return
    config, routing = view.inferred.config, view.snapshot.routing
    if config.mode is not InterceptionMode.TPROXY or config.inbound_ports == ():
        return
    evidence = []
    for family in view.inferred.around.families:
        tables = [table for each, mark, table in routing.rules if each is family and mark == config.tproxy_mark]
        count, is_local = tables.count(config.tproxy_table), (family, config.tproxy_table) in routing.local_tables
        if not count and tables:
            evidence.append(
                f"{family.value}: the routing rule for mark {config.tproxy_mark:#x} leads to table {tables[0]}, "
                f"not {config.tproxy_table}"
            )
        elif not count:
            evidence.append(f"{family.value}: no routing rule for mark {config.tproxy_mark:#x}")
        elif count > 1:
            evidence.append(f"{family.value}: {count} routing rules for mark {config.tproxy_mark:#x}")
        if count and not is_local:
            evidence.append(_no_route(view, family, config.tproxy_table))
        elif count and (way := led_away(view, family, config.tproxy_mark)) is not None:
            evidence.append(way)
    if evidence:
        yield Finding(catalogue.TPROXY_ROUTING, tuple(evidence))


def ambient_routing(view: View) -> Iterator[Finding]:
    """The same for the mark of what belongs to ztunnel's connections."""
    if view.ambient is None or not view.snapshot.is_live:
        return
    versions = {address.version for address in view.snapshot.addresses if is_usable(address)}
    routes = view.snapshot.host.routes or {}
    evidence = []
    for wanted in ambient.routing(view.ambient.config).mark_routes:
        family = wanted.family
        if family.version not in versions:
            continue
        if not view.snapshot.routing.holds(wanted.replace(preference=None)):
            evidence.append(f"{family.value}: no routing rule for mark {wanted.selector}")
            continue
        if family not in routes or (
            family is Family.IPV6 and view.snapshot.sysctls.get("net.ipv6.conf.lo.disable_ipv6")
        ):
            continue
        local = [each for each in routes[family] if each.table == wanted.table and each.type is AddressType.LOCAL]
        if not any(not each.destination.prefixlen for each in local):
            evidence.append(_no_route(view, family, wanted.table))
        elif (way := led_away(view, family, wanted.mark)) is not None:
            evidence.append(way)
    if evidence:
        yield Finding(catalogue.TPROXY_ROUTING, tuple(evidence))


def _no_route(view: View, family: Family, table: int) -> str:
    other = ", but another default route" if has_other_default(view, family, table) else ""
    return f"{family.value}: table {table} has no local default route on lo{other}"


def has_other_default(view: View, family: Family, table: int) -> bool:
    """Whether another default route has the place of ours."""
    routes = (view.snapshot.host.routes or {}).get(family, ())
    return any(
        each.table == table and not each.destination.prefixlen and each.type is not AddressType.LOCAL for each in routes
    )


def led_away(view: View, family: Family, mark: int) -> str | None:
    """Where another routing rule takes what has the mark, wherever it goes to; None where it stays in the pod."""
    host = view.snapshot.host
    facts = Facts(host, family)
    home = next((each for each in host.addresses if each.version == family.version and is_usable(each)), None)
    if facts.tables is None or home is None:
        return None
    asked = Query(0, int(home), mark=mark)
    found = [
        facts.tables.look_up(asked.replace(destination=int(ip_address(stranger))))[0] for stranger in STRANGERS[family]
    ]
    if any(each.device == LOOPBACK_DEVICE for ways in found for each in ways):
        return None
    first = found[0][0]
    where = f"via {first.device}" if first.device is not None else first.words
    return f"{family.value}: another routing rule takes what is marked {mark:#x} first: {where}"


def is_taken(view: View) -> bool:
    """Whether the routing of others is in the way, so that programming the pod again helps nothing."""
    routing = view.snapshot.routing
    wanted: list[MarkRoute] = []
    if view.inferred is not None:
        config = view.inferred.config
        wanted = [MarkRoute(family, config.tproxy_mark, config.tproxy_table) for family in Family]
    elif view.ambient is not None:
        wanted = [each.replace(preference=None) for each in ambient.routing(view.ambient.config).mark_routes]
    for each in wanted:
        is_there = routing.holds(each) and routing.delivers(each)
        if has_other_default(view, each.family, each.table) and not routing.delivers(each):
            return True
        if is_there and led_away(view, each.family, each.mark) is not None:
            return True
    return False
