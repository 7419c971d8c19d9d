"""Connections that any pod of a mesh has: what becomes of them tells whether the redirection works."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.config.model import ALL
from istio_init.mesh.policy.builder import PASSTHROUGH
from istio_init.netfilter.family import Family
from istio_init.trace.assume import APP_ID, filled, is_usable
from istio_init.trace.hooks import LOOPBACK
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from istio_init.config.model import Config
    from istio_init.inspector.infer import Inferred
    from istio_init.observe.snapshot import Snapshot
    from istio_init.trace.packet import Packet

STRANGERS = {
    Family.IPV4: ("198.51.100.1", "10.0.0.5", "172.16.0.5", "192.168.0.5"),
    Family.IPV6: ("2001:db8::1", "fd00::5"),
}
"""Addresses outside the pod: a public one, and one of each private range."""

STAND_IN = {Family.IPV4: "10.0.0.9", Family.IPV6: "fd00::9"}
"""A pod's address, where none is known."""

PORTS = (8080, 9090, 28080)
"""Where an application would listen, one of which is excluded by hardly anybody."""

MOST_RANGES = 8


class Group(Value):
    """Connections of one kind; where all of them fail the pod is cut off in that respect.

    ``is_wanted``: they have to arrive, at the proxy or straight; of others it only matters where they go.
    ``is_for_proxy``: those count that the configuration has the proxy get.
    """

    name: str
    packets: tuple[Packet, ...]
    is_wanted: bool = False
    is_for_proxy: bool = False


def ordinary(
    snapshot: Snapshot, inferred: Inferred, family: Family, marks: Mapping[Family, frozenset[int]]
) -> Iterator[Group]:
    """The ordinary connections of a family in a pod of this configuration."""

    def made(direction: str, proto: str, ends: list[tuple[str, str, int]], **more: Any) -> tuple[Packet, ...]:
        return tuple(
            filled(
                {"direction": direction, "proto": proto, "src": source, "dst": destination, "dport": port, **more},
                snapshot,
                marks,
            )[0]
            for source, destination, port in ends
        )

    config = inferred.config
    version = 4 if family is Family.IPV4 else 6
    own = next((str(each) for each in snapshot.addresses if each.version == version and is_usable(each)), None)
    home = own or STAND_IN[family]
    address = IPv4Address if family is Family.IPV4 else IPv6Address
    loopback, passthrough = str(address(LOOPBACK[family])), str(PASSTHROUGH[family].network_address)
    app: dict[str, Any] = {"uid": APP_ID, "gid": APP_ID}
    proxy: dict[str, Any] = {"uid": config.proxy_uids[0].first, "gid": config.proxy_gids[0].first}
    world = [(home, each, 80) for each in (*STRANGERS[family], *_included(config, version)) if each != own]
    port = _service(config)
    inside = {"interface": "lo"}
    yield Group("outbound connections", made("outbound", "tcp", world, **app), True, True)
    yield Group("the proxy's own connections", made("outbound", "tcp", world, **proxy), True)
    strangers = [(each, home, port) for each in (*_neighbours(home), *STRANGERS[family]) if each != own]
    yield Group("inbound connections", made("inbound", "tcp", strangers), True, True)
    if config.redirect_dns:
        servers = [str(each) for each in inferred.around.dns_servers if each.version == version]
        asked = [(home, each, 53) for each in (servers or STRANGERS[family])]
        yield Group("DNS queries", made("outbound", "udp", asked, **app), True, True)
    yield Group("the proxy calling its pod", made("outbound", "tcp", [(home, home, port)], **proxy, **inside))
    yield Group("the application calling itself", made("outbound", "tcp", [(home, home, port)], **app, **inside))
    yield Group("the application over loopback", made("outbound", "tcp", [(loopback,) * 2 + (port,)], **app, **inside))
    passing = [(passthrough, home, port)]
    yield Group("the proxy passing connections on", made("outbound", "tcp", passing, **proxy, **inside))


def _included(config: Config, version: int) -> tuple[str, ...]:
    """An address of each included range."""
    if config.outbound_ranges is ALL:
        return ()
    ranges = [each for each in config.outbound_ranges if each.version == version]
    return tuple(str(each[1] if each.num_addresses > 1 else each[0]) for each in ranges[:MOST_RANGES])


def _service(config: Config) -> int:
    """A port of the application, one that is captured if there is any."""
    if config.inbound_ports is not ALL and config.inbound_ports:
        return config.inbound_ports[0].first
    excluded = config.inbound_exclude_ports
    return next((port for port in PORTS if not any(each.first <= port <= each.last for each in excluded)), PORTS[0])


def _neighbours(home: str) -> tuple[str, ...]:
    """Addresses beside the pod's."""
    own = ip_address(home)
    return tuple(str(own + step) for step in (1, -1))
