"""What the pod's own programs and interfaces have to do with what is captured."""

from __future__ import annotations

from difflib import get_close_matches

from istio_init.config.model import ALL
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.listening import INBOUND, OUTBOUND, tcp_on
from istio_init.inspector.findings.model import Finding, Severity, View
from istio_init.inspector.findings.namespace import PROXY_NAMES, RESERVED, is_exempt
from istio_init.inspector.findings.rules import limited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.config.model import Config

HEALTH_PORTS = (15020, 15021, 15090)
"""Where pilot-agent and Envoy answer health checks, and hand out metrics."""

BRIDGES = ("docker", "br-", "cni", "podman", "virbr", "lxcbr", "cbr")
"""How the names of bridges begin that connect containers within a pod."""


def not_the_proxy(view: View) -> Iterator[Finding]:
    """Another program on a port that traffic is redirected to."""
    config = view.inferred.config if view.inferred else None
    if config is None:
        return
    found = [
        str(each)
        for each in tcp_on(view, (config.proxy_port, config.inbound_capture_port))
        if each.process is not None and each.process.name not in PROXY_NAMES and not is_exempt(config, each.process)
    ]
    if found:
        yield Finding(catalogue.NOT_THE_PROXY, limited(found))


def ports_swapped(view: View) -> Iterator[Finding]:
    """What goes out is sent to the inbound listener, and what comes in to the outbound one."""
    config = view.inferred.config if view.inferred else None
    if config is None or config.inbound_ports == () or (config.outbound_ranges == () and not config.outbound_ports):
        return
    out, into = config.proxy_port, config.inbound_capture_port
    if into in (OUTBOUND, out) or out == INBOUND:
        yield Finding(catalogue.PORTS_SWAPPED, (f"outbound goes to {out}, inbound to {into}",))


def owner_groups(view: View) -> Iterator[Finding]:
    """Applications all of whose outbound traffic is direct because of the groups that they run with."""
    config = view.inferred.config if view.inferred else None
    if config is None or (view.expected is not None and view.expected == config):
        return
    if config.owner_groups is ALL and not config.owner_groups_exclude:
        return
    apps = {
        each.process
        for each in view.snapshot.listeners
        if each.process is not None and each.process.name not in PROXY_NAMES and not is_exempt(config, each.process)
    }
    found = {each: why for each in apps if (why := _group_words(config, each.gid))}
    if apps and len(found) == len(apps):
        evidence = [f"pid {each.pid} ({each.name}): {why}" for each, why in found.items()]
        yield Finding(catalogue.OWNER_GROUPS, limited(sorted(evidence)))


def _group_words(config: Config, gid: int) -> str | None:
    """Why a group's traffic is direct; None where it is captured."""
    if config.owner_groups is ALL:
        is_out = any(each.first <= gid <= each.last for each in config.owner_groups_exclude)
        return f"its group {gid} is excluded" if is_out else None
    is_in = any(each.first <= gid <= each.last for each in config.owner_groups)
    return None if is_in else f"its group {gid} is not among the included groups"


def uncaptured_port(view: View) -> Iterator[Finding]:
    """A port of an application whose connections the configuration leaves to bypass the proxy."""
    config = view.inferred.config if view.inferred else None
    if config is None or config.inbound_ports == () or (view.expected is not None and view.expected == config):
        return
    served = {
        each.port: each
        for each in view.snapshot.listeners
        if each.protocol == "tcp"
        and not each.address.is_loopback
        and each.port not in RESERVED
        and each.process is not None
        and each.process.name not in PROXY_NAMES
        and not is_exempt(config, each.process)
    }
    found = [f"{each}: {_why(config, port)}" for port, each in served.items() if not _is_captured(config, port)]
    if found:
        all_of_them = len(found) == len(served)
        found = [*view.asked_for(lambda asked: asked == config), *found]
        yield Finding(catalogue.UNCAPTURED_PORT, limited(found), worse=Severity.ERROR if all_of_them else None)


def health_captured(view: View) -> Iterator[Finding]:
    """Ports on which the proxy itself answers the kubelet and Prometheus, as the rules capture them."""
    config = view.inferred.config if view.inferred else None
    if config is None or config.inbound_ports == () or (view.expected is not None and view.expected == config):
        return
    why = "is not excluded" if config.inbound_ports is ALL else "is among the included ports"
    found = {
        each.port: f"{each}: {each.port} {why}"
        for each in tcp_on(view, HEALTH_PORTS)
        if not each.address.is_loopback
        and (each.process is None or each.process.name in PROXY_NAMES or is_exempt(config, each.process))
        and _is_captured(config, each.port)
    }
    if found:
        yield Finding(catalogue.HEALTH_CAPTURED, limited(list(found.values())))


def _is_captured(config: Config, port: int) -> bool:
    if config.inbound_ports is not ALL:
        return any(each.first <= port <= each.last for each in config.inbound_ports)
    return not any(each.first <= port <= each.last for each in config.inbound_exclude_ports)


def _why(config: Config, port: int) -> str:
    return f"{port} is excluded" if config.inbound_ports is ALL else f"{port} is not among the included ports"


def no_such_interface(view: View) -> Iterator[Finding]:
    """An interface that the configuration names and the pod has not, but one of nearly that name."""
    config = view.inferred or view.ambient
    if config is None or not view.snapshot.is_live:
        return
    named = (*getattr(config.config, "exclude_interfaces", ()), *config.config.virtual_interfaces)
    known = [each.name for each in view.snapshot.interfaces if each.name != "lo"]
    found = []
    for name in named:
        if name.endswith("+") or name in (*known, "lo"):
            continue
        near = get_close_matches(name, [each for each in known if each not in named], 1, 0.7)
        if near:
            found.append(f"{name}: it does not exist, but {near[0]} does")
    if found:
        yield Finding(catalogue.NO_SUCH_INTERFACE, limited(found))


def bridged_containers(view: View) -> Iterator[Finding]:
    """Bridges of containers in the pod, what comes in by which counts as inbound."""
    found = view.inferred or view.ambient
    if found is None or not view.snapshot.is_live:
        return
    config = found.config
    captures = getattr(config, "inbound_ports", ALL) != () and not getattr(config, "bypass_inbound_capture", False)
    named = (*getattr(config, "exclude_interfaces", ()), *config.virtual_interfaces)
    bridges = [
        each.name
        for each in view.snapshot.interfaces
        if each.name.startswith(BRIDGES)
        and not any(name == each.name or (name.endswith("+") and each.name.startswith(name[:-1])) for name in named)
    ]
    if captures and bridges:
        yield Finding(catalogue.BRIDGED_CONTAINERS, limited([f"interface {name}" for name in bridges]))
