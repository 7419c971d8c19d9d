"""Probes of what the namespace sends to others: applications, the proxy, exceptions, name servers."""

from __future__ import annotations

from istio_init.config.model import ALL
from istio_init.mesh.policy.outbound import DNS_PORT
from istio_init.netfilter.protocols import TCP, UDP
from istio_init.prove.planner import LOOPBACK, MOST, ORDINARY_PORTS, SidecarPlanner, family_of, ports_of
from istio_init.system.spots import IPAddress, Side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.dialects.iptables.matches import IPNetwork
    from istio_init.netfilter.family import Family

GROUP = "outbound"
DNS_GROUP = "dns"

SMALLEST = 256
"""Addresses of a range from which on one is led to the second namespace: in a smaller one it may be somebody's."""

NOBODY = "acting as others takes CAP_SETUID and CAP_SETGID, and ids that exist here"
APP, PROXY_USER, PROXY_GROUP = "an application", "the proxy's user", "the proxy's group"


def outbound(planner: SidecarPlanner, family: Family) -> None:
    """All of them, for a family."""
    _everything(planner, family)
    _ports(planner, family)
    _groups(planner, family)
    _ranges(planner, family)
    _dns(planner, family)


def _everything(planner: SidecarPlanner, family: Family) -> None:
    """Capture of all ranges, and the proxy's own connections, which bypass it."""
    far = planner.way_out(family)
    if far is None:
        return
    address, waits = far
    if planner.config.outbound_ranges is ALL:
        _app(planner, family, address, ORDINARY_PORTS, waits=waits, captured=True)
    for role, who in (("user", PROXY_USER), ("group", PROXY_GROUP)):
        _straight(planner, family, role, who, address, ORDINARY_PORTS)


def _app(
    planner: SidecarPlanner,
    family: Family,
    address: IPAddress,
    ports: tuple[int, ...],
    *,
    waits: Side | None,
    captured: bool,
) -> bool:
    """An application's connection to the first of the ports that the configuration treats so."""
    ids = planner.cast.get("app")
    if ids is None:
        planner.skip("connections of applications", NOBODY, family)
        return True
    packets = [planner.packet(ids, address, port) for port in ports]
    return planner.add(GROUP, APP, packets, captured=captured, waits=waits)


def _straight(
    planner: SidecarPlanner, family: Family, role: str, who: str, address: IPAddress, ports: tuple[int, ...]
) -> None:
    """A connection that has to reach its destination, which only a listener there can tell."""
    if (ids := planner.cast.get(role)) is None:
        planner.skip(f"connections of {who}", NOBODY, family)
        return
    if not planner.links:
        planner.skip(f"connections of {who} to others", str(planner.no_neighbour), family)
        return
    packets = [planner.packet(ids, address, port) for port in ports]
    planner.add(GROUP, who, packets, captured=False, waits=Side.NEIGHBOUR)


def _ports(planner: SidecarPlanner, family: Family) -> None:
    """Ports that are captured whatever the range, and ports that never are."""
    far = planner.far(family)
    if far is None:
        return
    address, waits = far
    config = planner.config
    if config.outbound_ranges is not ALL:
        for port in ports_of(config.outbound_ports)[:MOST]:
            _app(planner, family, address, (port,), waits=waits, captured=True)
    if config.outbound_ranges is ALL or config.outbound_ports:
        for port in ports_of(config.outbound_exclude_ports)[:MOST]:
            _straight(planner, family, "app", APP, address, (port,))


def _groups(planner: SidecarPlanner, family: Family) -> None:
    """Owner groups that bypass the proxy, or a group that is none of those captured."""
    far = planner.far(family)
    app = planner.cast.get("app")
    if far is None or app is None or planner.config.outbound_ranges is not ALL:
        return
    config = planner.config
    excluded = [each.first for each in config.owner_groups_exclude][:MOST] if config.owner_groups is ALL else [app[0]]
    for gid in excluded if config.owner_groups is not ALL or config.owner_groups_exclude else []:
        if not {"SETUID", "SETGID"} <= planner.facts.may or not planner.links:
            planner.skip("groups that bypass the proxy", f"{NOBODY}, and a second namespace", family)
            return
        packets = [planner.packet((app[0], gid), far[0], port) for port in ORDINARY_PORTS]
        planner.add(GROUP, f"group {gid}", packets, captured=False, waits=Side.NEIGHBOUR)


def _ranges(planner: SidecarPlanner, family: Family) -> None:
    """Ranges that are captured, and ranges that are not."""
    config = planner.config
    included = () if config.outbound_ranges is ALL else _of_family(config.outbound_ranges, family)
    for network in included[:MOST]:
        _range(planner, family, network, captured=True)
    link = planner.links.get(family)
    if included and link is not None:
        _app(planner, family, link.theirs, ORDINARY_PORTS, waits=Side.NEIGHBOUR, captured=False)
    excluded = _of_family(config.outbound_exclude_ranges, family)
    for network in excluded[:MOST]:
        _range(planner, family, network, captured=False)
    for count in (len(included), len(excluded)):
        if count > MOST:
            planner.skip(f"{count - MOST} more ranges", f"the first {MOST} of the list stand for all", family)


def _range(planner: SidecarPlanner, family: Family, network: IPNetwork, *, captured: bool) -> None:
    """An application's connection into a range."""
    name = f"{'captured' if captured else 'excluded'} range {network}"
    ids = planner.cast.get("app")
    if ids is None:
        planner.skip(name, NOBODY)
        return
    loops = network.network_address.is_loopback
    routed = [address for address in _picks(planner, network) if loops or planner.facts.reaches(address)]
    if not routed:
        planner.skip(name, "not probeable: no route leads there from the namespace")
        return
    small = network.num_addresses < SMALLEST
    ours = not loops and not small and bool(planner.links)
    if not captured and not loops and not ours:
        why = f"of fewer than {SMALLEST} addresses each may be in use, and the probe would cut it off"
        planner.skip(name, why if planner.links else str(planner.no_neighbour))
        return
    ports = planner.free_port() if loops else ORDINARY_PORTS
    for address in routed:
        before = len(planner.further)
        if ours and address not in planner.further:
            planner.further.append(address)
        packets = [planner.packet(ids, address, port) for port in ports]
        waits = Side.POD if loops else Side.NEIGHBOUR if ours else None
        if planner.add(GROUP, APP, packets, captured=captured, waits=waits):
            return
        del planner.further[before:]
    planner.skip(name, "another setting overrides it")


def _picks(planner: SidecarPlanner, network: IPNetwork) -> list[IPAddress]:
    """Addresses of a range that are neither its ends, nor the namespace's own, nor in anybody's use."""
    size, first = network.num_addresses, network.network_address
    shares = (0.618, 0.854, 0.382, 0.927, 0.146)
    offsets = [int(size * share) for share in shares] if size > 4 else list(range(size))
    facts = planner.facts
    servers = planner.around.dns_servers
    busy = {*facts.addresses, *facts.peers, *servers, LOOPBACK[family_of(first)]}
    return [address for offset in dict.fromkeys(offsets) if (address := first + offset) not in busy]


def _of_family(ranges: tuple[IPNetwork, ...], family: Family) -> tuple[IPNetwork, ...]:
    return tuple(each for each in ranges if each.version == family.version)


def _dns(planner: SidecarPlanner, family: Family) -> None:
    """Questions to the captured servers, over UDP and TCP; with capture of all servers also the proxy's own."""
    config = planner.config
    if not config.redirect_dns:
        return
    servers: list[IPAddress] = [each for each in planner.around.dns_servers if each.version == family.version][:MOST]
    link = planner.links.get(family)
    if config.capture_all_dns and link is not None:
        servers = [link.theirs]
        for protocol in (UDP, TCP) if "user" in planner.cast else ():
            packet = planner.packet(planner.cast["user"], link.theirs, DNS_PORT, protocol=protocol)
            planner.add(DNS_GROUP, PROXY_USER, [packet], captured=False, waits=Side.NEIGHBOUR)
    ids = planner.cast.get("app")
    for server in servers:
        if ids is None:
            planner.skip("questions to name servers", NOBODY, family)
        elif not (server.is_loopback or planner.facts.reaches(server) or (link and server == link.theirs)):
            planner.skip(f"name server {server}", "not probeable: no route leads there from the namespace")
        else:
            waits = Side.NEIGHBOUR if link and server == link.theirs else None
            for protocol in _answerable(planner, family):
                packet = planner.packet(ids, server, DNS_PORT, protocol=protocol)
                planner.add(DNS_GROUP, APP, [packet], captured=True, waits=waits)


def _answerable(planner: SidecarPlanner, family: Family) -> Iterator[int]:
    """The protocols over which an answer can come: over UDP the rules want it to be the proxy's user that gives it."""
    if "user" in planner.cast:
        yield UDP
    else:
        planner.skip("questions over UDP", NOBODY, family)
    yield TCP
