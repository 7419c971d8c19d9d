"""What a trace says, in words."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.dialects.role import Role
from istio_init.mesh.roles.catalogue import CATALOGUE
from istio_init.netfilter.fields import Field
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import WITH_PORTS, protocol_name
from istio_init.netfilter.rules import Nat, NatKind, Rule, Store, Test, Undecided
from istio_init.trace.result import (
    Hop,
    Kind,
    PolicyDecider,
    ReversePathDecider,
    RoutingDecider,
    SocketDecider,
)
from istio_init.value import Value
from istio_init.visible import visible
from istio_init.wording.outcomes import PROXY_PORTS, outcome_words, word
from istio_init.wording.statements import condition_words, nat_words
from istio_init.wording.values import IPV4_BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.netfilter.rules import Cause, Origin
    from istio_init.trace.result import Decider, Outcome, Trace

Place = tuple[Store, str, str, str, int]
"""Store, family, table, chain and number of a rule."""

LISTENERS = {
    Role.OUTBOUND_REDIRECT: "Envoy's outbound listener",
    Role.INBOUND_REDIRECT: "Envoy's inbound listener",
    Role.TPROXY_CAPTURE: "Envoy's inbound listener",
    Role.DNS_REDIRECT: "the proxy's DNS listener",
    Role.OLDER_DNS_REDIRECT: "the proxy's DNS listener",
    Role.AMBIENT_OUTBOUND: "ztunnel's outbound listener",
    Role.AMBIENT_INBOUND: "ztunnel's inbound listener",
    Role.AMBIENT_DNS: "ztunnel's DNS listener",
}

REWRITTEN = (Field.DESTINATION, Field.DPORT)
"""What a redirect changes for the rules after it."""

CAUSES = 3
"""Causes that are named; the rest is counted."""


class Reader(Value):
    """What is known of the rules beside what they are: their roles, and the ports of the proxy."""

    roles: Mapping[Place, Role] = {}
    proxy_ports: frozenset[int] = PROXY_PORTS

    def role(self, rule: Rule) -> Role | None:
        """Why a rule exists, where that is known."""
        return self.roles.get(place_of(rule.origin))


NOBODY = Reader()
"""Knows nothing but the rules themselves."""


def place_of(origin: Origin) -> Place:
    """What names a rule."""
    return origin.store, origin.family, origin.table, origin.chain, origin.number


def conclusion(trace: Trace, reader: Reader = NOBODY) -> str:
    """How it ends and why, for example: proxied to port 15001 (Envoy's outbound listener), meant for 10.0.0.5:443."""
    outcome, packet = trace.delivered, trace.packet
    goal = endpoint(packet.destination, packet.destination_port if packet.protocol in WITH_PORTS else None)
    if outcome.kind is Kind.UNKNOWN:
        return undecidable(trace, reader)
    said = outcome_words(outcome, reader.proxy_ports)
    decider = trace.delivered_by
    match outcome.kind:
        case Kind.REDIRECT | Kind.TPROXY | Kind.DNAT:
            role = reader.role(decider.rule) if isinstance(decider, Hop) else None
            listener = f", {LISTENERS[role]}" if role in LISTENERS else ""
            said = f"{said}{listener}; original destination {goal}"
        case Kind.DIRECT | Kind.FORWARD:
            said = f"{said} to {goal}"
    return f"{said}: {because(outcome, decider, reader).removesuffix('.')}"


def undecidable(trace: Trace, reader: Reader = NOBODY) -> str:
    """What may become of it, and what decides."""
    possible = list(dict.fromkeys(outcome_words(way.delivered, reader.proxy_ports) for way in trace.ways))
    either = f"{' or '.join(possible)}, depending on" if len(possible) > 1 else "it depends on"
    return f"{word(trace.delivered).value}: {either} {causes_words(trace.causes)}"


def causes_words(causes: tuple[Cause, ...]) -> str:
    """What would have to be known."""
    texts = list(dict.fromkeys(f"“{visible(each.words)}”" for each in causes))
    more = f" and {len(texts) - CAUSES} more" if len(texts) > CAUSES else ""
    return ", ".join(texts[:CAUSES]) + more if texts else "what cannot be read from here"


def because(outcome: Outcome, decider: Decider | None, reader: Reader = NOBODY) -> str:
    """What decided, and why it exists."""
    match decider:
        case None:
            return "no rule matches" if outcome.kind is not Kind.DROP else "nothing takes it"
        case Hop():
            return rule_words(decider.rule, reader)
        case PolicyDecider(_, store, family, table, chain):
            return f"no rule takes it, and the policy of {table_words(store, family, table)} {visible(chain)} is DROP"
        case SocketDecider(hop, _, port):
            return f"{rule_words(hop.rule, reader)} But nothing transparent listens on port {port}"
        case RoutingDecider(words) | ReversePathDecider(_, words):
            return words


def rule_words(rule: Rule, reader: Reader = NOBODY) -> str:
    """A rule by its place and text, and why it exists."""
    role = reader.role(rule)
    why = CATALOGUE[role].why if role is not None else "not one of Istio's rules"
    return f"{rule_place(rule)} ({visible(rule.origin.text) or 'every packet'}): {why}"


def rule_place(rule: Rule) -> str:
    """For example ``rule 2 of nat OUTPUT``, ``rule 1 of inet istio-proxy-nat output``."""
    origin = rule.origin
    table = table_words(origin.store, origin.family, origin.table)
    return f"rule {origin.number} of {table} {visible(origin.chain)}"


def table_words(store: Store, family: str, table: str) -> str:
    """A table as its dialect names it: iptables' tables by their names alone, nft's with their family."""
    is_iptables = family in ("ip", "ip6") and table in ("raw", "mangle", "nat", "filter", "security")
    return (
        f"{visible(table)}{' (legacy)' if store is Store.LEGACY else ''}"
        if is_iptables
        else f"{family} {visible(table)}"
    )


def missed(hop: Hop, moved: str = "") -> str:
    """Why a rule did not match; ``moved`` is where an earlier rule sent the packet, as `moves` says it."""
    if hop.missed is None:
        return "no"
    if hop.matched is None:
        words = hop.missed.cause.words if isinstance(hop.missed, Undecided) else _tested(hop)
        return f"undecidable: “{visible(words)}”"
    now = f", now {moved}" if moved and isinstance(hop.missed, Test) and hop.missed.field in REWRITTEN else ""
    return f"no: not “{visible(_tested(hop))}”{now}"


def moves(hop: Hop) -> str:
    """Where a rule that matched sends the packet, such as ``to port 15001``; empty where it has no new destination."""
    for statement in hop.rule.body if hop.matched else ():
        if isinstance(statement, Nat) and statement.kind in (NatKind.REDIRECT, NatKind.DNAT) and not statement.cause:
            return nat_words(statement).removeprefix("redirected ").removeprefix("sent ")
    return ""


def _tested(hop: Hop) -> str:
    is_ipv6 = hop.rule.origin.family == "ip6"
    return condition_words(hop.missed, is_ipv6=is_ipv6)  # type: ignore[arg-type]


def packet_words(packet: Packet) -> str:
    """The packet in a line."""
    has_ports = packet.protocol in WITH_PORTS
    source = endpoint(packet.source, packet.source_port if has_ports else None)
    destination = endpoint(packet.destination, packet.destination_port if has_ports else None)
    who = ""
    if packet.direction is Direction.OUTBOUND:
        who = ", no socket" if packet.uid is None else f", user {packet.uid}, group {packet.gid}"
    mark = f", mark {packet.mark:#x}" if packet.mark else ""
    protocol, interface = protocol_name(packet.protocol), visible(packet.interface)
    state = packet.state.name or "NEW"
    return f"{packet.direction.value} {protocol} {source} -> {destination} via {interface}{who}{mark}, {state}"


def endpoint(address: IPv4Address | IPv6Address, port: int | None) -> str:
    """Address and port, IPv6 in brackets; the address alone where there is no port."""
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def address_text(number: int) -> str:
    """An address from its number."""
    return str(IPv6Address(number) if number >> IPV4_BITS else IPv4Address(number))
