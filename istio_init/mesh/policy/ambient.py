"""The policy of a pod in an ambient mesh, as Istio's CNI agent of 2026 states it, in its order of appending.

ztunnel, on the node, has its listening sockets in the pod's namespace: it is the proxy. What it sends itself carries
its mark; connections that it opened to the pod are remembered, so that their answers are delivered to it.
"""

from __future__ import annotations

from ipaddress import ip_network

from istio_init.dialects.iptables.matches import Connmark, Interface, Mark, PortMatch
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
    network,
    one_port,
    redirect_to,
    sport,
    to,
)
from istio_init.mesh.routing import MarkRoute, Routing
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.ambient import AmbientConfig
    from istio_init.dialects.iptables.matches import Address
    from istio_init.dialects.iptables.rules import RuleSet

PROXY_MARK, ANSWER_MARK, MARK_BITS = 0x539, 0x111, 0xFFF
"""The mark of what ztunnel sends, the one of connections that it opened, and the bits of both that count."""

ROUTING_TABLE, ROUTING_PREFERENCE = 100, 32764

OUTBOUND_PORT, INBOUND_PORT, TUNNEL_PORT, DNS_PORT = 15001, 15006, 15008, 15053
"""ztunnel's sockets: outbound, inbound plain text, HBONE tunnels, DNS."""

_QUERY_PORT = one_port(53)
_FROM_PROXY = Mark(PROXY_MARK, MARK_BITS)
_NOT_FROM_PROXY = Mark(PROXY_MARK, MARK_BITS, negated=True)
_ANY_TCP = PortMatch("tcp")


def rules(config: AmbientConfig) -> dict[Family, RuleSet]:
    """The rules of each captured family."""
    return {family: _family_rules(Builder(family), config) for family in config.families}


def routing(config: AmbientConfig) -> Routing:
    """The routing that the rules need: answers to ztunnel's connections are delivered locally, to it."""
    where = (ANSWER_MARK, ROUTING_TABLE, MARK_BITS, ROUTING_PREFERENCE)
    return Routing(mark_routes=tuple([MarkRoute(family, *where) for family in config.families]))


def _family_rules(builder: Builder, config: AmbientConfig) -> RuleSet:
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
    return builder.build()


def _virtual_interfaces(builder: Builder, config: AmbientConfig) -> None:
    for name in config.virtual_interfaces:
        interface = Interface(name)
        capture = Rule(in_interface=interface, protocol=TCP, target=redirect_to(OUTBOUND_PORT))
        builder.append(Table.NAT, PRERT, Role.AMBIENT_VIRTUAL_INTERFACE, capture)
        rest = Rule(in_interface=interface, protocol=TCP, target=RETURN)
        builder.append(Table.NAT, PRERT, Role.AMBIENT_VIRTUAL_INTERFACE_RETURN, rest)


def _inbound(builder: Builder, config: AmbientConfig) -> None:
    prober = config.probe_ipv4 if builder.family is Family.IPV4 else config.probe_ipv6
    host = network(ip_network(prober))
    probe = Rule(source=host, protocol=TCP, matches=(_ANY_TCP,), target=ACCEPT)
    if not config.bypass_inbound_capture:
        builder.append(Table.NAT, PRERT, Role.AMBIENT_PROBE, probe)
    answer = Rule(destination=host, protocol=TCP, matches=(_ANY_TCP,), target=ACCEPT)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_PROBE_ANSWER, answer)
    if not config.bypass_inbound_capture:
        capture = Rule(
            destination=_not_loopback(builder),
            protocol=TCP,
            matches=(dport("tcp", one_port(TUNNEL_PORT), negated=True), _NOT_FROM_PROXY),
            target=redirect_to(INBOUND_PORT),
        )
        builder.append(Table.NAT, PRERT, Role.AMBIENT_INBOUND, capture)


def _dns(builder: Builder) -> None:
    to_dns = redirect_to(DNS_PORT)
    # The order of the two matches is Istio's; what is written must be what would be read back.
    udp = (_NOT_FROM_PROXY, dport("udp", _QUERY_PORT))
    query = Rule(out_interface=LOOPBACK.replace(negated=True), protocol=UDP, matches=udp, target=to_dns)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_DNS, query)
    tcp = (dport("tcp", _QUERY_PORT), _NOT_FROM_PROXY)
    query = Rule(destination=_not_loopback(builder), protocol=TCP, matches=tcp, target=to_dns)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_DNS, query)
    own = Rule(protocol=UDP, matches=(_FROM_PROXY, dport("udp", _QUERY_PORT)), target=CtZone(1))
    builder.append(Table.RAW, OUTPUT, Role.AMBIENT_DNS_ZONE, own)
    answer = Rule(protocol=UDP, matches=(_NOT_FROM_PROXY, sport("udp", 53)), target=CtZone(1))
    builder.append(Table.RAW, PRERT, Role.AMBIENT_DNS_ZONE, answer)


def _outbound(builder: Builder) -> None:
    answer = Rule(protocol=TCP, matches=(Mark(ANSWER_MARK, MARK_BITS),), target=ACCEPT)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_ANSWER, answer)
    itself = Rule(destination=_not_loopback(builder), out_interface=LOOPBACK, target=ACCEPT)
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_SELF, itself)
    capture = Rule(
        destination=_not_loopback(builder),
        protocol=TCP,
        matches=(_NOT_FROM_PROXY,),
        target=redirect_to(OUTBOUND_PORT),
    )
    builder.append(Table.NAT, OUTPUT, Role.AMBIENT_OUTBOUND, capture)


def _not_loopback(builder: Builder) -> Address | None:
    address = LOOPBACK_ADDRESS_V4 if builder.family is Family.IPV4 else LOOPBACK_ADDRESS_V6
    return network(address, negated=True)
