"""Collects the rules of one family in the order in which the policy states them, and the words to state them in."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from istio_init.dialects.iptables.matches import (
    Address,
    IdRange,
    Interface,
    IPNetwork,
    Mark,
    Owner,
    PortMatch,
    PortRange,
    PortTest,
    Protocol,
)
from istio_init.dialects.iptables.rules import Chain, Entry, Rule, RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import Jump, Redirect
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.role import Role

INBOUND = "ISTIO_INBOUND"
IN_REDIRECT = "ISTIO_IN_REDIRECT"
OUTPUT = "ISTIO_OUTPUT"
PRERT = "ISTIO_PRERT"
REDIRECT = "ISTIO_REDIRECT"
OUTPUT_DNS = "ISTIO_OUTPUT_DNS"
DIVERT = "ISTIO_DIVERT"
TPROXY = "ISTIO_TPROXY"
DROP_CHAIN = "ISTIO_DROP"

LOOPBACK = Interface("lo")
TCP = Protocol("tcp")
UDP = Protocol("udp")

LOOPBACK_ADDRESS_V4 = IPv4Network("127.0.0.1/32")
LOOPBACK_ADDRESS_V6 = IPv6Network("::1/128")
PASSTHROUGH: dict[Family, IPNetwork] = {
    Family.IPV4: IPv4Network("127.0.0.6/32"),
    Family.IPV6: IPv6Network("::6/128"),
}
"""The source from which Envoy passes inbound connections on to the application."""


class Builder:
    """A rule set in the making. Appending to a chain of Istio's creates it."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._tables: dict[Table, dict[str, list[Entry]]] = {}

    def _chain(self, table: Table, chain: str) -> list[Entry]:
        return self._tables.setdefault(table, {}).setdefault(chain, [])

    def declare(self, table: Table, chain: str) -> None:
        """Create a chain, where no rule may follow, like ``iptables -N``."""
        self._chain(table, chain)

    def append(self, table: Table, chain: str, role: Role, rule: Rule) -> None:
        """Add a rule at the end of a chain, like ``iptables -A``."""
        self._chain(table, chain).append(Entry(rule, role))

    def insert(self, table: Table, chain: str, role: Role, rule: Rule, number: int = 1) -> None:
        """Add a rule so that it becomes number ``number`` of its chain, like ``iptables -I``."""
        self._chain(table, chain).insert(number - 1, Entry(rule, role, first=True))

    def build(self) -> RuleSet:
        """The rule set as it stands."""
        tables = {
            table: {name: Chain(name, tuple(entries)) for name, entries in chains.items()}
            for table, chains in self._tables.items()
        }
        return RuleSet(self.family, tables)


def to(chain: str) -> Jump:
    """Jump to a chain."""
    return Jump(chain)


def dport(protocol: str, ports: PortRange, *, negated: bool = False) -> PortMatch:
    """Destination port in a range. All ports is no test at all, as iptables prints it."""
    if ports.first == 0 and ports.last == 65535 and not negated:
        return PortMatch(protocol)
    return PortMatch(protocol, destination=PortTest(ports, negated))


def sport(protocol: str, port: int) -> PortMatch:
    """Source port."""
    return PortMatch(protocol, source=PortTest(PortRange(port, port)))


def one_port(port: int) -> PortRange:
    """A range of a single port."""
    return PortRange(port, port)


def uid(ids: IdRange, *, negated: bool = False) -> Owner:
    """The sender's user."""
    return Owner(uid=ids, uid_negated=negated)


def gid(ids: IdRange, *, negated: bool = False) -> Owner:
    """The sender's group."""
    return Owner(gid=ids, gid_negated=negated)


def network(value: IPNetwork, *, negated: bool = False) -> Address | None:
    """An address in a network. Every address is no test at all, as iptables prints it."""
    return None if value.prefixlen == 0 and not negated else Address(value, negated)


def redirect_to(port: int) -> Redirect:
    """Redirect to a port of this machine."""
    return Redirect(one_port(port))


def marked(value: int, *, negated: bool = False) -> Mark:
    """The packet's mark."""
    return Mark(value, negated=negated)
