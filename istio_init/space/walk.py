"""All packets of a direction through the kernel's hooks at once, as a program.

It says what packets become of what they began as; at each stage, what the stage does is put behind it.
"""

from __future__ import annotations

from functools import partial

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, CtState, CtStatus, Field
from istio_init.netfilter.intervals import union
from istio_init.netfilter.names import NO_INTERFACE, number_of
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.rules import Cause, ChainType, Hook, Openness, Test
from istio_init.netfilter.stages import CONNTRACK_PRIORITY, Call, Core, NatCalls
from istio_init.space.arrival import Arriving
from istio_init.space.diagram import Moved, Unknown, leaves
from istio_init.space.effects import Effects
from istio_init.space.layout import NO_SOCKET, NOT_YET, ORIGINAL, REPLY, TEMPLATE, TRACKED, together
from istio_init.space.programs import Context, Programs
from istio_init.space.surroundings import Surroundings
from istio_init.space.translation import Translation
from istio_init.space.truth import Truths
from istio_init.space.ways import ACCEPTED, ENDED, GOING, Delivery, Way, Ways, doubts
from istio_init.trace.facts import ROUTING
from istio_init.trace.result import Kind, PolicyDecider, RoutingDecider

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.stages import Netfilter, Stage
    from istio_init.space.diagram import Diagrams, Node, Substitute
    from istio_init.space.layout import Layout, Region
    from istio_init.space.routes import Routes
    from istio_init.space.ways import Ends

LO = number_of("lo")
BEFORE_ROUTING = frozenset([Hook.PREROUTING, Hook.OUTPUT])
SOURCE_HOOKS = frozenset([Hook.INPUT, Hook.POSTROUTING])
ROUTED_BY = (Field.MARK, Field.SOURCE, Field.DESTINATION, Field.TOS)
"""What makes the kernel ask for the route again where a route chain has changed it (ipt_mangle_out)."""

OWN = {Field.CT_ORIG_SOURCE: Field.SOURCE, Field.CT_ORIG_DESTINATION: Field.DESTINATION,
       Field.CT_ORIG_SPORT: Field.SPORT, Field.CT_ORIG_DPORT: Field.DPORT,
       Field.CT_REPLY_DESTINATION: Field.SOURCE, Field.CT_REPLY_SOURCE: Field.DESTINATION,
       Field.CT_REPLY_DPORT: Field.SPORT, Field.CT_REPLY_SPORT: Field.DPORT}  # fmt: skip
"""What a new connection has of its first packet."""


class Walk:
    """Makes the program of one namespace, for one family and direction."""

    def __init__(
        self, diagrams: Diagrams, layout: Layout, netfilter: Netfilter, host: Host, direction: Direction
    ) -> None:
        self.netfilter = netfilter
        self.host = host
        self.layout = layout
        self.family = layout.family
        self.direction = direction
        self.diagrams = diagrams
        self.ways = Ways(diagrams, layout.unseen)
        self.surroundings = Surroundings(self.ways, layout, host, layout.family)
        self.truths = Truths(diagrams, layout, self.surroundings.derived)
        self.surroundings.attach(self.truths)
        self.effects = Effects(self.ways, self.truths, Translation(self.ways, self.truths, host, self.surroundings))
        self.programs = Programs(self.ways, self.truths, self.effects)
        self._routes: dict[bool | None, Node] = {}
        self.tracks = netfilter.tracks_connections(layout.family)

    def run(self) -> Node:
        """What becomes of every packet."""
        if self.direction is Direction.OUTBOUND:
            return self._outbound(self._begin(Field.OUT_INTERFACE, Field.IN_INTERFACE))
        return self._inbound(self._begin(Field.IN_INTERFACE, Field.OUT_INTERFACE))

    def _begin(self, interface: Field, other: Field) -> Node:
        layout = self.layout
        changes: dict[int, Substitute] = {layout.dim(other): NO_INTERFACE, layout.track: NOT_YET,
                                          layout.destination_done: 0, layout.source_done: 0,
                                          layout.route: Moved(layout.dim(interface)),
                                          layout.route_type: AddressType.LOCAL.value}  # fmt: skip
        zeros = dict.fromkeys((Field.CT_STATUS, Field.CT_ZONE, Field.PKTTYPE, Field.TOS, Field.PRIORITY, Field.CT_MARK,
                               *ORIGINAL, *REPLY), 0)  # fmt: skip
        changes.update(self.effects.numbers({**zeros, Field.CT_STATE: int(CtState.INVALID)}))
        if self.direction is Direction.INBOUND:
            changes[layout.dim(Field.UID)] = NO_SOCKET
        begin = self.ways.end(GOING, changes)
        return self._to_many(begin) if self.direction is Direction.INBOUND else begin

    def _to_many(self, begin: Node) -> Node:
        """What comes in for a group, or for all, has another packet type (eth_type_trans)."""
        layout, ways = self.layout, self.ways
        groups = {Family.IPV4: ((224 << 24, (240 << 24) - 1),), Family.IPV6: ((0xFF << 120, (1 << 128) - 1),)}
        kinds = [(2, groups[self.family])]
        if self.family is Family.IPV4:
            kinds.append((1, ((0xFFFFFFFF, 0xFFFFFFFF),)))
        sent: Node = ways.going
        for number, within in kinds:
            changed = ways.end(GOING, {layout.dim(Field.PKTTYPE): number})
            sent = (
                self.truths.choice({layout.dim(Field.DESTINATION): within}, changed, sent)
                if sent is ways.going
                else ways.where(self.truths.within({layout.dim(Field.DESTINATION): within}), changed, sent)
            )
        return ways.then(sent, begin)

    def _outbound(self, begin: Node) -> Node:
        ways, layout = self.ways, self.layout
        sent = self._hook(begin, Hook.OUTPUT)
        sent = ways.then(sent, ways.end(GOING, {layout.dim(Field.OUT_INTERFACE): Moved(layout.route)}))
        sent = self._hook(sent, Hook.POSTROUTING)
        return ways.then(sent, self._by_lo(self._returning(), ways.going))

    def _by_lo(self, inside: Node, outside: Node) -> Node:
        """One program for what has a route by lo, another one for the rest."""
        return self.ways.where(self.truths.within({self.layout.route: ((LO, LO),)}), inside, outside)

    def _returning(self) -> Node:
        """What left by lo comes in by it: connection and marks stay, the socket does not."""
        layout, ways = self.layout, self.ways
        changes: dict[int, Substitute] = {
            layout.dim(Field.IN_INTERFACE): LO,
            layout.dim(Field.OUT_INTERFACE): NO_INTERFACE,
            layout.dim(Field.UID): NO_SOCKET,
            **self._confirmed(),
        }
        came = self._hook(ways.end(GOING, changes), Hook.PREROUTING, has_returned=True)
        types = union([((each.value, each.value),) for each in (AddressType.LOCAL, AddressType.ANYCAST)])
        is_local = self.truths.within({layout.route_type: types})
        decider = RoutingDecider("a route sends it to lo that is none to this machine")
        came = ways.then(came, ways.where(is_local, ways.going, ways.stopped(Kind.DROP, decider)))
        return self._hook(came, Hook.INPUT, has_returned=True)

    def _confirmed(self) -> dict[int, Substitute]:
        bit = int(CtStatus.CONFIRMED)
        groups = self.layout.groups[Field.CT_STATUS]
        return {group.dim: together(bit, bit) for group in groups if group.mask == bit}

    def _inbound(self, begin: Node) -> Node:
        ways, layout = self.ways, self.layout
        if self.family is Family.IPV6:  # ip6_rcv_core drops them before any hook.
            loopback = [self.truths.within({layout.dim(each): ((1, 1),)}) for each in (Field.SOURCE, Field.DESTINATION)]
            dropped = ways.stopped(Kind.DROP, RoutingDecider("no interface but lo takes packets of ::1"))
            begin = ways.where(self.truths.any_of(loopback), dropped, begin)
        came = self._hook(begin, Hook.PREROUTING)
        inside, onwards = self._hook(ways.going, Hook.INPUT), self._forwarding()
        groups: dict[tuple[object, ...], set[Way]] = {}
        for ends in leaves(came):
            for way in ends.ways:
                groups.setdefault(self._arrival_key(way), set()).add(way)
        arriving = Arriving(self.surroundings).program() if self.surroundings.routes is not None else None
        types = union([((each.value, each.value),) for each in (AddressType.LOCAL, AddressType.ANYCAST)])
        is_here = self.truths.within({layout.route_type: types})
        taken = ways.where(is_here, inside, onwards)
        parts = []
        for (kind, unknown), found in groups.items():
            part = ways.part(came, found)
            if isinstance(unknown, Unknown) and kind is Kind.REDIRECT:
                arrived = self._here()
            elif isinstance(unknown, Unknown) and arriving is not None:
                assert isinstance(unknown.why, Cause)
                nowhere = ways.stopped(Kind.DROP, RoutingDecider("no route"))
                arrived = ways.either(self._here(), nowhere, doubts([unknown.why]))
            else:
                arrived = arriving if arriving is not None else self._here_unless_translated(kind)
            parts.append(ways.then(ways.then(part, arrived), taken))
        return ways.apart(parts)

    def _arrival_key(self, way: Way) -> tuple[Kind | None, Unknown | None]:
        """What decides about a way besides its numbers: how it was translated, and an address that nobody knows."""
        changes = dict(way.changes)
        addresses = [changes.get(self.layout.dim(field)) for field in (Field.SOURCE, Field.DESTINATION)]
        unknown = next((each for each in addresses if isinstance(each, Unknown)), None)
        return way.delivery.kind if way.delivery is not None else None, unknown

    def _here(self) -> Node:
        layout = self.layout
        return self.ways.end(GOING, {layout.route: LO, layout.route_type: AddressType.LOCAL.value})

    def _here_unless_translated(self, kind: object) -> Node:
        """Where nobody knows the routing: what came in is for this machine, unless it has got another destination."""
        if kind is not Kind.DNAT:
            return self._here()
        astray = self.ways.end(GOING, {self.layout.route: Unknown(ROUTING, self._not_lo()),
                                       self.layout.route_type: AddressType.UNICAST.value})  # fmt: skip
        either = self.ways.either(astray, self._here(), doubts([ROUTING]))
        return self.ways.where(
            self.truths.within({self.layout.dim(Field.DESTINATION): self._local()}), self._here(), either
        )

    def _not_lo(self) -> Intervals:
        return ((0, LO - 1), (LO + 1, (1 << 128) - 1))

    def _local(self) -> Intervals:
        """The addresses of this machine, as far as its interfaces tell."""
        loopback = ((127 << 24, (128 << 24) - 1),) if self.family is Family.IPV4 else ((1, 1),)
        return union([loopback, *[((each, each),) for each in self.surroundings.facts.local]])

    def _forwarding(self) -> Node:
        """FORWARD and POSTROUTING; of IPv4, the priority is that of the TOS (rt_tos2priority)."""
        layout, ways = self.layout, self.ways
        begin = self.surroundings.by_interface(layout.route, self._sent_on)
        onwards = ways.then(begin, ways.end(GOING, {layout.dim(Field.OUT_INTERFACE): Moved(layout.route)}))
        if self.family is Family.IPV4:
            cause = Cause(Openness.NOT_MODELLED, "the priority of what is forwarded")
            unknown: dict[int, Substitute] = {group.dim: Unknown(cause) for group in layout.groups[Field.PRIORITY]}
            plain = ways.end(GOING, self.effects.numbers({Field.PRIORITY: 0}))
            no_tos = self.truths.node(Test(Field.TOS, ((0, 0),)))
            onwards = ways.then(onwards, ways.where(no_tos, plain, ways.end(GOING, unknown)))
        return self._hook(self._hook(onwards, Hook.FORWARD), Hook.POSTROUTING)

    def _sent_on(self, device: str | None) -> Node:
        decider = RoutingDecider(f"routing sends it on by {device}")
        return self.ways.end(GOING, delivery=Delivery(Kind.FORWARD, decider))

    def _hook(self, first: Node, hook: Hook, *, has_returned: bool = False) -> Node:
        """The stages of a hook, in each order that is possible."""
        found = []
        for stages in self.netfilter.stages(self.family, hook):
            node = first
            for stage in stages:
                node = self._stage(node, stage, hook, has_returned)
            found.append(self._nat_is_done(node, hook))
        node = found[0]
        for other in found[1:]:
            cause = Cause(Openness.NOT_GIVEN, f"the order of base chains of equal priority at {hook.value}")
            node = self.ways.either(node, other, doubts([cause]))
        return node

    def _nat_is_done(self, node: Node, hook: Hook) -> Node:
        """What no rule has translated by the end of a hook never will be (nf_nat_alloc_null_binding)."""
        if hook is Hook.FORWARD or not self.tracks:
            return node
        done = self.layout.source_done if hook in SOURCE_HOOKS else self.layout.destination_done
        tracked: Region = {self.layout.track: ((TRACKED, TRACKED),)}
        return self.ways.then(node, self.truths.choice(tracked, self.ways.end(GOING, {done: 1}), self.ways.going))

    def _stage(self, node: Node, stage: Stage, hook: Hook, has_returned: bool) -> Node:
        if isinstance(stage, NatCalls):
            if not self.tracks:
                return node
            nat = self._nat(stage, hook, has_returned)
            return (
                self._rerouting(node, nat, (Field.DESTINATION,)) if hook is Hook.OUTPUT else self.ways.then(node, nat)
            )
        if isinstance(stage, Core):
            return self.ways.then(node, self._lookup()) if self.tracks and stage is Core.CONNTRACK else node
        assert stage.chain.base is not None
        if not (stage.chain.rules or stage.chain.base.drops):
            return node
        called = self._call(stage, hook, has_returned)
        if stage.chain.base.type is ChainType.ROUTE and hook is Hook.OUTPUT:
            return self._rerouting(node, called, ROUTED_BY)
        return self.ways.then(node, called)

    def _call(self, call: Call, hook: Hook, has_returned: bool) -> Node:
        """A base chain: what it lets pass goes on."""
        base = call.chain.base
        assert base is not None
        follows_lookup = hook is Hook.PREROUTING and base.priority > CONNTRACK_PRIORITY
        lets_pass = hook in BEFORE_ROUTING and (base.type is not ChainType.FILTER or follows_lookup)
        program = self.programs.chain(call.table, call.chain.name, Context(hook, lets_pass, has_returned))
        if base.drops:
            table = call.table
            decider = PolicyDecider(hook, table.store, table.family, table.name, call.chain.name)
            program = self.ways.then(program, self.ways.stopped(Kind.DROP, decider))
        return self.ways.ending(program, {ACCEPTED: GOING})

    def _lookup(self) -> Node:
        """Find the connection: a new one, in the zone of a template."""
        layout = self.layout
        changes: dict[int, Substitute] = {layout.track: TRACKED}
        changes.update(self.effects.numbers({Field.CT_STATE: int(CtState.NEW), Field.CT_STATUS: 0, Field.CT_MARK: 0}))
        for field, source in OWN.items():
            changes.update(self.effects.copied(field, source))
        waiting: Region = {layout.track: ((NOT_YET, TEMPLATE),)}
        return self.truths.choice(waiting, self.ways.end(GOING, changes), self.ways.going)

    def _nat(self, stage: NatCalls, hook: Hook, has_returned: bool) -> Node:
        """All nat base chains, until one has translated the connection; nothing after that does so again."""
        layout, ways = self.layout, self.ways
        done = layout.source_done if hook in SOURCE_HOOKS else layout.destination_done
        still: Region = {done: ((0, 0),)}
        program = ways.going
        for call in stage.calls:
            called = self._call(call, hook, has_returned)
            program = ways.then(program, ways.where(self.truths.within(still), called, ways.going))
        first: Region = {layout.track: ((TRACKED, TRACKED),), **still}
        return ways.where(self.truths.within(first), program, ways.going)

    def _rerouting(self, first: Node, then: Node, fields: tuple[Field, ...]) -> Node:
        """A program behind another one, and the route asked for again where it has changed any of some fields."""
        ways = self.ways
        dims = [group.dim for field in fields for group in self.layout.groups[field]]
        if not any(dim in dims for ends in leaves(then) for way in ends.ways for dim, _ in way.changes):
            return ways.then(first, then)
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

    def _rerouted(self, before: dict[int, Substitute], dims: list[int], ends: Ends) -> Node:
        """Ask for the route where something has changed since; of an unknown destination nobody can tell it."""
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
        truths = self.truths
        found = []
        for dim in dims:
            old, new = before.get(dim, Moved(dim)), after.get(dim, Moved(dim))
            if old == new:
                continue
            unknown = [each for each in (old, new) if isinstance(each, Unknown)]
            if unknown:
                cause = unknown[0].why
                assert isinstance(cause, Cause)
                found.append(truths.maybe(cause))
            elif isinstance(old, int) and isinstance(new, int):
                return truths.yes
            else:
                found.append(self._unequal(old, new))
        return truths.any_of(found)

    def _unequal(self, one: Substitute, other: Substitute) -> Node:
        truths = self.truths
        if isinstance(one, int):
            one, other = other, one
        if isinstance(one, Moved) and isinstance(other, int):
            number = other ^ one.flipped
            return truths.negated(truths.within({one.dim: ((number, number),)}))
        if isinstance(one, Moved) and isinstance(other, Moved) and one.dim == other.dim:
            return truths.yes
        return truths.maybe(Cause(Openness.NOT_MODELLED, "whether a rule has changed what it copies"))

    def _route(self, way: Way) -> Node:
        """Ask for the route of what this machine sends (ip_route_me_harder)."""
        destination = dict(way.changes).get(self.layout.dim(Field.DESTINATION))
        if isinstance(destination, Unknown):
            assert isinstance(destination.why, Cause)
            decider = RoutingDecider("where it is sent cannot be told")
            return self.ways.stopped(Kind.UNKNOWN, decider, destination.why)
        if self.surroundings.routes is not None:
            if None not in self._routes:
                self._routes[None] = self._routed(self.surroundings.routes)
            return self._routes[None]
        is_translated = way.delivery is not None and way.delivery.kind is Kind.DNAT
        if is_translated not in self._routes:
            self._routes[is_translated] = self._assumed(is_translated=is_translated)
        return self._routes[is_translated]

    def _routed(self, routes: Routes) -> Node:
        if self.family is Family.IPV4:
            return routes.program(incoming=False)
        near = self.surroundings.by_interface(
            self.layout.route, lambda name: routes.program(incoming=False, out_interface=name or "?")
        )
        link_local = ((0xFE80 << 112, (0xFEC0 << 112) - 1),)
        where = self.truths.within({self.layout.dim(Field.DESTINATION): link_local})
        return self.ways.where(where, near, routes.program(incoming=False))

    def _assumed(self, *, is_translated: bool) -> Node:
        """Where nobody knows the routing: what is for this machine, or has one of some marks, goes by lo."""
        layout, truths, ways = self.layout, self.truths, self.ways
        marks = [
            truths.within(region)
            for mark in sorted(self.host.local_marks.get(self.family, ()))
            for region in layout.regions(Field.MARK, None, ((mark, mark),)) or []
        ]
        here = truths.any_of([truths.within({layout.dim(Field.DESTINATION): self._local()}), *marks])
        astray = ways.end(GOING, {layout.route: Unknown(ROUTING, self._not_lo())})
        stays = ways.end(GOING, {layout.route_type: AddressType.UNICAST.value})
        elsewhere = self._by_lo(astray if is_translated else self._here(), stays)
        return ways.where(here, self._here(), elsewhere)
