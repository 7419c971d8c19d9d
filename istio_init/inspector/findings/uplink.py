"""The pod's way out: routes that lead to others, its uplink, and the proxy's own connections."""

from __future__ import annotations

from ipaddress import ip_address

from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.evaluated import evaluated_of
from istio_init.inspector.findings.model import Finding, Severity, Shown
from istio_init.inspector.findings.ordinary import STRANGERS, ordinary
from istio_init.inspector.findings.rules import limited
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.host import MAIN_TABLE, is_usable
from istio_init.netfilter.protocols import TCP
from istio_init.trace.describe import APP_ID, CLIENT_PORT
from istio_init.trace.facts import Facts
from istio_init.trace.result import Hop, Kind
from istio_init.trace.routing import FAILURES, LOOPBACK_DEVICE, Query
from istio_init.wording.outcomes import outcome_words
from istio_init.wording.packets import trace_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inspector.findings.model import View
    from istio_init.netfilter.host import Address, Host, Network, Route

OWN = ("the proxy's own connections", "ztunnel's own connections")
"""Names of the groups of ordinary connections that nothing may redirect."""


SERVICES = (80, 443, 15012)
"""Ports that a proxy connects to, istiod's among them: a rule for one of them alone is a detour of its own."""


def no_route(view: View) -> Iterator[Finding]:
    """A family in which the pod has an address, and from which nothing leads to others."""
    if not view.meant or not view.snapshot.is_live:
        return
    host = view.snapshot.host
    used = [family for family in view.meant if _home(host, family) is not None]
    cut = {family: near for family in used if (near := cut_off(host, family)) is not None}
    if cut:
        only_ipv6 = set(cut) == {Family.IPV6} and used != [Family.IPV6]
        lines = [f"{family.value}: {_words(host, family, near)}" for family, near in cut.items()]
        yield Finding(catalogue.NO_ROUTE, limited(lines), worse=Severity.WARNING if only_ipv6 else None)


def refusing_route(view: View) -> Iterator[Finding]:
    """Routes that refuse what the pod sends to some networks, its name servers' among them or not."""
    host = view.snapshot.host
    if not view.meant or not view.snapshot.is_live or view.snapshot.is_host or host.routes is None:
        return
    found, is_needed = [], False
    for family in view.meant:
        if cut_off(host, family) is not None:
            continue
        refusing = [each for each in host.routes.get(family, ()) if _refuses(each)]
        asked = [each for each in view.snapshot.dns_servers if each.version == family.version]
        lost = {each: [server for server in asked if server in each.destination] for each in refusing}
        is_needed = is_needed or any(unroutable(host, server) for servers in lost.values() for server in servers)
        found += [
            f"{family.value}: {each.type.name.lower()} {each.destination}"
            + (f", which holds the name server {servers[0]}" if servers else "")
            for each, servers in lost.items()
        ]
    if found:
        yield Finding(catalogue.REFUSING_ROUTE, limited(found), worse=Severity.ERROR if is_needed else None)


def _refuses(route: Route) -> bool:
    return route.type in FAILURES and route.table == MAIN_TABLE and route.destination.prefixlen > 0


def unroutable(host: Host, destination: Address) -> bool:
    """Whether an application's connection there fails for want of a route, whatever the rules."""
    family = Family.IPV4 if destination.version == 4 else Family.IPV6
    facts, home = Facts(host, family), _home(host, family)
    if facts.tables is None or home is None or host.has_other_lo:
        return False
    asked = Query(int(destination), home, uid=APP_ID, protocol=TCP, sport=CLIENT_PORT, dport=80)
    return all(each.device is None for each in facts.tables.look_up(asked)[0])


def cut_off(host: Host, family: Family) -> tuple[Network, ...] | None:
    """The networks that a pod can still reach which no route leads out of; None where one does, or nothing is known."""
    home, routes = _home(host, family), (host.routes or {}).get(family)
    if home is None or routes is None or host.has_other_lo or _ways_out(host, family):
        return None
    near = [each for each in routes if _is_near(host, each)]
    far = [each for each in routes if each.type is AddressType.UNICAST and each not in near and not _is_local(each)]
    return None if far else tuple(dict.fromkeys(each.destination for each in near))


def _home(host: Host, family: Family) -> int | None:
    own = [int(each) for each in host.addresses if each.version == family.version and is_usable(each)]
    return own[0] if own else None


def _ways_out(host: Host, family: Family) -> frozenset[str]:
    """The interfaces via which strangers are reached."""
    facts, home = Facts(host, family), _home(host, family)
    if facts.tables is None or home is None:
        return frozenset()
    asked = Query(0, home, uid=APP_ID, protocol=TCP, sport=CLIENT_PORT, dport=80)
    found = [
        each
        for stranger in STRANGERS[family]
        for each in facts.tables.look_up(asked.replace(destination=int(ip_address(stranger))))[0]
    ]
    return frozenset(each.device for each in found if each.device is not None and each.device != LOOPBACK_DEVICE)


def _is_near(host: Host, route: Route) -> bool:
    """Whether it leads to a network that an interface is part of."""
    if route.type is not AddressType.UNICAST or route.gateway is not None or _is_local(route):
        return False
    own = [each for link in host.links if link.name == route.device for each in link.addresses]
    return any(each in route.destination for each in own if each.version == route.destination.version)


def _is_local(route: Route) -> bool:
    """Whether it leads to no address that a pod would connect to."""
    network = route.destination
    return route.device in (None, LOOPBACK_DEVICE) or network.is_link_local or network.is_multicast


def _words(host: Host, family: Family, near: tuple[Network, ...]) -> str:
    home = _home(host, family)
    down = [link.name for link in host.links if not link.is_up and home in [int(each) for each in link.addresses]]
    if down:
        return f"{down[0]} is down"
    refusing = [each for each in (host.routes or {})[family] if each.device is None and each.destination.prefixlen == 0]
    said = f"default route {refusing[0].type.name.lower()}" if refusing else "no default route"
    listed = " and ".join(map(str, near[:2])) + (f" and {len(near) - 2} more" if len(near) > 2 else "")
    return f"{said}, only routes to {listed}" if near else f"{said}, nor any other that leads to others"


def virtual_uplink(view: View) -> Iterator[Finding]:
    """The configuration names the pod's uplink as an interface of virtual machines or containers inside it."""
    found = view.inferred or view.ambient
    if found is None or not view.snapshot.is_live:
        return
    named = found.config.virtual_interfaces
    ways = {name for family in Family for name in _ways_out(view.snapshot.host, family)}
    wrong = [
        f"{name}: the pod's own traffic comes in via {device}"
        for name in named
        for device in sorted(ways)
        if device == name or (name.endswith("+") and device.startswith(name[:-1]))
    ]
    if wrong:
        yield Finding(catalogue.VIRTUAL_UPLINK, limited(wrong))


def proxy_redirected(view: View) -> Iterator[Finding]:
    """Rules of others redirect the proxy's own connections, wherever they go."""
    evaluated = evaluated_of(view)
    if not view.meant or evaluated.is_as_meant or not evaluated.has_others():
        return
    live, meant = evaluated.live_tracer, evaluated.meant_tracer
    found: list[str] = []
    for family in view.meant:
        groups = ordinary(view, family, evaluated.host) if family not in view.snapshot.partial else ()
        for group in groups:
            is_let_out = all(meant.trace(each).delivered.kind is Kind.DIRECT for each in group.packets)
            if group.name not in OWN or not is_let_out:
                continue
            traces = [live.trace(each.replace(destination_port=port)) for each in group.packets for port in SERVICES]
            if traces and all(each.delivered.kind is Kind.REDIRECT for each in traces):
                decider = traces[0].delivered_by
                if isinstance(decider, Hop) and evaluated.is_ours(decider.rule):
                    continue
                said = f"{evaluated.where(decider, family)}: {group.name} {outcome_words(traces[0].delivered)}"
                found.append(Shown(said, trace_command(traces[0].packet, view.snapshot.look)))
    if found:
        yield Finding(catalogue.PROXY_REDIRECTED, limited(found))
