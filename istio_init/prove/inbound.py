"""Probes of what others send to the namespace."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.config.model import ALL, InterceptionMode
from istio_init.netfilter.family import Family
from istio_init.prove.planner import MOST, SidecarPlanner, ports_of
from istio_init.system.spots import IPAddress, Side

GROUP = "inbound"
CLIENT = "a client"
STRANGERS: dict[Family, IPAddress] = {
    Family.IPV4: IPv4Address("203.0.113.77"),
    Family.IPV6: IPv6Address("2001:db8:ffff::77"),
}
"""Addresses that are nobody's: a connection to one gets to the proxy only by TPROXY's routing."""


def inbound(planner: SidecarPlanner, family: Family) -> None:
    """All of them, for a family."""
    config = planner.config
    if family not in planner.links:
        planner.skip("inbound connections", str(planner.no_neighbour), family)
        return
    own = planner.own_address(family) or planner.links[family].ours
    if config.inbound_ports is ALL:
        _add(planner, own, planner.free_port(), captured=True)
        alone = ports_of(config.inbound_exclude_ports)[:MOST]
    else:
        for port in ports_of(config.inbound_ports)[:MOST]:
            _add(planner, own, [port], captured=True)
        alone = planner.free_port()[:1]
    for port in dict.fromkeys([*alone, config.inbound_tunnel_port]):
        _add(planner, own, [port], captured=False)
    if config.mode is InterceptionMode.TPROXY and config.inbound_ports != ():
        _routed(planner, family)
    for name in config.virtual_interfaces:
        planner.skip(
            f"what enters via {name}", "probes come via an interface of their own, not via a virtual machine's"
        )
    for name in config.exclude_interfaces:
        planner.skip(f"what enters or leaves via {name}", "the interface is excepted, and probes use one of their own")


def _add(planner: SidecarPlanner, address: IPAddress, ports: list[int], *, captured: bool) -> None:
    packets = [planner.inbound(address, port) for port in ports]
    planner.add(GROUP, CLIENT, packets, captured=captured, begins=Side.NEIGHBOUR, waits=Side.POD)


def _routed(planner: SidecarPlanner, family: Family) -> None:
    """A connection to a strange address, which TPROXY's mark and its routing have to make local."""
    config = planner.config
    ports = planner.free_port() if config.inbound_ports is ALL else ports_of(config.inbound_ports or ())
    packets = [planner.inbound(STRANGERS[family], port) for port in ports]
    who = "a client, by TPROXY's routing,"
    planner.add(GROUP, who, packets, captured=True, begins=Side.NEIGHBOUR)
