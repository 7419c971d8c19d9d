"""The clauses of a policy, collected in the order in which it states them, and the words to state them in.

A clause is one statement: rules of one role in one chain. Where it holds for each value of a list, it holds the whole
list, and both families' addresses: iptables gets a rule a value and family, nftables a set.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from istio_init.dialects.iptables.matches import (
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
from istio_init.dialects.iptables.rules import Entry
from istio_init.dialects.iptables.targets import Jump, Redirect
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.iptables.rules import Rule
    from istio_init.dialects.iptables.tables import Table
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

BOTH = tuple(Family)


class Kind(Enum):
    """What the values of a list are compared with."""

    SOURCE = "source"
    DESTINATION = "destination"
    IN_INTERFACE = "in_interface"
    OUT_INTERFACE = "out_interface"
    DPORT = "dport"
    OWNER = "owner"

    __hash__ = object.__hash__


class OneOf(Value):
    """A test that holds for any of its values; negated, for none of them.

    Values are networks of both families, names of interfaces, ranges of ports (of the rule's protocol), or owners.
    """

    kind: Kind
    values: tuple[IPNetwork, ...] | tuple[str, ...] | tuple[PortRange, ...] | tuple[Owner, ...]
    negated: bool = False


class Clause(Value):
    """Rules that follow each other in a chain, for each combination of the lists' values.

    A clause without rules has its chain exist. ``number`` is where the rules are inserted, from 1; None: at the end.
    """

    table: Table
    chain: str
    entries: tuple[Entry, ...] = ()
    lists: tuple[OneOf, ...] = ()
    number: int | None = None
    families: tuple[Family, ...] = BOTH


class Builder:
    """A policy in the making: its clauses, in order."""

    def __init__(self) -> None:
        self.clauses: list[Clause] = []

    def declare(self, table: Table, chain: str) -> None:
        """Create a chain, where no rule may follow, like ``iptables -N``."""
        self.clauses.append(Clause(table, chain))

    def append(
        self,
        table: Table,
        chain: str,
        role: Role,
        rule: Rule,
        *more: tuple[Role, Rule],
        each: Iterable[OneOf] = (),
        families: tuple[Family, ...] = BOTH,
    ) -> None:
        """Add a rule at the end of a chain, like ``iptables -A``; with more, these rules follow for each value."""
        entries = (Entry(rule, role), *[Entry(rule, role) for role, rule in more])
        self.clauses.append(Clause(table, chain, entries, tuple(each), None, families))

    def insert(
        self, table: Table, chain: str, role: Role, rule: Rule, number: int = 1, *, each: Iterable[OneOf] = ()
    ) -> None:
        """Add a rule so that it becomes number ``number`` of its chain, like ``iptables -I``."""
        self.clauses.append(Clause(table, chain, (Entry(rule, role, first=True),), tuple(each), number))


PASSTHROUGH: dict[Family, IPNetwork] = {
    Family.IPV4: IPv4Network("127.0.0.6/32"),
    Family.IPV6: IPv6Network("::6/128"),
}
"""The source from which Envoy passes inbound connections on to the application."""

LOOPBACK_ADDRESS_V4 = IPv4Network("127.0.0.1/32")
LOOPBACK_ADDRESS_V6 = IPv6Network("::1/128")


def from_any(*networks: IPNetwork) -> OneOf:
    """The source lies in one of these networks."""
    return OneOf(Kind.SOURCE, networks)


def to_any(*networks: IPNetwork) -> OneOf:
    """The destination lies in one of these networks."""
    return OneOf(Kind.DESTINATION, networks)


def to_none(*networks: IPNetwork) -> OneOf:
    """The destination lies in none of these networks."""
    return OneOf(Kind.DESTINATION, networks, negated=True)


def entering(names: tuple[str, ...]) -> OneOf:
    """It comes in by one of these interfaces."""
    return OneOf(Kind.IN_INTERFACE, names)


def leaving(names: tuple[str, ...]) -> OneOf:
    """It goes out by one of these interfaces."""
    return OneOf(Kind.OUT_INTERFACE, names)


def to_ports(ports: tuple[PortRange, ...]) -> OneOf:
    """The destination port, of the rule's protocol, is one of these."""
    return OneOf(Kind.DPORT, ports)


def sent_by(uids: tuple[IdRange, ...], gids: tuple[IdRange, ...] = ()) -> OneOf:
    """One of these users or groups opened the sending socket."""
    return OneOf(Kind.OWNER, (*map(uid, uids), *map(gid, gids)))


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


def redirect_to(port: int) -> Redirect:
    """Redirect to a port of this machine."""
    return Redirect(one_port(port))


def marked(value: int, *, negated: bool = False) -> Mark:
    """The packet's mark."""
    return Mark(value, negated=negated)
