"""Problems that show in what lives around the rules: sockets, processes, addresses, routing, the machine."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Network

from istio_init.config.model import ALL
from istio_init.dialects.role import Role
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.listening import tcp_on
from istio_init.inspector.findings.model import Finding, View
from istio_init.inspector.findings.rules import limited
from istio_init.mesh.native import AMBIENT, SIDECAR
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import is_usable
from istio_init.wording.words import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.config.model import Config
    from istio_init.dialects.iptables.matches import IdRange
    from istio_init.system.processes import Process

PROXY_PORTS = (15001, 15006)
PROXY_NAMES = frozenset(["envoy", "pilot-agent", "istio-proxy", "istio-agent", "ztunnel"])
PROXY_ID = 1337
RESERVED = range(15000, 15091)
NEARLY_FULL = 0.9
MANY_INVALID = 20
LOOPBACK_NETWORK = IPv4Network("127.0.0.0/8")


class LoopbackFault(Enum):
    """Why nothing arrives at the loopback address; of the last `ipv6_not_ready` tells."""

    DOWN = "lo is down"
    NO_IPV4 = "lo has no address 127.0.0.1"
    NO_IPV6 = "lo has no address ::1"


def mesh_bypassed(view: View) -> Iterator[Finding]:
    """Something listens on the proxy's ports, and no rule of ours is there."""
    if view.snapshot.partial or not view.snapshot.is_live or view.meshes:
        return
    if view.holdings and not is_idle(view):
        return
    listeners = tcp_on(view, PROXY_PORTS)
    both = {each.port for each in listeners} == set(PROXY_PORTS)
    if both or any(each.uid == PROXY_ID or (each.process and each.process.name in PROXY_NAMES) for each in listeners):
        asleep = [
            f"{table.family} {table.name} is dormant: its rules are not evaluated"
            for table in view.snapshot.netfilter.tables
            if table.is_dormant and table.name.startswith((SIDECAR, AMBIENT))
        ]
        idle = ["Istio's rules are there, but capture neither outbound nor inbound traffic"] if view.holdings else []
        yield Finding(catalogue.MESH_BYPASSED, limited([*idle, *asleep, *map(str, listeners)]))


def is_idle(view: View) -> bool:
    """Whether a sidecar's rules are there, and the configuration behind them captures nothing, and nobody says so."""
    config = view.inferred.config if view.inferred is not None else None
    if config is None or view.ambient is not None or view.expected == config:
        return False
    return config.inbound_ports == () and config.outbound_ranges == () and not config.outbound_ports


def loopback_down(view: View) -> Iterator[Finding]:
    """The interface over which whatever is redirected outbound goes."""
    found = [loopback_fault(view, family) for family in view.families]
    faults = [fault.value for fault in found if fault is not None and fault is not LoopbackFault.NO_IPV6]
    if view.captures and faults:
        yield Finding(catalogue.LOOPBACK_DOWN, limited(faults))


def loopback_fault(view: View, family: Family) -> LoopbackFault | None:
    """Why nothing that is redirected outbound arrives: it goes to the loopback address (nf_nat_redirect)."""
    loopback = next((each for each in view.snapshot.interfaces if each.name == "lo"), None)
    if loopback is None or not view.snapshot.is_live:
        return None
    if not loopback.is_up:
        return LoopbackFault.DOWN
    if family is Family.IPV6:
        return (
            None if any(each.is_loopback for each in loopback.addresses if each.version == 6) else LoopbackFault.NO_IPV6
        )
    return None if any(each in LOOPBACK_NETWORK for each in loopback.addresses) else LoopbackFault.NO_IPV4


def exempt_process(view: View) -> Iterator[Finding]:
    """A process that is no proxy with the proxy's user or group."""
    config = view.inferred.config if view.inferred else None
    if config is None:
        return
    found = [
        f"pid {each.pid} ({each.name}): uid {each.uid}, gid {each.gid}"
        for each in view.snapshot.processes
        if not is_proxy(view, each) and is_exempt(config, each)
    ]
    if found:
        yield Finding(catalogue.EXEMPT_PROCESS, limited(found))


def proxy_not_exempt(view: View) -> Iterator[Finding]:
    """A proxy whose own traffic is captured."""
    config = view.inferred.config if view.inferred else None
    if config is None or (config.outbound_ranges == () and not config.outbound_ports):
        return
    found = [
        f"pid {each.pid} ({each.name}): uid {each.uid}, gid {each.gid}"
        for each in view.snapshot.processes
        if each.name in PROXY_NAMES - {"pilot-agent"} and not is_exempt(config, each)
    ]
    if found:
        yield Finding(catalogue.PROXY_NOT_EXEMPT, limited(found))


def reserved_port(view: View) -> Iterator[Finding]:
    """An application on a port that Istio keeps for itself."""
    if view.inferred is None:
        return
    found = [
        str(each)
        for each in view.snapshot.listeners
        if each.port in RESERVED and each.process is not None and not is_proxy(view, each.process)
    ]
    if found:
        yield Finding(catalogue.RESERVED_PORT, limited(found))


def loopback_only(view: View) -> Iterator[Finding]:
    """An application that captured inbound connections cannot reach."""
    if view.inferred is None or view.inferred.config.inbound_ports == ():
        return
    reachable = {each.port for each in view.snapshot.listeners if not each.address.is_loopback}
    found = [
        str(each)
        for each in view.snapshot.listeners
        if each.protocol == "tcp"
        and each.address.is_loopback
        and each.port not in reachable
        and each.port not in RESERVED
        and each.process is not None
        and not is_proxy(view, each.process)
    ]
    if found:
        yield Finding(catalogue.LOOPBACK_ONLY, limited(found))


def ipv6_not_captured(view: View) -> Iterator[Finding]:
    """An IPv6 address that others can reach, in a pod whose IPv6 is not captured."""
    found = view.inferred or view.ambient
    if found is None or Family.IPV6 in view.snapshot.partial or is_idle(view):
        return
    if view.inferred.around.ipv6 if view.inferred else Family.IPV6 in view.ambient_families:
        return
    if view.inferred and view.backend is RuleStore.NATIVE and view.inferred.config.outbound_ranges is ALL:
        return  # Native rules without an address capture IPv6, too.
    addresses = [
        f"{address} on {interface.name}"
        for interface in view.snapshot.interfaces
        for address in interface.addresses
        if address.version == 6 and is_usable(address)
    ]
    if addresses:
        yield Finding(catalogue.IPV6_NOT_CAPTURED, limited(addresses))


def ipv6_not_ready(view: View) -> Iterator[Finding]:
    """IPv6 capture without the address that passthrough needs."""
    if view.inferred is None or not view.inferred.around.ipv6 or not view.snapshot.is_live:
        return
    if not any(each.version == 6 and is_usable(each) for each in view.snapshot.addresses):
        return  # No connection comes in over IPv6.
    fault = loopback_fault(view, Family.IPV6)
    evidence = [fault.value] if fault is LoopbackFault.NO_IPV6 else []
    if not view.snapshot.routing.passthrough_ipv6:
        evidence.append("lo has no address ::6/128")
    if view.snapshot.sysctls.get("net.ipv6.conf.lo.disable_ipv6"):
        evidence.append("net.ipv6.conf.lo.disable_ipv6 is 1")
    if evidence:
        yield Finding(catalogue.IPV6_NOT_READY, tuple(evidence))


def host_namespace(view: View) -> Iterator[Finding]:
    """Rules of ours in the machine's own namespace."""
    if view.snapshot.is_host and view.families:
        lines = [str(place) for place in view.with_role(Role.INBOUND_JUMP, Role.OUTBOUND_JUMP, Role.AMBIENT_JUMP)]
        yield Finding(catalogue.HOST_NAMESPACE, limited(lines or [family.value for family in view.families]))


def conntrack_full(view: View) -> Iterator[Finding]:
    """The connection tracking table has hardly a place left."""
    count = view.snapshot.sysctls.get("net.netfilter.nf_conntrack_count", 0)
    maximum = view.snapshot.sysctls.get("net.netfilter.nf_conntrack_max", 0)
    if maximum and count >= NEARLY_FULL * maximum:
        yield Finding(catalogue.CONNTRACK_FULL, (f"{count} of {maximum} entries",))


def invalid_packets(view: View) -> Iterator[Finding]:
    """Invalid packets came, and nothing drops them; a few of them come to any pod."""
    seen = view.snapshot.invalid_packets
    if view.inferred and not view.inferred.config.drop_invalid and seen >= MANY_INVALID:
        yield Finding(catalogue.INVALID_PACKETS, (f"{packets(view.snapshot.invalid_packets)} called invalid",))


def zero_counters(view: View) -> Iterator[Finding]:
    """No packet met the jumps, though there are connections; where their processes are known `open_bypass` judges."""
    if any(not is_proxy(view, each.process) for each in view.snapshot.outside):
        return
    jumps = view.with_role(Role.INBOUND_JUMP, Role.OUTBOUND_JUMP)
    counted = [place.entry.counters for place in jumps if place.entry.counters is not None]
    if jumps and counted and view.snapshot.connections and not any(each.packets for each in counted):
        evidence = [f"{view.snapshot.connections} established sockets", *map(str, jumps)]
        yield Finding(catalogue.ZERO_COUNTERS, limited(evidence))


def is_proxy(view: View, process: Process) -> bool:
    """By its name, or because it listens where the rules redirect to."""
    if process.name in PROXY_NAMES:
        return True
    config = view.inferred.config if view.inferred else None
    ports = (config.proxy_port, config.inbound_capture_port) if config else PROXY_PORTS
    return any(each.process == process for each in tcp_on(view, ports))


def is_exempt(config: Config, process: Process) -> bool:
    """Whether the rules take a process's traffic for the proxy's."""
    return _in(config.proxy_uids, process.uid) or _in(config.proxy_gids, process.gid)


def _in(ranges: tuple[IdRange, ...], number: int) -> bool:
    return any(each.first <= number <= each.last for each in ranges)
