"""The sidecar policy as Istio's 2026 ``istio-iptables`` states it, in its order of appending.

Read `clauses` top to bottom: the order of the calls is the order of the rules within each chain.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from istio_init.config.model import InterceptionMode
from istio_init.dialects.iptables.matches import Ctstate
from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import DROP, RETURN
from istio_init.dialects.role import Role
from istio_init.mesh.policy import dns, inbound, outbound
from istio_init.mesh.policy.builder import (
    DROP_CHAIN,
    IN_REDIRECT,
    REDIRECT,
    TCP,
    Builder,
    entering,
    leaving,
    redirect_to,
    to,
)
from istio_init.mesh.policy.iptables import rule_set
from istio_init.mesh.routing import MarkRoute, Routing
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv6Address

    from istio_init.config.model import Config, Surroundings
    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.mesh.policy.builder import Clause


def captures_ipv6(addresses: Iterable[IPv4Address | IPv6Address], *, dual_stack: bool) -> bool | None:
    """Whether IPv6 is captured, given the addresses of a namespace; None where no address can be used.

    An address is usable when it is neither loopback nor link-local. Istio turns IPv6 on for a pod that has only IPv6
    addresses, or any when dual-stack is asked for.
    """
    usable = [address for address in addresses if not (address.is_loopback or address.is_link_local)]
    if not usable:
        return None
    has_ipv4 = any(isinstance(address, IPv4Address) for address in usable)
    has_ipv6 = any(not isinstance(address, IPv4Address) for address in usable)
    return has_ipv6 and (dual_stack or not has_ipv4)


def rules(config: Config, around: Surroundings) -> dict[Family, RuleSet]:
    """The rules of iptables, of each captured family."""
    stated = clauses(config, around)
    return {family: rule_set(stated, family) for family in around.families}


def clauses(config: Config, around: Surroundings) -> tuple[Clause, ...]:
    """The policy itself, in the order in which its clauses are appended."""
    builder = Builder()
    _excluded_interfaces(builder, config)
    returned = entering(config.virtual_interfaces)
    builder.insert(Table.NAT, "PREROUTING", Role.VIRTUAL_INTERFACE_RETURN, Rule(target=RETURN), each=[returned])
    if config.drop_invalid:
        invalid = Rule(matches=(Ctstate(("INVALID",)),), target=to(DROP_CHAIN))
        builder.append(Table.MANGLE, "PREROUTING", Role.DROP_INVALID_JUMP, invalid)
        builder.append(Table.MANGLE, DROP_CHAIN, Role.DROP_INVALID, Rule(target=DROP))
    inbound.tunnel_port(builder, config)
    _redirections(builder, config)
    inbound.capture(builder, config)
    outbound.exceptions(builder, config)
    if config.redirect_dns:
        dns.capture(builder, config, around.dns_servers)
    outbound.capture(builder, config)
    if config.mode is InterceptionMode.TPROXY:
        inbound.tproxy_marks(builder, config)
    return tuple(builder.clauses)


def routing(config: Config, around: Surroundings) -> Routing:
    """The routing that the rules need: a local route for marked packets (TPROXY), ``::6`` as a source address."""
    intercepts = config.mode is InterceptionMode.TPROXY and config.inbound_ports != ()
    routes = [MarkRoute(family, config.tproxy_mark, config.tproxy_table) for family in around.families]
    return Routing(mark_routes=tuple(routes) if intercepts else (), passthrough_ipv6=around.ipv6)


def _excluded_interfaces(builder: Builder, config: Config) -> None:
    for table in (Table.NAT, Table.MANGLE) if config.mode is InterceptionMode.TPROXY else (Table.NAT,):
        ignored = Rule(target=RETURN)
        comes, goes = entering(config.exclude_interfaces), leaving(config.exclude_interfaces)
        builder.append(table, "PREROUTING", Role.EXCLUDED_INTERFACE_IN, ignored, each=[comes])
        builder.append(table, "OUTPUT", Role.EXCLUDED_INTERFACE_OUT, ignored, each=[goes])


def _redirections(builder: Builder, config: Config) -> None:
    """The two chains that end in the proxy's listeners."""
    outbound_redirect = Rule(protocol=TCP, target=redirect_to(config.proxy_port))
    builder.append(Table.NAT, REDIRECT, Role.OUTBOUND_REDIRECT, outbound_redirect)
    inbound_redirect = Rule(protocol=TCP, target=redirect_to(config.inbound_capture_port))
    builder.append(Table.NAT, IN_REDIRECT, Role.INBOUND_REDIRECT, inbound_redirect)
