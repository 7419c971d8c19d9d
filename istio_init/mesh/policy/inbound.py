"""Inbound capture: which connections to the pod reach the proxy, by REDIRECT or by TPROXY."""

from __future__ import annotations

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
    from_any,
    marked,
    one_port,
    sent_by,
    to,
    to_none,
    to_ports,
)
from istio_init.mesh.policy.iptables import ANY_ADDRESS
from istio_init.mesh.policy.outbound import loopback
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.model import Config

PROXY_LOOPBACK_MARK = 1338
"""The mark of packets that the proxy sends to the pod itself in TPROXY mode; Istio has no option for it."""


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
        excluded = to_ports(config.inbound_exclude_ports)
        ignored = Rule(protocol=TCP, target=RETURN)
        builder.append(table, INBOUND, Role.INBOUND_EXCLUDED_PORT, ignored, each=[excluded])
    included = [] if config.inbound_ports is ALL else [to_ports(config.inbound_ports)]
    if tproxy:
        known = Rule(protocol=TCP, matches=(Ctstate(("RELATED", "ESTABLISHED")),), target=to(DIVERT))
        new = Role.INBOUND_CAPTURE, Rule(protocol=TCP, target=to(TPROXY))
        builder.append(table, INBOUND, Role.TPROXY_DIVERT, known, new, each=included)
    else:
        captured = Rule(protocol=TCP, target=to(IN_REDIRECT))
        builder.append(table, INBOUND, Role.INBOUND_CAPTURE, captured, each=included)


def _tproxy_chains(builder: Builder, config: Config) -> None:
    mark = Rule(target=SetMark(config.tproxy_mark))
    builder.append(Table.MANGLE, DIVERT, Role.TPROXY_DIVERT_MARK, mark)
    builder.append(Table.MANGLE, DIVERT, Role.TPROXY_DIVERT_ACCEPT, Rule(target=ACCEPT))
    hand_over = Tproxy(config.inbound_capture_port, ANY_ADDRESS[Family.IPV4], config.tproxy_mark)
    elsewhere = to_none(*loopback(config))
    rule = Rule(protocol=TCP, target=hand_over)
    builder.append(Table.MANGLE, TPROXY, Role.TPROXY_CAPTURE, rule, each=[elsewhere])


def tproxy_marks(builder: Builder, config: Config) -> None:
    """Keep the mark with the connection, and tell the proxy's packets on lo from the application's."""
    mark = config.tproxy_mark
    mangle = Table.MANGLE
    save = Rule(protocol=TCP, matches=(marked(mark),), target=SaveMark())
    builder.append(mangle, "PREROUTING", Role.TPROXY_SAVE_MARK, save)
    marked_lo = Rule(out_interface=LOOPBACK, protocol=TCP, matches=(marked(mark),), target=RETURN)
    builder.append(mangle, "OUTPUT", Role.TPROXY_LOOPBACK_MARKED, marked_lo)
    from_proxy = Rule(out_interface=LOOPBACK, protocol=TCP, target=SetMark(PROXY_LOOPBACK_MARK))
    elsewhere, proxy = to_none(*loopback(config)), sent_by(config.proxy_uids, config.proxy_gids)
    builder.append(mangle, "OUTPUT", Role.TPROXY_PROXY_LOOPBACK, from_proxy, each=[elsewhere, proxy])
    restore = Rule(protocol=TCP, matches=(Connmark(mark),), target=RestoreMark())
    builder.append(mangle, "OUTPUT", Role.TPROXY_RESTORE_MARK, restore)

    known = Rule(protocol=TCP, matches=(marked(mark),), target=RETURN)
    builder.insert(mangle, INBOUND, Role.TPROXY_MARKED, known, 1)
    passed_on = Rule(in_interface=LOOPBACK, protocol=TCP, target=RETURN)
    source = from_any(*PASSTHROUGH.values())
    builder.insert(mangle, INBOUND, Role.TPROXY_PASSTHROUGH, passed_on, 2, each=[source])
    not_from_proxy = (marked(PROXY_LOOPBACK_MARK, negated=True),)
    app = Rule(in_interface=LOOPBACK, protocol=TCP, matches=not_from_proxy, target=RETURN)
    builder.insert(mangle, INBOUND, Role.TPROXY_APP_LOOPBACK, app, 3)
