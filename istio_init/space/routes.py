"""Routing as a program: the route that the rules and tables of a host give every packet (ip-rule(8))."""

from __future__ import annotations

from typing import NamedTuple

from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.names import exactly, number_of
from istio_init.netfilter.rules import Cause, Openness, Test
from istio_init.space.ways import ACCEPTED, GOING, doubts
from istio_init.trace.result import Kind, RoutingDecider
from istio_init.trace.routing import FAILURES, NO_ROUTE, Found, Query, Tables, tos_mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.netfilter.host import Network, RoutingRule
    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.composing import Ways
    from istio_init.space.diagram import Node, Substitute
    from istio_init.space.truth import Truths


class Asked(NamedTuple):
    """How routing is asked."""

    in_interface: str | None = "lo"
    """lo for what this machine sends (LOOPBACK_IFINDEX), None for the one of the packet."""
    out_interface: str | None = None
    as_named: bool = False
    """What is for this machine goes via the interface that the route itself names, and not via lo."""
    by_owner: bool = False
    """A socket asks, before any hook: of IPv4, too, as its own user."""


class Routes:
    """Makes programs that give packets a route, or drop them."""

    def __init__(self, ways: Ways, truths: Truths, tables: Tables) -> None:
        self.ways = ways
        self.truths = truths
        self.layout = truths.layout
        self.bits = tables.bits
        self.tables = tables
        self._programs: dict[Asked, Node] = {}

    @property
    def asks_for_interfaces(self) -> bool:
        """Whether a rule asks via which interface a packet came in."""
        return any(rule.in_interface is not None for rule in self.tables.rules)

    def program(self, asked: Asked) -> Node:
        """Ask the rules in their order."""
        if asked not in self._programs:
            rules = self.tables.rules
            programs = [self._end(NO_ROUTE, asked)] * (len(rules) + 1)
            for place in reversed(range(len(rules))):
                rule, following = rules[place], programs[place + 1]
                target = self.tables.target(rule, place)
                if target is None:
                    programs[place] = self.ways.then(self._rule(rule, asked), following)
                else:
                    programs[place] = self.ways.where(self._matches(rule, asked), programs[target], following)
            found = programs[0]
            self._programs[asked] = self.ways.ending(found, {ACCEPTED: GOING})
        return self._programs[asked]

    def _rule(self, rule: RoutingRule, asked: Asked) -> Node:
        """What a rule leads to; going on is to the next rule."""
        followed = self._followed(rule, asked)
        if followed is self.ways.going:
            return followed
        return self.ways.where(self._matches(rule, asked), followed, self.ways.going)

    def _matches(self, rule: RoutingRule, asked: Asked) -> Node:
        truths = self.truths
        nodes = [*self._selectors(rule, asked)]
        if not rule.is_known:
            nodes.append(truths.maybe(Cause(Openness.NOT_MODELLED, f"the routing rule of priority {rule.priority}")))
        matches = truths.all_of(nodes)
        return truths.negated(matches) if rule.negated else matches

    def _followed(self, rule: RoutingRule, asked: Asked) -> Node:
        if rule.action in FAILURES:
            return self._end(Found(rule.action, None, FAILURES[rule.action]), asked)
        if rule.table is None or rule.action is AddressType.THROW:
            return self.ways.going
        least = -1 if rule.suppressed_prefix_length is None else rule.suppressed_prefix_length
        return self._table(rule.table, asked, least)

    def _table(self, table: int, asked: Asked, least: int) -> Node:
        """The routes of a table, by destination: they change where a network begins or ends."""
        starts = {0}
        for length, by_network in self.tables.tables.get(table, {}).items():
            for network in by_network:
                starts.update((network, network + (1 << self.bits - length)))
        starts.discard(1 << self.bits)
        ordered = sorted(starts)
        children = []
        for start in ordered:
            found, causes = self.tables.search(table, Query(start, out_interface=asked.out_interface), least)
            ends = [self.ways.going if each is None else self._end(each, asked) for each in found]
            node = ends[0]
            for end in ends[1:]:
                node = self.ways.either(node, end, doubts(causes))
            children.append(node)
        return self.truths.stepped(Field.DESTINATION, ordered, children)

    def _end(self, found: Found, asked: Asked) -> Node:
        """A route is taken."""
        if found.device is None:
            return self.ways.stopped(Kind.DROP, RoutingDecider(found.words))
        device = found.named if asked.as_named and found.named is not None else found.device
        changes: dict[int, Substitute] = {
            self.layout.route: number_of(device),
            self.layout.route_type: found.type.value,
        }
        return self.ways.end(ACCEPTED, changes)

    def _selectors(self, rule: RoutingRule, asked: Asked) -> Iterator[Node]:
        truths = self.truths
        if rule.in_interface is not None:
            if asked.in_interface is None:
                yield truths.within({self.layout.dim(Field.IN_INTERFACE): exactly(rule.in_interface)})
            else:
                yield truths.yes if rule.in_interface == asked.in_interface else truths.no
        if rule.out_interface is not None:
            yield truths.yes if rule.out_interface == asked.out_interface else truths.no
        for field, network in ((Field.SOURCE, rule.source), (Field.DESTINATION, rule.destination)):
            if network is not None:
                yield truths.node(Test(field, _numbers(network)))
        if rule.mark is not None:
            wanted = rule.mark & rule.mask
            yield truths.node(Test(Field.MARK, ((wanted, wanted),), rule.mask))
        if rule.uids is not None:
            by_root = rule.uids[0] == 0
            if asked.in_interface is None or (self.bits == 32 and not asked.by_owner):  # flowi4_uid is not set.
                yield truths.yes if by_root else truths.no
            else:
                yield truths.node(Test(Field.UID, (rule.uids,), if_absent=by_root))
        if rule.protocol is not None:
            yield truths.node(Test(Field.PROTOCOL, ((rule.protocol, rule.protocol),)))
        if rule.tos is not None:
            yield truths.node(Test(Field.TOS, ((rule.tos, rule.tos),), tos_mask(rule.tos)))
        for field, ports in ((Field.SPORT, rule.sports), (Field.DPORT, rule.dports)):
            if ports is not None:
                yield truths.node(Test(field, (ports,)))


def _numbers(network: Network) -> Intervals:
    return ((int(network.network_address), int(network.broadcast_address)),)
