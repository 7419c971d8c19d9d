"""Where routing sends what starts here, asked again when rules changed it (ip_route_me_harder), as programs."""

from __future__ import annotations

from functools import partial

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.intervals import union
from istio_init.netfilter.names import number_of
from istio_init.netfilter.protocols import TCP
from istio_init.netfilter.rules import Cause, Openness, Test
from istio_init.space.arrival import MULTICAST
from istio_init.space.diagram import Moved, Unknown, leaves
from istio_init.space.layout import ELSEWHERE, NO_SOCKET, SOMEWHERE, STAYS
from istio_init.space.routes import Asked
from istio_init.space.ways import ENDED, GOING, doubts
from istio_init.trace.facts import ROUTING
from istio_init.trace.result import Kind, RoutingDecider
from istio_init.trace.walk import TO_MANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.diagram import Node, Substitute
    from istio_init.space.namespace import Namespace
    from istio_init.space.routes import Routes
    from istio_init.space.ways import Ends, Way

LO = number_of("lo")
NOT_LO: Intervals = ((0, LO - 1), (LO + 1, (1 << 128) - 1))
LOOPBACK: dict[Family, Intervals] = {Family.IPV4: ((127 << 24, (128 << 24) - 1),), Family.IPV6: ((1, 1),)}
LINK_LOCAL: Intervals = ((0xFE80 << 112, (0xFEC0 << 112) - 1),)
BROADCAST: Intervals = ((0xFFFFFFFF, 0xFFFFFFFF),)
UNTOLD = RoutingDecider("its route is undecidable")
STAYS_HERE = "the loopback network does not leave the machine (martian)"
LOCALNET = Cause(Openness.NOT_GIVEN, "route_localnet of the outgoing interface")


def _refusal(why: str) -> RoutingDecider:
    return RoutingDecider(f"{why}: its sender gets an error, and no rule sees it")


TO_MANY_TYPE = AddressType.BROADCAST.value
UNTRIED = (_refusal(STAYS_HERE), _refusal(TO_MANY))
"""Why nobody tries to send: no map tells of it."""


class Leaving:
    """Puts programs behind others, and asks for the route again where they have changed what it depends on."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.family = namespace.family
        self.ways = namespace.ways
        self.truths = namespace.truths
        self.layout = namespace.layout
        self.surroundings = namespace.surroundings
        self._programs: dict[bool, Node] = {}

    def here(self) -> Node:
        """The route to this machine."""
        return self.ways.end(GOING, {self.layout.route: LO, self.layout.route_type: AddressType.LOCAL.value})

    def local(self) -> Intervals:
        """The addresses of this machine, as far as its interfaces tell."""
        return union([LOOPBACK[self.family], *[((each, each),) for each in self.surroundings.facts.local]])

    def astray(self) -> Node:
        """Some route by which it does not stay here."""
        layout = self.layout
        return self.ways.end(
            GOING, {layout.route: Unknown(ROUTING, NOT_LO), layout.route_type: AddressType.UNICAST.value}
        )

    def changes(self, program: Node, fields: tuple[Field, ...]) -> bool:
        """Whether a program changes any of some fields of any packet."""
        dims = self._dims(fields)
        return any(dim in dims for ends in leaves(program) for way in ends.ways for dim, _ in way.changes)

    def rerouting(self, first: Node, then: Node, fields: tuple[Field, ...]) -> Node:
        """A program behind another one, and the route asked for again where it has changed any of some fields."""
        ways, dims = self.ways, self._dims(fields)
        entries: dict[object, set[Way]] = {}
        for ends in leaves(first):
            for way in ends.ways:
                entries.setdefault(tuple([each for each in way.changes if each[0] in dims]), set()).add(way)
        parts = []
        for begun in entries.values():
            before = dict(next(iter(begun)).changes)
            after = ways.then(ways.part(first, begun), then)
            parts.append(ways.diagrams.grafted(after, partial(self._rerouted, before, dims)))
        return ways.apart(parts)

    def _dims(self, fields: tuple[Field, ...]) -> list[int]:
        return [group.dim for field in fields for group in self.layout.groups[field]]

    def _rerouted(self, before: dict[int, Substitute], dims: list[int], ends: Ends) -> Node:
        """Ask for the route where something has changed since."""
        ways = self.ways
        found = None
        for way in sorted(ends.ways, key=lambda way: way is not ends.main):
            node = ways.alone(way)
            changed = self._changed(before, dict(way.changes), dims) if way.flow != ENDED else self.truths.no
            if changed is not self.truths.no:
                node = ways.where(changed, ways.then(node, self._route(way)), node)
            found = node if found is None else ways.either(found, node, ends.doubts)
        return found if found is not None else ways.nothing

    def _changed(self, before: dict[int, Substitute], after: dict[int, Substitute], dims: list[int]) -> Node:
        """Where any of some dimensions is not what it was, in terms of what packets began as."""
        pairs = [(before.get(dim, Moved(dim)), after.get(dim, Moved(dim))) for dim in dims]
        return self.truths.any_of([self.unequal(old, new) for old, new in pairs])

    def unequal(self, one: Substitute, other: Substitute) -> Node:
        """Where two numbers are not the same, in terms of what packets began as."""
        truths = self.truths
        if one == other:
            return truths.no
        for each in (one, other):
            if isinstance(each, Unknown):
                assert isinstance(each.why, Cause)
                return truths.maybe(each.why)
        if isinstance(one, int) and isinstance(other, int):
            return truths.yes
        if isinstance(one, int):
            one, other = other, one
        if isinstance(one, Moved) and isinstance(other, int):
            number = other ^ one.flipped
            return truths.negated(truths.within({one.dim: ((number, number),)}))
        if isinstance(one, Moved) and isinstance(other, Moved) and one.dim == other.dim:
            return truths.yes
        return truths.maybe(Cause(Openness.NOT_MODELLED, "whether a rule has changed what it copies"))

    def refused(self) -> Node:
        """Whether no route leads anywhere for a packet, so that its sender gets an error and no rule sees it.

        The decider, None where a route leads on. What goes to many leaves via the interface of its source, whatever
        the routes (ip_route_output_key_hash_rcu).
        """
        ways, layout, routes = self.ways, self.layout, self.surroundings.routes
        leaf = ways.diagrams.leaf
        if routes is None:
            return leaf(None)

        def decider(ends: Ends) -> Node:
            stops = [way.stop for way in sorted(ends.ways, key=lambda way: way is not ends.main)]
            first = stops[0]
            if first is None or None in stops or not isinstance(first.decider, RoutingDecider):
                [way, *others] = ends.ways
                is_to_many = first is None and not others and dict(way.changes).get(layout.route_type) == TO_MANY_TYPE
                return leaf(TO_MANY_TYPE if is_to_many else None)
            return leaf(_refusal(first.decider.words))

        begin: dict[int, Substitute] = {
            layout.route: Moved(layout.dim(Field.OUT_INTERFACE)),
            **layout.numbers(Field.TOS, 0),
        }
        asked = self._without_martians(self._asked(routes, by_owner=True))
        found = ways.diagrams.mapped(ways.then(ways.end(GOING, begin), asked), decider)
        many = union([MULTICAST[self.family], BROADCAST if self.family is Family.IPV4 else ()])
        found = self.truths.either_of(self.truths.node(Test(Field.DESTINATION, many)), leaf(TO_MANY_TYPE), found)
        return self._told_of_many(found)

    def _told_of_many(self, refused: Node) -> Node:
        """What is refused; what has a route to many hosts is where it is TCP, of a socket (tcp_v4_connect)."""
        truths, diagrams = self.truths, self.ways.diagrams

        def told(decider: RoutingDecider | None) -> Callable[[object], Node]:
            return lambda value: diagrams.leaf(decider if value == TO_MANY_TYPE else value)

        of_tcp = truths.node(Test(Field.PROTOCOL, ((TCP, TCP),)))
        of_socket = truths.within({self.layout.dim(Field.UID): ((0, NO_SOCKET - 1),)})
        connects = truths.all_of([of_tcp, of_socket])
        return truths.either_of(
            connects, diagrams.mapped(refused, told(_refusal(TO_MANY))), diagrams.mapped(refused, told(None))
        )

    def after_nat(self) -> Node:
        """Ask for the route of what nat has given another destination; of an unknown one it is unknown."""
        layout, ways, truths = self.layout, self.ways, self.truths
        cause = Cause(Openness.OPEN, "which address of several is chosen")
        stopped = ways.stopped(Kind.UNKNOWN, UNTOLD, cause)
        routed = ways.then(self._program(is_translated=True), ways.end(GOING, {layout.moved: STAYS}))
        somewhere = truths.within({layout.moved: ((SOMEWHERE, SOMEWHERE),)})
        elsewhere = truths.within({layout.moved: ((ELSEWHERE, ELSEWHERE),)})
        return ways.where(elsewhere, routed, ways.where(somewhere, stopped, ways.going))

    def _route(self, way: Way) -> Node:
        """Ask for the route of packets that take a way."""
        changes = dict(way.changes)
        for destination in map(changes.get, self.layout.dims(Field.DESTINATION)):
            if isinstance(destination, Unknown):
                assert isinstance(destination.why, Cause)
                return self.ways.stopped(Kind.UNKNOWN, UNTOLD, destination.why)
        return self._program(is_translated=way.delivery is not None and way.delivery.kind is Kind.DNAT)

    def _program(self, *, is_translated: bool) -> Node:
        """Ask for the route of what starts here."""
        routes = self.surroundings.routes
        key = is_translated and routes is None
        if key not in self._programs:
            asked = self._asked(routes) if routes is not None else self._assumed(is_translated=is_translated)
            self._programs[key] = self._without_martians(asked)
        return self._programs[key]

    def _asked(self, routes: Routes, *, by_owner: bool = False) -> Node:
        anywhere = routes.program(Asked(by_owner=by_owner))
        if self.family is Family.IPV4:  # Nobody's address is this machine (ip_route_output_key_hash_rcu).
            return self.ways.where(self.truths.node(Test(Field.DESTINATION, ((0, 0),))), self.here(), anywhere)

        def on(name: str | None) -> Node:
            return routes.program(Asked(out_interface=name or "?", by_owner=by_owner))

        near = self.surroundings.interfaces.by(self.layout.route, on)
        where = self.truths.node(Test(Field.DESTINATION, LINK_LOCAL))
        return self.ways.where(where, near, anywhere)

    def _assumed(self, *, is_translated: bool) -> Node:
        """Where the routing is unknown: what is for this machine, or has one of some marks, goes via lo."""
        layout, truths, ways = self.layout, self.truths, self.ways
        marks = [
            truths.within(region)
            for mark in sorted(self.namespace.host.local_marks.get(self.family, ()))
            for region in layout.regions(Field.MARK, None, ((mark, mark),)) or []
        ]
        here = truths.any_of([truths.node(Test(Field.DESTINATION, self.local())), *marks])
        stays = ways.end(GOING, {layout.route_type: AddressType.UNICAST.value})
        by_lo = truths.within({layout.route: ((LO, LO),)})
        elsewhere = ways.where(by_lo, self.astray() if is_translated else self.here(), stays)
        return ways.where(here, self.here(), elsewhere)

    def _without_martians(self, routed: Node) -> Node:
        """What has an address of IPv4's loopback network does not leave via another interface (__mkroute_output)."""
        if self.family is Family.IPV6:
            return routed
        ways, truths = self.ways, self.truths
        forbidden = ways.stopped(Kind.DROP, RoutingDecider(STAYS_HERE))
        allowed = self.namespace.host.route_localnet or {}

        def by(name: str | None) -> Node:
            if name == "lo" or (name is not None and allowed.get(name) is True):
                return ways.going
            is_forbidden = name is not None and allowed.get(name) is False
            return forbidden if is_forbidden else ways.either(ways.going, forbidden, doubts([LOCALNET]))

        from_loopback = truths.node(Test(Field.SOURCE, LOOPBACK[self.family]))
        checked = ways.where(from_loopback, self.surroundings.interfaces.by(self.layout.route, by), ways.going)
        return ways.then(routed, checked)
