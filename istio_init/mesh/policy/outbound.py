"""Outbound capture: who and what bypasses the proxy, and what is sent to it. All of it in nat ISTIO_OUTPUT."""

from __future__ import annotations

from istio_init.config.model import ALL
from istio_init.dialects.iptables.matches import Interface, Multiport
from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import RETURN
from istio_init.dialects.role import Role
from istio_init.mesh.policy.builder import (
    IN_REDIRECT,
    LOOPBACK,
    LOOPBACK_ADDRESS_V6,
    OUTPUT,
    PASSTHROUGH,
    REDIRECT,
    TCP,
    UDP,
    Builder,
    dport,
    gid,
    network,
    one_port,
    to,
    uid,
)
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.config.model import Config
    from istio_init.dialects.iptables.matches import IdRange, IPNetwork, Owner

DNS_PORT = 53


def loopback(builder: Builder, config: Config) -> IPNetwork:
    """The loopback range of the family; only IPv4's is configurable."""
    return config.loopback_cidr if builder.family is Family.IPV4 else LOOPBACK_ADDRESS_V6


def exceptions(builder: Builder, config: Config) -> None:
    """Everything that is decided before DNS capture: excluded ports, the proxy's own traffic, groups."""
    append = _appender(builder)
    builder.append(Table.NAT, "OUTPUT", Role.OUTBOUND_JUMP, Rule(target=to(OUTPUT)))
    for ports in config.outbound_exclude_ports:
        for protocol in (TCP, UDP):
            rule = Rule(protocol=protocol, matches=(dport(protocol.name, ports),), target=RETURN)
            append(Role.OUTBOUND_EXCLUDED_PORT, rule)
    passthrough = Rule(source=network(PASSTHROUGH[builder.family]), out_interface=LOOPBACK, target=RETURN)
    append(Role.OUTBOUND_PASSTHROUGH, passthrough)
    for ids in config.proxy_uids:
        _proxy_owner(builder, config, uid, ids)
    for ids in config.proxy_gids:
        _proxy_owner(builder, config, gid, ids)
    _owner_groups(builder, config)


def capture(builder: Builder, config: Config) -> None:
    """What of the rest goes to the proxy, after loopback and the excluded ranges."""
    append = _appender(builder)
    append(Role.OUTBOUND_LOOPBACK, Rule(destination=network(loopback(builder, config)), target=RETURN))
    for excluded in _of_family(builder, config.outbound_exclude_ranges):
        append(Role.OUTBOUND_EXCLUDED_RANGE, Rule(destination=network(excluded), target=RETURN))
    for ports in config.outbound_ports:
        rule = Rule(protocol=TCP, matches=(dport("tcp", ports),), target=to(REDIRECT))
        append(Role.OUTBOUND_INCLUDED_PORT, rule)
    if config.outbound_ranges is ALL:
        append(Role.OUTBOUND_CAPTURE_ALL, Rule(target=to(REDIRECT)))
        _virtual_interfaces(builder, config, None)
    else:
        for included in _of_family(builder, config.outbound_ranges):
            _virtual_interfaces(builder, config, included)
            destination = network(included)
            role = Role.OUTBOUND_INCLUDED_RANGE if destination else Role.OUTBOUND_CAPTURE_ALL
            append(role, Rule(destination=destination, target=to(REDIRECT)))


def _appender(builder: Builder) -> Callable[[Role, Rule], None]:
    return lambda role, rule: builder.append(Table.NAT, OUTPUT, role, rule)


def _of_family(builder: Builder, ranges: tuple[IPNetwork, ...]) -> list[IPNetwork]:
    version = 4 if builder.family is Family.IPV4 else 6
    return [each for each in ranges if each.version == version]


def _proxy_owner(builder: Builder, config: Config, owner: Callable[..., Owner], ids: IdRange) -> None:
    """The three rules of one proxy user or group: to itself, the application on lo, and everything else it sends."""
    append = _appender(builder)
    tunnel = one_port(config.inbound_tunnel_port)
    by_user = owner is uid
    not_tunnel = (
        Multiport("destination", (one_port(DNS_PORT), tunnel), negated=True)
        if config.redirect_dns and by_user
        else dport("tcp", tunnel, negated=True)
    )
    to_self = Rule(
        destination=network(loopback(builder, config), negated=True),
        out_interface=LOOPBACK,
        protocol=TCP,
        matches=(not_tunnel, owner(ids)),
        target=to(IN_REDIRECT),
    )
    append(Role.PROXY_TO_SELF, to_self)
    if not _captures_loopback(config):
        others = owner(ids, negated=True)
        if config.redirect_dns:
            not_dns = dport("tcp", one_port(DNS_PORT), negated=True)
            local = Rule(out_interface=LOOPBACK, protocol=TCP, matches=(not_dns, others), target=RETURN)
        else:
            local = Rule(out_interface=LOOPBACK, matches=(others,), target=RETURN)
        append(Role.APP_LOOPBACK, local)
    append(Role.PROXY_BYPASS, Rule(matches=(owner(ids),), target=RETURN))


def _captures_loopback(config: Config) -> bool:
    if config.outbound_ranges is ALL:
        return False
    return any(each.network_address.is_loopback for each in config.outbound_ranges)


def _owner_groups(builder: Builder, config: Config) -> None:
    append = _appender(builder)
    if config.owner_groups is ALL:
        for ids in config.owner_groups_exclude:
            append(Role.OWNER_GROUP_EXCLUDED, Rule(matches=(gid(ids),), target=RETURN))
    elif config.owner_groups:
        none_of_them = tuple([gid(ids, negated=True) for ids in config.owner_groups])
        append(Role.OWNER_GROUPS_INCLUDED, Rule(matches=none_of_them, target=RETURN))


def _virtual_interfaces(builder: Builder, config: Config, included: IPNetwork | None) -> None:
    """Traffic of virtual machines and containers behind these interfaces is outbound, though it enters the pod."""
    destination = None if included is None else network(included)
    for name in config.virtual_interfaces:
        rule = Rule(destination=destination, in_interface=Interface(name), target=to(REDIRECT))
        builder.insert(Table.NAT, "PREROUTING", Role.VIRTUAL_INTERFACE_CAPTURE, rule)
