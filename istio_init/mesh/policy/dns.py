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
    BOTH,
    INBOUND,
    OUTPUT,
    OUTPUT_DNS,
    TCP,
    UDP,
    Builder,
    dport,
    from_any,
    one_port,
    redirect_to,
    sent_by,
    sport,
    to,
    to_any,
)
from istio_init.mesh.policy.iptables import VERSION
from istio_init.mesh.policy.outbound import DNS_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from istio_init.config.model import Config

DNS_CAPTURE_PORT = 15053
SERVER_ZONE = CtZone(1)
PROXY_ZONE = CtZone(2)


def capture(builder: Builder, config: Config, servers: tuple[IPv4Address | IPv6Address, ...]) -> None:
    """Capture queries to each family's servers, or to any with capture-all."""
    raw, nat = Table.RAW, Table.NAT
    known = tuple([ip_network(server) for server in servers])
    queried, answering = ([], []) if config.capture_all_dns else ([to_any(*known)], [from_any(*known)])
    versions = {server.version for server in servers}
    families = tuple([family for family in BOTH if config.capture_all_dns or VERSION[family] in versions])
    queries = dport("udp", one_port(DNS_PORT))

    builder.append(raw, "OUTPUT", Role.DNS_ZONES_OUT_JUMP, Rule(target=to(OUTPUT_DNS)))
    builder.append(nat, OUTPUT, Role.DNS_JUMP, Rule(target=to(OUTPUT_DNS)), families=families)
    for protocol in (TCP, UDP):
        tested = (dport(protocol.name, one_port(DNS_PORT)),)
        rule = Rule(protocol=protocol, matches=tested, target=redirect_to(DNS_CAPTURE_PORT))
        builder.append(nat, OUTPUT_DNS, Role.DNS_REDIRECT, rule, each=queried)
    query = Rule(protocol=UDP, matches=(queries,), target=SERVER_ZONE)
    answer = Rule(protocol=UDP, matches=(sport("udp", DNS_CAPTURE_PORT),), target=PROXY_ZONE)
    proxy = sent_by(config.proxy_uids, config.proxy_gids)
    answered = Role.DNS_ZONE_PROXY_ANSWER, answer
    builder.append(raw, OUTPUT_DNS, Role.DNS_ZONE_PROXY_QUERY, query, answered, each=[proxy])
    builder.append(raw, "PREROUTING", Role.DNS_ZONES_IN_JUMP, Rule(target=to(INBOUND)), families=families)
    query = Rule(protocol=UDP, matches=(queries,), target=PROXY_ZONE)
    builder.append(raw, OUTPUT_DNS, Role.DNS_ZONE_APP_QUERY, query, each=queried)
    answer = Rule(protocol=UDP, matches=(sport("udp", DNS_PORT),), target=SERVER_ZONE)
    builder.append(raw, INBOUND, Role.DNS_ZONE_SERVER_ANSWER, answer, each=answering)
