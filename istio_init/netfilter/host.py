"""What the kernel knows besides rules, as far as it decides a packet's way: addresses, routing, sockets, settings."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LOOPBACK = 772
"""The type of the loopback interface (linux/if_arp.h)."""

LOCAL_TABLE, MAIN_TABLE, DEFAULT_TABLE = 255, 254, 253


def is_usable(address: Address) -> bool:
    """Whether a connection to the world may have this source: not loopback, link-local, or the proxy's ``::6``."""
    return not (address.is_loopback or address.is_link_local) and str(address) != "::6"


class Link(Value):
    """A network interface. ``addresses`` are in the kernel's order: the first is the primary one.

    ``type`` is what links it (linux/if_arp.h), ``group`` its group, ``kind`` the driver that made it, empty where none
    did; None where it is not known.
    """

    name: str
    index: int = 0
    is_up: bool = True
    addresses: tuple[Address, ...] = ()
    type: int | None = None
    group: int | None = None
    kind: str | None = None


class Route(Value):
    """One route of a table. ``device`` is None for one that leads nowhere (unreachable, blackhole, throw)."""

    table: int
    destination: Network
    type: AddressType
    device: str | None = None
    gateway: Address | None = None
    source: Address | None = None
    """The preferred source address of what is sent that way."""

    metric: int = 0
    is_one_of_several: bool = False
    """Whether the kernel chooses between this and other routes of the table with the same destination and metric."""

    is_known: bool = True
    """False where something that is not listed here decides, too: a TOS, a source prefix, an encapsulation."""


class RoutingRule(Value):
    """One routing rule (ip-rule(8)). What is None is not looked at; ``action`` is None for a lookup of ``table``.

    ``is_known`` is false where it also selects by something that is not listed here.
    """

    priority: int
    table: int | None
    action: AddressType | None = None
    """BLACKHOLE, UNREACHABLE, PROHIBIT, or THROW for goto and nop."""

    source: Network | None = None
    destination: Network | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    mark: int | None = None
    mask: int = 0xFFFFFFFF
    uids: tuple[int, int] | None = None
    protocol: int | None = None
    sports: tuple[int, int] | None = None
    dports: tuple[int, int] | None = None
    tos: int | None = None
    negated: bool = False
    suppressed_prefix_length: int | None = None
    """Routes whose prefix is no longer than that do not count, and the next rule is asked."""

    goes_to: int | None = None
    """The priority of the rule that is asked next (goto); without one that has it, it is the next of all."""

    is_known: bool = True


class Listener(Value):
    """A socket that waits for traffic. ``is_transparent`` is None where nobody could tell."""

    protocol: int
    address: Address
    port: int
    is_transparent: bool | None = None
    takes_ipv4_too: bool = False
    """An IPv6 wildcard that is not IPV6_V6ONLY."""

    is_of_interface: bool = False
    """It is bound to an interface (SO_BINDTODEVICE), whose packets alone it takes."""


class Host(Value):
    """A namespace besides its rules. ``routes`` and ``rules`` are None where nothing is known of the routing (a file).

    ``local_marks`` then tells what is assumed of it: marks whose routing rule leads to this machine.
    ``forwards`` and ``reverse_path_filter`` (by interface: 0, 1 or 2) are None where they are not known.
    """

    links: tuple[Link, ...] = ()
    rules: Mapping[Family, tuple[RoutingRule, ...]] | None = None
    routes: Mapping[Family, tuple[Route, ...]] | None = None
    listeners: tuple[Listener, ...] | None = None
    connected: tuple[int, ...] = ()
    """Ports of UDP sockets that have a peer, whose packets they may take before those of ``listeners``."""

    forwards: Mapping[Family, bool] | None = None
    forwards_from: Mapping[str, bool] | None = None
    """Whether IPv4 sends on what comes in via an interface (net.ipv4.conf.*.forwarding); None: as ``forwards`` says."""

    reverse_path_filter: Mapping[str, int] | None = None
    route_localnet: Mapping[str, bool] | None = None
    accept_local: Mapping[str, bool] | None = None
    src_valid_mark: Mapping[str, bool] | None = None
    """Whether the route back is asked with the packet's mark (net.ipv4.conf.*.src_valid_mark)."""

    has_ipsec: bool | None = False
    """Whether there are policies or states of IPsec; None where that is not known."""

    local_marks: Mapping[Family, frozenset[int]] = {}

    @property
    def has_other_lo(self) -> bool:
        """Whether another interface took the name of the loopback, or that has another: rules go by names."""
        return any((link.type == LOOPBACK) is not (link.name == "lo") for link in self.links if link.type is not None)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses of all interfaces."""
        return tuple(address for link in self.links for address in link.addresses)


STANDARD_TABLES = frozenset([LOCAL_TABLE, MAIN_TABLE, DEFAULT_TABLE])
STANDARD_RULES = frozenset([(0, LOCAL_TABLE), (32766, MAIN_TABLE), (32767, DEFAULT_TABLE)])
"""What a namespace has by itself (ip-rule(8))."""

ASSUMED_PRIORITY, ASSUMED_TABLE = 32765, 133


def beside(base: Host, other: Host) -> Host:
    """The other host on the addresses, interfaces and settings of a base: what is left are routing rules of its own.

    So rules of two places are compared, and not the places. Of a host whose routing is not known, its marks that are
    taken to lead to this machine do.
    """
    if base.rules is None or base.routes is None:
        return other
    rules, routes = {}, {}
    for family in Family:
        own_rules, own_routes = _of_its_own(other, family)
        rules[family] = tuple(sorted((*_standard_rules(base, family), *own_rules), key=lambda rule: rule.priority))
        routes[family] = (*[route for route in base.routes.get(family, ()) if _is_standard(route)], *own_routes)
    return base.replace(rules=rules, routes=routes)


def _of_its_own(host: Host, family: Family) -> tuple[list[RoutingRule], list[Route]]:
    """Rules and routes that a namespace does not have by itself."""
    if host.rules is None or host.routes is None:
        marks = sorted(host.local_marks.get(family, ()))
        everything = IPv4Network("0.0.0.0/0") if family is Family.IPV4 else IPv6Network("::/0")
        local = Route(ASSUMED_TABLE, everything, AddressType.LOCAL, "lo")
        return [RoutingRule(ASSUMED_PRIORITY, ASSUMED_TABLE, mark=mark) for mark in marks], [local] if marks else []
    rules = [rule for rule in host.rules.get(family, ()) if (rule.priority, rule.table) not in STANDARD_RULES]
    return rules, [route for route in host.routes.get(family, ()) if not _is_standard(route)]


def _standard_rules(host: Host, family: Family) -> list[RoutingRule]:
    every = (host.rules or {}).get(family, ())
    return [rule for rule in every if (rule.priority, rule.table) in STANDARD_RULES]


def _is_standard(route: Route) -> bool:
    return route.table in STANDARD_TABLES
