"""Probes of a pod in an ambient mesh, whose proxy is ztunnel: what the pod sends, what it hears, and what ztunnel does.

What has to become of each is as the rules of the configuration have it; nothing of that is repeated here.
"""

from __future__ import annotations

from istio_init.mesh.policy.ambient import PROXY_MARK, TUNNEL_PORT
from istio_init.mesh.policy.outbound import DNS_PORT
from istio_init.netfilter.family import Family
from istio_init.netfilter.protocols import TCP, UDP
from istio_init.prove import inbound, inside, outbound
from istio_init.prove.planner import APP_IDS, LOOPBACK, ORDINARY_PORTS
from istio_init.system.spots import Side
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.ambient import AmbientConfig
    from istio_init.netfilter.packet import Packet
    from istio_init.prove.model import Facts
    from istio_init.prove.planner import Planner
    from istio_init.system.spots import Ids, IPAddress

APP, ZTUNNEL = "an application", "ztunnel"
NO_MARK = "acting as ztunnel, which marks what it sends, takes CAP_NET_ADMIN"
NO_ROUTE = "no route leads there from the namespace"
CHECKED = "reverse path filtering here drops what comes from there via another interface (rp_filter)"


def ambient(planner: Planner, config: AmbientConfig, family: Family) -> None:
    """All of them, for a family."""
    _outbound(planner, family)
    _dns(planner, family)
    _inside(planner, family)
    _inbound(planner, config, family)
    _host_probes(planner, config, family)


def _application(facts: Facts) -> Ids:
    """An ordinary user and group; we ourselves where we cannot act as others."""
    numbers = APP_IDS if facts.may >= {"SETUID", "SETGID"} else ()
    return next(((each, each) for each in numbers if facts.has_user(each) and facts.has_group(each)), facts.identity)


def _outbound(planner: Planner, family: Family) -> None:
    """An application's connections, and ztunnel's own."""
    far = planner.way_out(family)
    if far is None:
        return
    address, waits = far
    packet = planner.packet(_application(planner.facts), address, ORDINARY_PORTS[0])
    _send(planner, outbound.GROUP, APP, packet, waits)
    if _can_mark(planner, family):
        packet = planner.packet(planner.facts.identity, address, ORDINARY_PORTS[0], mark=PROXY_MARK)
        _send(planner, outbound.GROUP, ZTUNNEL, packet, waits)


def _dns(planner: Planner, family: Family) -> None:
    """Questions to any name server, of an application and of ztunnel, over UDP and TCP."""
    far = planner.far(family)
    if far is None:
        return  # Said already.
    address, waits = far
    for protocol in (UDP, TCP):
        packet = planner.packet(_application(planner.facts), address, DNS_PORT, protocol=protocol)
        _send(planner, outbound.DNS_GROUP, APP, packet, waits)
        if _can_mark(planner, family):
            packet = planner.packet(planner.facts.identity, address, DNS_PORT, protocol=protocol, mark=PROXY_MARK)
            _send(planner, outbound.DNS_GROUP, ZTUNNEL, packet, waits)


def _inside(planner: Planner, family: Family) -> None:
    """What stays within: an application that calls itself, and ztunnel, which calls it as the client it acts for."""
    own = planner.own_address(family)
    ports = planner.free_port()[:1]
    app = _application(planner.facts)
    for address in (LOOPBACK[family], own) if own is not None else (LOOPBACK[family],):
        packets = [planner.packet(app, address, port) for port in ports]
        planner.add(inside.GROUP, APP, packets, waits=Side.POD)
    if own is None or not _can_mark(planner, family):
        return
    client = inbound.STRANGERS[family]
    packets = [planner.packet(planner.facts.identity, own, port, source=client, mark=PROXY_MARK) for port in ports]
    who = f"{ZTUNNEL} as the client {client}"
    planner.add(inside.GROUP, who, packets, waits=Side.POD, bind=client, is_transparent=True)


def _inbound(planner: Planner, config: AmbientConfig, family: Family) -> None:
    """A client's connections, plain and by tunnel."""
    if family not in planner.links:
        planner.skip("inbound connections", str(planner.no_neighbour), family)
        return
    for port in (*planner.free_port()[:1], TUNNEL_PORT):
        packet = planner.inbound(_own(planner, family), port)
        planner.add(inbound.GROUP, inbound.CLIENT, [packet], begins=Side.NEIGHBOUR, waits=Side.POD)
    for name in config.virtual_interfaces:
        planner.skip(
            f"what enters via {name}", "probes come via an interface of their own, not via a virtual machine's"
        )


def _host_probes(planner: Planner, config: AmbientConfig, family: Family) -> None:
    """What the kubelet sends, from the address that the node gives it, and what is sent there.

    The address is in use, and its route stays: sockets that are bound to the interface lead to the second namespace.
    """
    address: IPAddress = config.probe_ipv4 if family is Family.IPV4 else config.probe_ipv6
    what = f"the host's probe address {address}"
    if family not in planner.links:
        planner.skip(what, str(planner.no_neighbour), family)
        return
    if family is Family.IPV6 and not planner.facts.reaches(address):
        planner.skip(what, NO_ROUTE, family)
        return
    if family is Family.IPV4 and planner.facts.checks_sources:
        planner.skip(what, CHECKED, family)
        return
    planner.beyond.append(address)
    device = planner.interface
    packet = planner.packet(_application(planner.facts), address, ORDINARY_PORTS[0])
    planner.add(outbound.GROUP, APP, [packet], waits=Side.NEIGHBOUR, device=device)
    ports = planner.free_port()[1:2]  # On the first one a listener waits that is bound to no interface.
    packets = [planner.inbound(_own(planner, family), port, address) for port in ports]
    who = f"the host's probe from {address}"
    planner.add(inbound.GROUP, who, packets, begins=Side.NEIGHBOUR, waits=Side.POD, bind=address, device=device)


def _own(planner: Planner, family: Family) -> IPAddress:
    """An address of the namespace that the second one can call."""
    return planner.own_address(family) or planner.links[family].ours


def _send(planner: Planner, group: str, who: str, packet: Packet, waits: Side | None) -> None:
    """Add a probe to somewhere beyond the namespace; one that has to arrive there takes a listener."""
    if waits is None and planner.expected(packet).kind is Kind.DIRECT:
        planner.skip(f"connections of {who} to others", str(planner.no_neighbour), packet.family)
        return
    planner.add(group, who, [packet], waits=waits)


def _can_mark(planner: Planner, family: Family) -> bool:
    if "NET_ADMIN" in planner.facts.may:
        return True
    planner.skip(f"connections of {ZTUNNEL}", NO_MARK, family)
    return False
