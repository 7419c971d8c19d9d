"""What is to be proved, whoever the proxy is: a sidecar's redirection, or that of a pod in an ambient mesh."""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.matches import IPNetwork
from istio_init.dialects.iptables.rules import RuleSet, as_in_kernel
from istio_init.mesh.policy import ambient, sidecar
from istio_init.mesh.policy.dns import DNS_CAPTURE_PORT
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.netfilter.rules import Store
from istio_init.netfilter.stages import Netfilter
from istio_init.system.spots import Ids
from istio_init.trace.tracer import Tracer
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Subject(Value):
    """What probes, their listeners and the judgement take from a configuration.

    ``local_mark`` is what routing leads to this machine. ``excepted`` are interfaces that rules name, ``ranges``
    networks that they name. ``wanted`` are the groups of probes of which some have to come to the proxy. ``owner`` is
    whom the proxy's sockets belong to, None where no rule asks; ``mark`` is what these sockets put on packets.
    """

    config: Config | AmbientConfig
    families: tuple[Family, ...]
    rules: Mapping[Family, RuleSet]
    outbound_port: int
    inbound_port: int
    further_ports: frozenset[int]
    wanted: frozenset[str]
    local_mark: int | None = None
    excepted: tuple[str, ...] = ()
    ranges: tuple[IPNetwork, ...] = ()
    owner: Ids | None = None
    mark: int = 0

    @property
    def ports(self) -> frozenset[int]:
        """Where the proxy listens."""
        return self.further_ports | {self.outbound_port, self.inbound_port}

    def tracer(self) -> Tracer:
        """A tracer of the rules that the configuration calls for, with the routing that they need."""
        tables = [table for rules in self.rules.values() for table in lower(as_in_kernel(rules), Store.NFT)]
        marks = frozenset([] if self.local_mark is None else [self.local_mark])
        return Tracer(Netfilter(tables), Host(local_marks=dict.fromkeys(self.rules, marks)))


def subject_of(config: Config | AmbientConfig, around: Surroundings) -> Subject:
    """What is to be proved of a configuration."""
    return _ambient(config) if isinstance(config, AmbientConfig) else _sidecar(config, around)


def _sidecar(config: Config, around: Surroundings) -> Subject:
    included = () if config.outbound_ranges is ALL else config.outbound_ranges
    return Subject(
        config,
        around.families,
        sidecar.rules(config, around),
        config.proxy_port,
        config.inbound_capture_port,
        frozenset([config.inbound_tunnel_port, DNS_CAPTURE_PORT]),
        _wanted(config),
        config.tproxy_mark if config.mode is InterceptionMode.TPROXY else None,
        (*config.exclude_interfaces, *config.virtual_interfaces),
        (*config.outbound_exclude_ranges, *included),
        (config.proxy_uids[0].first, config.proxy_gids[0].first),
    )


def _wanted(config: Config) -> frozenset[str]:
    outbound = "outbound" if config.outbound_ranges or config.outbound_ports else "dns" if config.redirect_dns else None
    return frozenset(each for each in (outbound, "inbound" if config.inbound_ports else None) if each is not None)


def _ambient(config: AmbientConfig) -> Subject:
    return Subject(
        config,
        config.families,
        ambient.rules(config),
        ambient.OUTBOUND_PORT,
        ambient.INBOUND_PORT,
        frozenset([ambient.TUNNEL_PORT, ambient.DNS_PORT]),
        frozenset(["outbound"] if config.bypass_inbound_capture else ["outbound", "inbound"]),
        local_mark=ambient.ANSWER_MARK,
        excepted=config.virtual_interfaces,
        mark=ambient.PROXY_MARK,
    )
