"""Outbound capture: who and what bypasses the proxy, and what is sent to it. All of it in nat ISTIO_OUTPUT."""

from __future__ import annotations

from functools import partial
from itertools import groupby

from istio_init.config.model import ALL
from istio_init.dialects.iptables.matches import Multiport
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
    entering,
    from_any,
    gid,
    one_port,
    sent_by,
    to,
    to_any,
    to_none,
    to_ports,
    uid,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.config.model import Config
    from istio_init.dialects.iptables.matches import IdRange, IPNetwork, Owner

DNS_PORT = 53


def loopback(config: Config) -> tuple[IPNetwork, IPNetwork]:
    """The loopback range of each family; only IPv4's is configurable."""
    return config.loopback_cidr, LOOPBACK_ADDRESS_V6


def exceptions(builder: Builder, config: Config) -> None:
    """Everything that is decided before DNS capture: excluded ports, the proxy's own traffic, groups."""
    append = partial(builder.append, Table.NAT, OUTPUT)
    builder.append(Table.NAT, "OUTPUT", Role.OUTBOUND_JUMP, Rule(target=to(OUTPUT)))
    tcp, udp = (Rule(protocol=protocol, target=RETURN) for protocol in (TCP, UDP))
    excluded = to_ports(config.outbound_exclude_ports)
    append(Role.OUTBOUND_EXCLUDED_PORT, tcp, (Role.OUTBOUND_EXCLUDED_PORT, udp), each=[excluded])
    passed_on = Rule(out_interface=LOOPBACK, target=RETURN)
    append(Role.OUTBOUND_PASSTHROUGH, passed_on, each=[from_any(*PASSTHROUGH.values())])
    for ids in config.proxy_uids:
        _proxy_owner(builder, config, uid, ids)
    for ids in config.proxy_gids:
        _proxy_owner(builder, config, gid, ids)
    _owner_groups(builder, config)


def capture(builder: Builder, config: Config) -> None:
    """What of the rest goes to the proxy, after loopback and the excluded ranges."""
    append = partial(builder.append, Table.NAT, OUTPUT)
    append(Role.OUTBOUND_LOOPBACK, Rule(target=RETURN), each=[to_any(*loopback(config))])
    append(Role.OUTBOUND_EXCLUDED_RANGE, Rule(target=RETURN), each=[to_any(*config.outbound_exclude_ranges)])
    port = Rule(protocol=TCP, target=to(REDIRECT))
    append(Role.OUTBOUND_INCLUDED_PORT, port, each=[to_ports(config.outbound_ports)])
    captured = Rule(target=to(REDIRECT))
    # Traffic of virtual machines and containers behind these interfaces is outbound, though it enters the pod.
    virtual = entering(config.virtual_interfaces)
    if config.outbound_ranges is ALL:
        append(Role.OUTBOUND_CAPTURE_ALL, captured)
        builder.insert(Table.NAT, "PREROUTING", Role.VIRTUAL_INTERFACE_CAPTURE, captured, each=[virtual])
        return
    included = to_any(*config.outbound_ranges)
    builder.insert(Table.NAT, "PREROUTING", Role.VIRTUAL_INTERFACE_CAPTURE, captured, each=[included, virtual])
    for is_all, ranges in groupby(config.outbound_ranges, key=lambda each: each.prefixlen == 0):
        role = Role.OUTBOUND_CAPTURE_ALL if is_all else Role.OUTBOUND_INCLUDED_RANGE
        append(role, captured, each=[to_any(*ranges)])


def _proxy_owner(builder: Builder, config: Config, owner: Callable[..., Owner], ids: IdRange) -> None:
    """The three rules of one proxy user or group: to itself, the application on lo, and everything else it sends."""
    append = partial(builder.append, Table.NAT, OUTPUT)
    tunnel = one_port(config.inbound_tunnel_port)
    by_user = owner is uid
    not_tunnel = (
        Multiport("destination", (one_port(DNS_PORT), tunnel), negated=True)
        if config.redirect_dns and by_user
        else dport("tcp", tunnel, negated=True)
    )
    matches = (not_tunnel, owner(ids))
    to_self = Rule(out_interface=LOOPBACK, protocol=TCP, matches=matches, target=to(IN_REDIRECT))
    append(Role.PROXY_TO_SELF, to_self, each=[to_none(*loopback(config))])
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
    append = partial(builder.append, Table.NAT, OUTPUT)
    if config.owner_groups is ALL:
        excluded = sent_by((), config.owner_groups_exclude)
        append(Role.OWNER_GROUP_EXCLUDED, Rule(target=RETURN), each=[excluded])
    elif config.owner_groups:
        none_of_them = tuple([gid(ids, negated=True) for ids in config.owner_groups])
        append(Role.OWNER_GROUPS_INCLUDED, Rule(matches=none_of_them, target=RETURN))
