"""The configuration to program a pod with, where its rules tell one that can be relied on."""

from __future__ import annotations

from istio_init.config.model import ALL
from istio_init.dialects.iptables.matches import PortRange
from istio_init.inspector.findings.applications import HEALTH_PORTS, health_captured
from istio_init.inspector.findings.listening import hears
from istio_init.inspector.findings.namespace import ipv6_not_captured
from istio_init.inspector.findings.ordinary import is_excluded
from istio_init.inspector.findings.uplink import virtual_uplink
from istio_init.mesh.policy.dns import DNS_CAPTURE_PORT
from istio_init.netfilter.family import Family
from istio_init.netfilter.intervals import union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.inspector.findings.model import View
    from istio_init.inspector.infer import Inferred


def improved(view: View) -> Config | None:
    """What is behind the rules, with all that its findings call for: of two commands none is to undo the other."""
    config = _whole(view)
    if config is None:
        return None
    if any(ipv6_not_captured(view)) and _hears_ipv6(view, config) and not any(virtual_uplink(view)):
        config = config.replace(dual_stack=True)
    if config.inbound_ports is ALL and any(health_captured(view)):
        more = [PortRange(port, port) for port in HEALTH_PORTS if not is_excluded(config, port)]
        config = config.replace(inbound_exclude_ports=(*config.inbound_exclude_ports, *more))
    return config


def _whole(view: View) -> Config | None:
    """The configuration behind the rules, where they are just what it gives in every store that holds some."""
    if view.inferred is None or not view.inferred.exact or view.is_older:
        return None
    config = view.inferred.config
    if config.inbound_ports == () or (config.outbound_ranges == () and not config.outbound_ports):
        return None  # A lost rule and a lost argument look the same.
    found = [each.sidecar for each in view.holdings]
    is_one = all(each is not None and each.exact and _plain(each) == _plain(view.inferred) for each in found)
    return config if is_one else None


def _plain(found: Inferred) -> tuple[Config, object]:
    """A configuration that is equal to another of the same meaning: a store keeps lists in an order of its own."""
    config = found.config
    ports = {
        name: tuple(PortRange(*each) for each in union([((port.first, port.last),) for port in getattr(config, name)]))
        for name in ("inbound_ports", "inbound_exclude_ports", "outbound_ports", "outbound_exclude_ports")
        if getattr(config, name) is not ALL
    }
    ranges = {
        name: tuple(sorted(getattr(config, name), key=lambda each: (each.version, each)))
        for name in ("outbound_ranges", "outbound_exclude_ranges")
        if getattr(config, name) is not ALL
    }
    return config.replace(**ports, **ranges), found.around


def _hears_ipv6(view: View, config: Config) -> bool:
    """Whether what is captured would be taken: else it was direct, and would be refused."""
    wanted = {config.proxy_port, config.inbound_capture_port}
    heard = {
        each.port
        for each in view.snapshot.listeners
        if each.protocol == "tcp" and each.address.version == 6 and each.address.is_unspecified
    }
    return wanted <= heard and (not _asks_ipv6(view, config) or _answers_ipv6(view))


def _asks_ipv6(view: View, config: Config) -> bool:
    """Whether queries over IPv6 would be captured."""
    has_server = any(each.version == 6 for each in view.snapshot.dns_servers)
    return config.redirect_dns and (has_server or config.capture_all_dns)


def _answers_ipv6(view: View) -> bool:
    return any(
        (each.protocol, each.port) == ("udp", DNS_CAPTURE_PORT) and hears(view, each, Family.IPV6)
        for each in view.snapshot.listeners
    )
