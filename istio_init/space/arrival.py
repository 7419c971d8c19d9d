"""Routing of what comes in, as a program: delivered here, forwarded, or dropped (net/ipv4/route.c)."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.intervals import union
from istio_init.netfilter.names import number_of
from istio_init.netfilter.rules import Cause, Openness, Test
from istio_init.space.routes import Asked
from istio_init.space.ways import ENDED, GOING, doubts
from istio_init.trace.arrival import HERE
from istio_init.trace.result import Kind, ReversePathDecider, RoutingDecider

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.diagram import Node
    from istio_init.space.surroundings import Surroundings
    from istio_init.space.ways import Ends

MULTICAST = {Family.IPV4: ((224 << 24, (240 << 24) - 1),), Family.IPV6: ((0xFF << 120, (1 << 128) - 1),)}
EVERY_HOST: dict[Family, Intervals] = {
    Family.IPV4: ((0xE0000001, 0xE0000001),),
    Family.IPV6: ((0xFF02 << 112 | 1, 0xFF02 << 112 | 1),),
}
"""224.0.0.1 and ff02::1, the groups that every host is a member of."""

LOCAL_GROUPS: Intervals = ((0xE0000000, 0xE00000FF),)
"""224.0.0.0/24, whose groups take packets from 0.0.0.0, too (ip_mc_validate_source)."""

LIMITED_BROADCAST: Intervals = ((0xFFFFFFFF, 0xFFFFFFFF),)
LOOPBACK: Intervals = ((127 << 24, (128 << 24) - 1),)
NOTHING: Intervals = ((0, 0),)
STRICT: Intervals = ((1, 1), (0xFE80 << 112, (0xFEC0 << 112) - 1))
"""Routes to these count on the incoming interface alone (rt6_need_strict)."""


class Arriving:
    """Makes the program. Its ways that go on have a route: via lo for this machine, via another interface onwards."""

    def __init__(self, surroundings: Surroundings) -> None:
        assert surroundings.routes is not None
        self.surroundings = surroundings
        self.routes = surroundings.routes
        self.ways = surroundings.ways
        self.truths = surroundings.truths
        self.layout = surroundings.layout
        self.host = surroundings.host
        self.family = surroundings.family
        layout = self.layout
        self.here = self.ways.end(GOING, {layout.route: number_of("lo"), layout.route_type: AddressType.LOCAL.value})

    def program(self) -> Node:
        """What becomes of packets, by the interface that they came in via."""
        return self.surroundings.interfaces.by(self.layout.dim(Field.IN_INTERFACE), self._on)

    def _on(self, name: str | None) -> Node:
        interface = "its interface" if name is None else name
        found = self._routed(name, interface)
        member = doubts([_not_given("whether the host is a member of the group")])
        group = self.ways.either(self.here, self._nowhere("the host is no member of the group"), member)
        found = self._where(self._in(Field.DESTINATION, MULTICAST[self.family]), group, found)
        everybody = (
            self.ways.then(self.here, self._checked(name, interface)) if self.family is Family.IPV4 else self.here
        )
        found = self._where(self._in(Field.DESTINATION, EVERY_HOST[self.family]), everybody, found)
        return self._without_martians(name, interface, found) if self.family is Family.IPV4 else found

    def _routed(self, name: str | None, interface: str) -> Node:
        """Ask the rules, and whether the source is believed."""
        found = self.routes.program(Asked(None))
        if self.family is Family.IPV6:
            near = self.routes.program(Asked(None, name or "?"))
            found = self._where(self._in(Field.DESTINATION, STRICT), near, found)
        onwards = self._onwards(name, self.ways.going)
        if self.family is Family.IPV4:
            onwards = self._where(self._of_types(AddressType.UNICAST), onwards, self._elsewhere())
        taken = self._where(self._of_types(*HERE[self.family]), self.here, onwards)
        if self.family is Family.IPV4:
            taken = self.ways.then(taken, self._checked(name, interface))
        return self.ways.then(found, taken)

    def _of_types(self, *types: AddressType) -> Node:
        return self.truths.within({self.layout.route_type: union([((each.value, each.value),) for each in types])})

    def _elsewhere(self) -> Node:
        return self._nowhere("its route leads to no one host")

    def onwards(self, program: Node) -> Node:
        """A program for what is forwarded, where this host does that."""
        by_interface = self.surroundings.interfaces.by
        return by_interface(self.layout.dim(Field.IN_INTERFACE), lambda name: self._onwards(name, program))

    def _onwards(self, name: str | None, program: Node) -> Node:
        held = self._nowhere("what a socket here takes is not forwarded")
        free = self._where(self.truths.node(Test(Field.SOCKET, ((1, 1),))), held, program)
        return self._where(self._forwards(name), free, self._nowhere("this host does not forward"))

    def _checked(self, name: str | None, interface: str) -> Node:
        """Drop what has a source that is not believed. The route back is asked as for where it goes."""
        words = f"{interface} takes no packets from there (rp_filter)"
        refused = self.ways.stopped(Kind.DROP, ReversePathDecider(interface, words))

        def towards(device: str | None) -> Node:
            return self._where(self._believed(name, interface, device or "?"), self.ways.going, refused)

        if not self.routes.asks_for_interfaces:
            return towards("lo")
        return self.surroundings.interfaces.by(self.layout.route, towards)

    def _forwards(self, name: str | None) -> Node:
        by_interface = (self.host.forwards_from or {}) if self.family is Family.IPV4 else {}
        forwards = by_interface.get(name or "", (self.host.forwards or {}).get(self.family))
        if forwards is None:
            return self.truths.maybe(_not_given("whether the host forwards"))
        return self.truths.yes if forwards else self.truths.no

    def _without_martians(self, name: str | None, interface: str, found: Node) -> Node:
        """Packets have no such addresses that come from outside."""
        truths = self.truths
        source, destination = Field.SOURCE, Field.DESTINATION
        allowed = _setting(self.host.route_localnet, name)
        martian = self._nowhere(f"{interface} takes no packets of the loopback network (martian)")
        if allowed is None:
            cause = doubts([_not_given(f"route_localnet of {interface}")])
            martian = self.ways.either(martian, found, cause)
        if allowed is not True:
            ours = truths.any_of([self._in(source, LOOPBACK), self._in(destination, LOOPBACK)])
            found = self._where(ours, martian, found)
        wrong = self._nowhere(f"{interface} takes no packets to such a destination (martian)")
        found = self._where(self._in(destination, NOTHING), wrong, found)
        unaddressed = truths.all_of([self._in(source, NOTHING), self._in(destination, NOTHING)])
        broadcast = truths.any_of([self._in(destination, LIMITED_BROADCAST), unaddressed])
        found = self._where(broadcast, self.here, found)
        unheard = union([MULTICAST[Family.IPV4], LIMITED_BROADCAST])
        may_be_nobody = truths.any_of([broadcast, self._in(destination, LOCAL_GROUPS)])
        zero = truths.all_of([self._in(source, NOTHING), truths.negated(may_be_nobody)])
        wrong = self._nowhere(f"{interface} takes no packets from such a source (martian)")
        return self._where(truths.any_of([self._in(source, unheard), zero]), wrong, found)

    def _believed(self, name: str | None, interface: str, towards: str) -> Node:
        """Whether a source may come via the interface (fib_validate_source)."""
        mode = None if name is None else (self.host.reverse_path_filter or {}).get(name)
        nodes = [self._valid(name, interface, towards, each) for each in ((0, 1, 2) if mode is None else (mode,))]
        unclear = self.truths.maybe(_not_given(f"rp_filter of {interface}"))

        def same(one: Node, other: Node) -> Node | None:
            if one is other:
                return one
            return None if one.children or other.children else unclear

        return self.surroundings.diagrams.joined(nodes, same)

    def _valid(self, name: str | None, interface: str, towards: str, mode: int) -> Node:
        truths = self.truths
        uses_mark = _setting(self.host.src_valid_mark, name)
        back = self.surroundings.back(with_mark=uses_mark is True, in_interface=towards, with_ports=True)
        found = self._allows(back, name, interface, mode)
        if uses_mark is None:
            unmarked = self._in(Field.MARK, ((0, 0),))
            unclear = truths.maybe(_not_given(f"src_valid_mark of {interface}"))
            found = truths.any_of(
                [truths.all_of([unmarked, found]), truths.all_of([truths.negated(unmarked), unclear])]
            )
        if mode == 0 and not self.routes.tables.checks_every_source:
            local = union([((each, each),) for each in self.surroundings.facts.local])
            found = truths.any_of([truths.negated(self._in(Field.SOURCE, local)), found])
        return found

    def _allows(self, back: Node, name: str | None, interface: str, mode: int) -> Node:
        """Whether the route back allows the packet to have come via the interface."""
        truths, layout = self.truths, self.layout
        accepts_local = _setting(self.host.accept_local, name)
        addresses = self.surroundings.facts.addresses.get(name or "", ())
        own = self._in(Field.SOURCE, union([((each, each),) for each in addresses]))

        def believed(ends: Ends) -> Node:
            found = [(way.flow == ENDED, dict(way.changes)) for way in ends.ways]
            types = {None if ended else changes[layout.route_type] for ended, changes in found}
            if len(types) > 1:
                return truths.maybe(*[doubt.cause for doubt in ends.doubts])
            [kind] = types
            if kind is None:
                return truths.yes if mode == 0 else truths.no
            if kind != AddressType.UNICAST.value:
                if kind != AddressType.LOCAL.value or accepts_local is False:
                    return truths.no
                if accepts_local is None:
                    return truths.maybe(_not_given(f"accept_local of {interface}"))
                if mode == 1:
                    return own  # By the interface that has it.
            is_here = {name is not None and changes[layout.route] == number_of(name) for _, changes in found}
            if mode == 0 or is_here == {True}:
                return truths.yes
            if mode == 2 and bool(addresses):
                return truths.yes
            return truths.no if is_here == {False} else truths.maybe(*[doubt.cause for doubt in ends.doubts])

        return self.surroundings.diagrams.mapped(back, believed)

    def _where(self, truth: Node, program: Node, otherwise: Node) -> Node:
        return self.ways.where(truth, program, otherwise)

    def _in(self, field: Field, within: Intervals) -> Node:
        regions = self.layout.regions(field, None, within) or []
        return self.truths.any_of([self.truths.within(region) for region in regions])

    def _nowhere(self, words: str) -> Node:
        return self.ways.stopped(Kind.DROP, RoutingDecider(words))


def _setting(settings: Mapping[str, bool] | None, name: str | None) -> bool | None:
    return None if settings is None or name is None else settings.get(name)


def _not_given(what: str) -> Cause:
    return Cause(Openness.NOT_GIVEN, what)
