"""The policy of a pod in an ambient mesh, as Istio's CNI agent of 2026 states it, in its order of appending.

ztunnel, on the node, has its listening sockets in the pod's namespace: it is the proxy. What it sends itself carries
its mark; connections that it opened to the pod are remembered, so that their answers are delivered to it.
"""

from __future__ import annotations

from ipaddress import ip_network

from istio_init.dialects.iptables.matches import Connmark, Mark, PortMatch
from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import ACCEPT, RETURN, CtZone, RestoreMark, SetConnmark
from istio_init.dialects.role import Role
from istio_init.mesh.policy.builder import (
    LOOPBACK,
    LOOPBACK_ADDRESS_V4,
    LOOPBACK_ADDRESS_V6,
    OUTPUT,
    PRERT,
    TCP,
    UDP,
    Builder,
    dport,
    entering,
    from_any,
    one_port,
    redirect_to,
    sport,
    to,
    to_any,
    to_none,
)
from istio_init.mesh.policy.iptables import rule_set
from istio_init.mesh.routing import MarkRoute, Routing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.ambient import AmbientConfig
    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.mesh.policy.builder import Clause
    from istio_init.netfilter.family import Family

PROXY_MARK, ANSWER_MARK, MARK_BITS = 0x539, 0x111, 0xFFF
"""The mark of what ztunnel sends, the one of connections that it opened, and the bits of both that count."""

ROUTING_TABLE, ROUTING_PREFERENCE = 100, 32764

OUTBOUND_PORT, INBOUND_PORT, TUNNEL_PORT, DNS_PORT = 15001, 15006, 15008, 15053
"""ztunnel's sockets: outbound, inbound plain text, HBONE tunnels, DNS."""

_QUERY_PORT = one_port(53)
_FROM_PROXY = Mark(PROXY_MARK, MARK_BITS)
_NOT_FROM_PROXY = Mark(PROXY_MARK, MARK_BITS, negated=True)
_ANY_TCP = PortMatch("tcp")
_NOT_LOOPBACK = to_none(LOOPBACK_ADDRESS_V4, LOOPBACK_ADDRESS_V6)


def rules(config: AmbientConfig) -> dict[Family, RuleSet]:
    """The rules of iptables, of each captured family."""
    stated = clauses(config)
    return {family: rule_set(stated, family) for family in config.families}


def clauses(config: AmbientConfig) -> tuple[Clause, ...]:
    """The policy itself, in the order in which its clauses are appended."""
    builder = Builder()
    for table in (Table.MANGLE, Table.NAT, Table.RAW) if config.redirect_dns else (Table.MANGLE, Table.NAT):
        builder.append(table, "PREROUTING", Role.AMBIENT_JUMP, Rule(target=to(PRERT)))
        builder.append(table, "OUTPUT", Role.AMBIENT_JUMP, Rule(target=to(OUTPUT)))
        builder.declare(table, PRERT)
    _virtual_interfaces(builder, config)
    save = Rule(matches=(_FROM_PROXY,), target=SetConnmark(ANSWER_MARK, MARK_BITS))
    builder.append(Table.MANGLE, PRERT, Role.AMBIENT_MARK_SAVE, save)
    _inbound(builder, config)
    restore = Rule(matches=(Connmark(ANSWER_MARK, MARK_BITS),), target=RestoreMark())
    builder.append(Table.MANGLE, OUTPUT, Role.AMBIENT_MARK_RESTORE, restore)
    if config.redirect_dns:
        _dns(builder)
    _outbound(builder)
    return tuple(builder.clauses)


def routing(config: AmbientConfig) -> Routing:
    """The routing that the rules need: answers to ztunnel's connections are delivered locally, to it."""
    where = (ANSWER_MARK, ROUTING_TABLE, MARK_BITS, ROUTING_PREFERENCE)
    return Routing(mark_routes=tuple([MarkRoute(family, *where) for family in config.families]))


def _virtual_interfaces(builder: Builder, config: AmbientConfig) -> None:
    capture = Rule(protocol=TCP, target=redirect_to(OUTBOUND_PORT))
    rest = Role.AMBIENT_VIRTUAL_INTERFACE_RETURN, Rule(protocol=TCP, target=RETURN)
    names = entering(config.virtual_interfaces)
    builder.append(Table.NAT, PRERT, Role.AMBIENT_VIRTUAL_INTERFACE, capture, rest, each=[names])


def _inbound(builder: Builder, config: AmbientConfig) -> None:
    probers = ip_network(config.probe_ipv4), ip_network(config.probe_ipv6)
    probe = Rule(protocol=TCP, matches=(_ANY_TCP,), target=ACCEPT)
    if not config.bypass_inbound_capture:
        builder.append(Table.NAT, PRERT, Role.AMBIENT_PROBE, probe, each=[from_any(*probers)])
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_PROBE_ANSWER, probe, each=[to_any(*probers)])
    if not config.bypass_inbound_capture:
        not_tunnel = dport("tcp", one_port(TUNNEL_PORT), negated=True)
        capture = Rule(protocol=TCP, matches=(not_tunnel, _NOT_FROM_PROXY), target=redirect_to(INBOUND_PORT))
        builder.append(Table.NAT, PRERT, Role.AMBIENT_INBOUND, capture, each=[_NOT_LOOPBACK])


def _dns(builder: Builder) -> None:
    to_dns = redirect_to(DNS_PORT)
    # The order of the two matches is Istio's; what is written must be what would be read back.
    udp = (_NOT_FROM_PROXY, dport("udp", _QUERY_PORT))
    query = Rule(out_interface=LOOPBACK.replace(negated=True), protocol=UDP, matches=udp, target=to_dns)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_DNS, query)
    tcp = (dport("tcp", _QUERY_PORT), _NOT_FROM_PROXY)
    query = Rule(protocol=TCP, matches=tcp, target=to_dns)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_DNS, query, each=[_NOT_LOOPBACK])
    own = Rule(protocol=UDP, matches=(_FROM_PROXY, dport("udp", _QUERY_PORT)), target=CtZone(1))
    builder.append(Table.RAW, OUTPUT, Role.AMBIENT_DNS_ZONE, own)
    answer = Rule(protocol=UDP, matches=(_NOT_FROM_PROXY, sport("udp", 53)), target=CtZone(1))
    builder.append(Table.RAW, PRERT, Role.AMBIENT_DNS_ZONE, answer)


def _outbound(builder: Builder) -> None:
    answer = Rule(protocol=TCP, matches=(Mark(ANSWER_MARK, MARK_BITS),), target=ACCEPT)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_ANSWER, answer)
    itself = Rule(out_interface=LOOPBACK, target=ACCEPT)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_SELF, itself, each=[_NOT_LOOPBACK])
    capture = Rule(protocol=TCP, matches=(_NOT_FROM_PROXY,), target=redirect_to(OUTBOUND_PORT))
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_OUTBOUND, capture, each=[_NOT_LOOPBACK])
