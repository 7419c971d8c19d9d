"""DNS capture: queries go to the proxy's DNS listener, its own to the real server.

Both have the same addresses and ports once redirected, so the connection tracker keeps them in zones of their own:
zone 1 between proxy and server, zone 2 between application and proxy.
"""

from __future__ import annotations

from ipaddress import ip_network

from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import CtZone
from istio_init.dialects.role import Role
from istio_init.mesh.policy.builder import (
    INBOUND,
    OUTPUT,
    OUTPUT_DNS,
    TCP,
    UDP,
    Builder,
    dport,
    gid,
    network,
    one_port,
    redirect_to,
    sport,
    to,
    uid,
)
from istio_init.mesh.policy.outbound import DNS_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from istio_init.config.model import Config
    from istio_init.dialects.iptables.matches import Address

DNS_CAPTURE_PORT = 15053
SERVER_ZONE = CtZone(1)
PROXY_ZONE = CtZone(2)


def capture(builder: Builder, config: Config, servers: tuple[IPv4Address | IPv6Address, ...]) -> None:
    """Capture queries to the family's servers, or to any with capture-all."""
    raw, nat = Table.RAW, Table.NAT
    queries = dport("udp", one_port(DNS_PORT))
    any_server: list[Address | None] = [None]
    destinations = any_server if config.capture_all_dns else [network(ip_network(server)) for server in servers]

    builder.append(raw, "OUTPUT", Role.DNS_ZONES_OUT_JUMP, Rule(target=to(OUTPUT_DNS)))
    if destinations:
        builder.append(nat, OUTPUT, Role.DNS_JUMP, Rule(target=to(OUTPUT_DNS)))
    for protocol in (TCP, UDP):
        for server in destinations:
            rule = Rule(
                destination=server,
                protocol=protocol,
                matches=(dport(protocol.name, one_port(DNS_PORT)),),
                target=redirect_to(DNS_CAPTURE_PORT),
            )
            builder.append(nat, OUTPUT_DNS, Role.DNS_REDIRECT, rule)
    for owner in (*map(uid, config.proxy_uids), *map(gid, config.proxy_gids)):
        query = Rule(protocol=UDP, matches=(queries, owner), target=SERVER_ZONE)
        builder.append(raw, OUTPUT_DNS, Role.DNS_ZONE_PROXY_QUERY, query)
        answer = Rule(protocol=UDP, matches=(sport("udp", DNS_CAPTURE_PORT), owner), target=PROXY_ZONE)
        builder.append(raw, OUTPUT_DNS, Role.DNS_ZONE_PROXY_ANSWER, answer)
    if destinations:
        builder.append(raw, "PREROUTING", Role.DNS_ZONES_IN_JUMP, Rule(target=to(INBOUND)))
    for server in destinations:
        query = Rule(destination=server, protocol=UDP, matches=(queries,), target=PROXY_ZONE)
        builder.append(raw, OUTPUT_DNS, Role.DNS_ZONE_APP_QUERY, query)
        answer = Rule(source=server, protocol=UDP, matches=(sport("udp", DNS_PORT),), target=SERVER_ZONE)
        builder.append(raw, INBOUND, Role.DNS_ZONE_SERVER_ANSWER, answer)
