"""Inbound capture: which connections to the pod reach the proxy, by REDIRECT or by TPROXY."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.config.model import ALL, InterceptionMode
from istio_init.dialects.iptables.matches import Connmark, Ctstate
from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import ACCEPT, RETURN, RestoreMark, SaveMark, SetMark, Tproxy
from istio_init.dialects.role import Role
from istio_init.mesh.policy.builder import (
    DIVERT,
    IN_REDIRECT,
    INBOUND,
    LOOPBACK,
    PASSTHROUGH,
    TCP,
    TPROXY,
    Builder,
    dport,
    gid,
    marked,
    network,
    one_port,
    to,
    uid,
)
from istio_init.mesh.policy.outbound import loopback
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.dialects.iptables.matches import Match

PROXY_LOOPBACK_MARK = 1338
"""The mark of packets that the proxy sends to the pod itself in TPROXY mode; Istio has no option for it."""

ANY_ADDRESS: dict[Family, IPv4Address | IPv6Address] = {
    Family.IPV4: IPv4Address("0.0.0.0"),
    Family.IPV6: IPv6Address("::"),
}


def tunnel_port(builder: Builder, config: Config) -> None:
    """HBONE connections reach the proxy's own listener untouched."""
    rule = Rule(protocol=TCP, matches=(dport("tcp", one_port(config.inbound_tunnel_port)),), target=RETURN)
    builder.append(Table.NAT, INBOUND, Role.INBOUND_TUNNEL_PORT, rule)


def capture(builder: Builder, config: Config) -> None:
    """Send what is included to the proxy. Exclusions only count beside the wildcard."""
    if config.inbound_ports == ():
        return
    tproxy = config.mode is InterceptionMode.TPROXY
    table = Table.MANGLE if tproxy else Table.NAT
    if tproxy:
        _tproxy_chains(builder, config)
    builder.append(table, "PREROUTING", Role.INBOUND_JUMP, Rule(protocol=TCP, target=to(INBOUND)))
    if config.inbound_ports is ALL:
        for ports in config.inbound_exclude_ports:
            rule = Rule(protocol=TCP, matches=(dport("tcp", ports),), target=RETURN)
            builder.append(table, INBOUND, Role.INBOUND_EXCLUDED_PORT, rule)
        _capture_one(builder, (), tproxy=tproxy)
    else:
        for ports in config.inbound_ports:
            _capture_one(builder, (dport("tcp", ports),), tproxy=tproxy)


def _capture_one(builder: Builder, tests: tuple[Match, ...], *, tproxy: bool) -> None:
    if tproxy:
        known = (*tests, Ctstate(("RELATED", "ESTABLISHED")))
        divert = Rule(protocol=TCP, matches=known, target=to(DIVERT))
        builder.append(Table.MANGLE, INBOUND, Role.TPROXY_DIVERT, divert)
        new = Rule(protocol=TCP, matches=tests, target=to(TPROXY))
        builder.append(Table.MANGLE, INBOUND, Role.INBOUND_CAPTURE, new)
    else:
        rule = Rule(protocol=TCP, matches=tests, target=to(IN_REDIRECT))
        builder.append(Table.NAT, INBOUND, Role.INBOUND_CAPTURE, rule)


def _tproxy_chains(builder: Builder, config: Config) -> None:
    mark = Rule(target=SetMark(config.tproxy_mark))
    builder.append(Table.MANGLE, DIVERT, Role.TPROXY_DIVERT_MARK, mark)
    builder.append(Table.MANGLE, DIVERT, Role.TPROXY_DIVERT_ACCEPT, Rule(target=ACCEPT))
    rule = Rule(
        destination=network(loopback(builder, config), negated=True),
        protocol=TCP,
        target=Tproxy(config.inbound_capture_port, ANY_ADDRESS[builder.family], config.tproxy_mark),
    )
    builder.append(Table.MANGLE, TPROXY, Role.TPROXY_CAPTURE, rule)


def tproxy_marks(builder: Builder, config: Config) -> None:
    """Keep the mark with the connection, and tell the proxy's packets on lo from the application's."""
    mark = config.tproxy_mark
    mangle = Table.MANGLE
    save = Rule(protocol=TCP, matches=(marked(mark),), target=SaveMark())
    builder.append(mangle, "PREROUTING", Role.TPROXY_SAVE_MARK, save)
    marked_lo = Rule(out_interface=LOOPBACK, protocol=TCP, matches=(marked(mark),), target=RETURN)
    builder.append(mangle, "OUTPUT", Role.TPROXY_LOOPBACK_MARKED, marked_lo)
    for owner in (*map(uid, config.proxy_uids), *map(gid, config.proxy_gids)):
        from_proxy = Rule(
            destination=network(loopback(builder, config), negated=True),
            out_interface=LOOPBACK,
            protocol=TCP,
            matches=(owner,),
            target=SetMark(PROXY_LOOPBACK_MARK),
        )
        builder.append(mangle, "OUTPUT", Role.TPROXY_PROXY_LOOPBACK, from_proxy)
    restore = Rule(protocol=TCP, matches=(Connmark(mark),), target=RestoreMark())
    builder.append(mangle, "OUTPUT", Role.TPROXY_RESTORE_MARK, restore)

    known = Rule(protocol=TCP, matches=(marked(mark),), target=RETURN)
    builder.insert(mangle, INBOUND, Role.TPROXY_MARKED, known, 1)
    passthrough = Rule(source=network(PASSTHROUGH[builder.family]), in_interface=LOOPBACK, protocol=TCP, target=RETURN)
    builder.insert(mangle, INBOUND, Role.TPROXY_PASSTHROUGH, passthrough, 2)
    not_from_proxy = (marked(PROXY_LOOPBACK_MARK, negated=True),)
    app = Rule(in_interface=LOOPBACK, protocol=TCP, matches=not_from_proxy, target=RETURN)
    builder.insert(mangle, INBOUND, Role.TPROXY_APP_LOOPBACK, app, 3)
