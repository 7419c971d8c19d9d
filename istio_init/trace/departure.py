"""The first route of what starts here: via which interface it leaves, and from which address.

A socket asks for its route before any hook sees a packet (ip_route_connect, ip6_dst_lookup_flow), with its own user.
"""

from __future__ import annotations

from ipaddress import ip_address

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.host import is_usable
from istio_init.trace.facts import LIMITED_BROADCAST
from istio_init.trace.routing import Query, Tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from istio_init.netfilter.host import Address, Host


class Departures:
    """Answers for one host; what is not known of its routing is not answered.

    ``known`` gives tables that have been made already.
    """

    def __init__(self, host: Host, known: Callable[[Family], Tables | None] = lambda _: None) -> None:
        self.host = host
        self._known = known
        self._tables: dict[Family, Tables] = {}

    def interface(self, destination: Address, fields: Mapping[str, Any]) -> str | None:
        """By which interface a connection leaves, of which these fields are said; None where that is not sure."""
        if self.host.routes is None:
            return None
        query = _query(destination, fields)
        tables = self._of(Family.IPV4 if destination.version == 4 else Family.IPV6)
        given = fields.get("src")
        if given is not None:
            owner = self._owner(ip_address(given)) if _is_for_many(destination) else None
            return owner or _device(tables, query.replace(source=int(ip_address(given))))
        device = _device(tables, query)
        is_asked_again = destination.version == 4  # With the source that was chosen (ip_route_connect).
        source = self._chosen(tables, query, destination) if device is not None and is_asked_again else None
        return device if source is None else _device(tables, query.replace(source=int(source)))

    def source(self, destination: Address, fields: Mapping[str, Any]) -> Address | None:
        """The address that it has if none is said: as the first route says, or one of that route's interface."""
        if self.host.routes is None:
            return None
        query = _query(destination, fields)
        return self._chosen(self._of(Family.IPV4 if destination.version == 4 else Family.IPV6), query, destination)

    def _chosen(self, tables: Tables, query: Query, destination: Address) -> Address | None:
        route = tables.route(query)
        if route is None:
            return None
        if route.source is not None or route.type is AddressType.LOCAL:
            return route.source or destination
        addresses = [each for link in self.host.links if link.name == route.device for each in link.addresses]
        usable = [each for each in addresses if each.version == destination.version and is_usable(each)]
        return usable[0] if usable else None

    def _owner(self, source: Address) -> str | None:
        """The interface that has an address: what goes to many leaves via it (ip_route_output_key_hash_rcu)."""
        return next((link.name for link in self.host.links if source in link.addresses), None)

    def asks_for(self, family: Family) -> frozenset[str]:
        """What else than the destination routing rules select by, of what may be left out of a packet's description."""
        rules = self._of(family).rules
        asked = {
            "src": any(rule.source is not None for rule in rules),
            "mark": any(rule.mark is not None for rule in rules),
            "uid": any(rule.uids is not None for rule in rules),
            "sport": any(rule.sports is not None for rule in rules),
            "dport": any(rule.dports is not None for rule in rules),
        }
        return frozenset(name for name, is_asked in asked.items() if is_asked)

    def _of(self, family: Family) -> Tables:
        if family not in self._tables:
            self._tables[family] = self._known(family) or Tables(self.host, family)
        return self._tables[family]


def _query(destination: Address, fields: Mapping[str, Any]) -> Query:
    return Query(
        int(destination),
        mark=fields.get("mark", 0),
        uid=fields.get("uid"),
        tos=fields.get("tos", 0),
        protocol=fields["protocol"],
        sport=fields.get("sport", 0),
        dport=fields.get("dport", 0),
    )


def _is_for_many(destination: Address) -> bool:
    return destination.version == 4 and (destination.is_multicast or int(destination) == LIMITED_BROADCAST)


def _device(tables: Tables, query: Query) -> str | None:
    found, _ = tables.look_up(query)
    return found[0].device if len(found) == 1 else None
