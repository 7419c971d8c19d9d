"""Connections that any pod of a mesh has: what becomes of them tells whether the redirection works."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.config.model import ALL
from istio_init.mesh.policy.ambient import PROXY_MARK
from istio_init.mesh.policy.builder import PASSTHROUGH
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import is_usable
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.protocols import TCP
from istio_init.trace.departure import Departures
from istio_init.trace.describe import APP_ID, filled
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from istio_init.config.ambient import AmbientConfig
    from istio_init.config.model import Config
    from istio_init.inspector.findings.model import View
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.packet import Packet

    Servers = tuple[IPv4Address | IPv6Address, ...]

STRANGERS = {
    Family.IPV4: ("198.51.100.1", "10.0.0.5", "172.16.0.5", "192.168.0.5"),
    Family.IPV6: ("2001:db8::1", "fd00::5"),
}
"""Addresses outside the pod: a public one, and one of each private range."""

STAND_IN = {Family.IPV4: "10.0.0.9", Family.IPV6: "fd00::9"}
"""A pod's address, where none is known."""

LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}

PORTS = (8080, 9090, 28080)
"""Where an application would listen, one of which is excluded by hardly anybody."""

HEALTH = 15021
"""Where the kubelet asks a sidecar whether it is ready."""

RESERVED = range(15000, 15091)
"""Ports that Istio keeps for itself."""

TUNNEL = 15008
"""Where ztunnel has what comes from the mesh (HBONE)."""

MOST_RANGES = 8


class Group(Value):
    """Connections of one kind; where all of them fail the pod is cut off in that respect.

    ``is_wanted``: they have to arrive, proxied or direct; of others it only matters where they go.
    ``is_for_proxy``: those count that the configuration has the proxy get.
    """

    name: str
    packets: tuple[Packet, ...]
    is_wanted: bool = False
    is_for_proxy: bool = False

    @property
    def afar(self) -> tuple[Packet, ...]:
        """Without those that leave for addresses beside the pod's, where there are others."""
        beside = {each.source + step for each in self.packets for step in (1, -1)}
        found = tuple(
            each for each in self.packets if each.direction is Direction.INBOUND or each.destination not in beside
        )
        return found or self.packets


def ordinary(view: View, family: Family, host: Host) -> tuple[Group, ...]:
    """The ordinary connections of a family in a pod of the configuration behind its rules."""
    key = ordinary, view.is_literal, family, id(host)
    if key not in view.made:
        view.made[key] = tuple(_ordinary(view, family, host))
    found: tuple[Group, ...] = view.made[key]
    return found


def _ordinary(view: View, family: Family, host: Host) -> Iterator[Group]:
    if view.inferred is not None:
        servers = view.inferred.around.dns_servers if view.inferred.config.redirect_dns else None
        asked = view.snapshot.dns_servers if view.snapshot.knows_servers else ()
        yield from _Ordinary(family, host).of_sidecar(view.inferred.config, servers, asked)
    elif view.ambient is not None:
        yield from _Ordinary(family, host).of_ambient(view.ambient.config, is_older=view.is_older)


class _Ordinary:
    def __init__(self, family: Family, host: Host) -> None:
        self.family = family
        self.host = host
        own = [str(each) for each in host.addresses if each.version == family.version and is_usable(each)]
        self.own = frozenset(own)
        self.home = own[0] if own else STAND_IN[family]
        self.departures = Departures(host)
        self.app: dict[str, Any] = {"uid": APP_ID, "gid": APP_ID}

    def of_sidecar(self, config: Config, servers: Servers | None, asked: Servers) -> Iterator[Group]:
        """Those of a sidecar's pod; ``servers`` are None where DNS is not captured, ``asked`` those of resolv.conf."""
        home, app, ports = self.home, self.app, _services(config)
        port = ports[0]
        proxy: dict[str, Any] = {"uid": config.proxy_uids[0].first, "gid": config.proxy_gids[0].first}
        world = self._world(_included(config, self.family))
        inside = {"interface": "lo"}
        yield Group("outbound connections", self._made("outbound", "tcp", world, **app), True, True)
        yield Group("the proxy's own connections", self._made("outbound", "tcp", world, **proxy), True)
        yield self._inbound(*ports)
        if is_excluded(config, HEALTH) and self._is_heard(HEALTH):
            checks = self._made("inbound", "tcp", self._strangers(HEALTH))
            yield Group(f"health checks on port {HEALTH}", checks, True)
        if servers is not None:
            yield self._queries(servers)
        elif queries := self._asked(asked):
            yield Group("DNS queries", queries, True)
        to_itself = [(home, home, port)]
        yield Group("the proxy calling its pod", self._made("outbound", "tcp", to_itself, **proxy, **inside))
        yield from self._within(port)
        passing = [(str(PASSTHROUGH[self.family].network_address), home, port)]
        yield Group("the proxy passing connections on", self._made("outbound", "tcp", passing, **proxy, **inside))

    def of_ambient(self, config: AmbientConfig, *, is_older: bool) -> Iterator[Group]:
        """Those of a pod in an ambient mesh, for which ztunnel's sockets wait in it."""
        world, app = self._world(), self.app
        yield Group("outbound connections", self._made("outbound", "tcp", world, **app), True, True)
        yield Group(
            "ztunnel's own connections", self._made("outbound", "tcp", world, uid=0, gid=0, mark=PROXY_MARK), True
        )
        yield self._inbound(*PORTS[:2])
        tunnel = self._made("inbound", "tcp", self._strangers(TUNNEL))
        if not is_older:  # Which took them by TPROXY.
            yield Group(f"connections of the mesh on port {TUNNEL}", tunnel, True)
            probe = str(config.probe_ipv4 if self.family is Family.IPV4 else config.probe_ipv6)
            probes = self._made("inbound", "tcp", [(probe, self.home, port) for port in self._served()])
            yield Group("the kubelet's probes", probes, True)
        if config.redirect_dns:
            yield self._queries(())
        yield from self._within(PORTS[0])

    def _served(self) -> tuple[int, ...]:
        """Ports of applications that others can reach; such as are usual where none is known."""
        known = [
            each.port
            for each in self.host.listeners or ()
            if each.protocol == TCP and each.port not in RESERVED and not each.address.is_loopback
        ]
        return tuple(dict.fromkeys(known))[:MOST_RANGES] or PORTS[:2]

    def _is_heard(self, port: int) -> bool:
        """Whether somebody listens there, or may: of files nothing is known of that."""
        return self.host.listeners is None or any(each.port == port for each in self.host.listeners)

    def _inbound(self, *ports: int) -> Group:
        strangers = [each for port in ports for each in self._strangers(port)]
        return Group("inbound connections", self._made("inbound", "tcp", strangers), True, True)

    def _strangers(self, port: int) -> list[tuple[str, str, int]]:
        return [(each, self.home, port) for each in (*self._neighbours(), *STRANGERS[self.family])]

    def _asked(self, servers: Servers) -> tuple[Packet, ...]:
        known = [each for each in servers if each.version == self.family.version and not each.is_loopback]
        ends = [(self.home, str(each), 53) for each in known]
        return self._made("outbound", "udp", ends, **self.app)

    def _queries(self, servers: Servers) -> Group:
        known = [str(each) for each in servers if each.version == self.family.version]
        asked = [(self.home, each, 53) for each in (known or STRANGERS[self.family])]
        return Group("DNS queries", self._made("outbound", "udp", asked, **self.app), True, True)

    def _within(self, port: int) -> Iterator[Group]:
        inside: dict[str, Any] = {"interface": "lo", **self.app}
        to_itself = [(self.home, self.home, port)]
        yield Group("the application calling itself", self._made("outbound", "tcp", to_itself, **inside))
        local = [(LOOPBACK[self.family],) * 2 + (port,)]
        yield Group("the application over loopback", self._made("outbound", "tcp", local, **inside))

    def _world(self, more: tuple[str, ...] = ()) -> list[tuple[str, str, int]]:
        return [(self.home, each, 80) for each in (*STRANGERS[self.family], *more, *self._neighbours())]

    def _neighbours(self) -> tuple[str, ...]:
        """Addresses beside the pod's."""
        own = ip_address(self.home)
        return tuple(str(own + step) for step in (1, -1))

    def _made(self, direction: str, proto: str, ends: list[tuple[str, str, int]], **more: Any) -> tuple[Packet, ...]:
        outside = "interface" not in more
        return tuple(
            filled(
                {"direction": direction, "proto": proto, "src": source, "dst": destination, "dport": port, **more},
                self.host,
                self.departures,
            )[0]
            for source, destination, port in ends
            if not outside or not {source, destination} <= {self.home, *self.own}
        )


def _included(config: Config, family: Family) -> tuple[str, ...]:
    """An address of each included range."""
    if config.outbound_ranges is ALL:
        return ()
    ranges = [each for each in config.outbound_ranges if each.version == family.version]
    return tuple(str(each[1] if each.num_addresses > 1 else each[0]) for each in ranges[:MOST_RANGES])


def _services(config: Config) -> tuple[int, ...]:
    """Two ports of the application, or one; such as are captured if there are any."""
    if config.inbound_ports is not ALL and config.inbound_ports:
        return tuple(dict.fromkeys([config.inbound_ports[0].first, config.inbound_ports[-1].last]))
    return tuple(port for port in PORTS if not is_excluded(config, port))[:2] or PORTS[:1]


def is_excluded(config: Config, port: int) -> bool:
    """Whether it is excluded from the capture of all inbound ports."""
    excluded = config.inbound_exclude_ports
    return config.inbound_ports is ALL and any(each.first <= port <= each.last for each in excluded)
