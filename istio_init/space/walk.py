"""All packets of a direction through the kernel's hooks at once, as a program.

It says what packets become of what they began as; at each stage, what the stage does is put behind it.
"""

from __future__ import annotations

from typing import NamedTuple

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, CtState, CtStatus, Field
from istio_init.netfilter.intervals import union
from istio_init.netfilter.names import NO_INTERFACE, exactly
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.rules import Cause, Hook, Openness, Test
from istio_init.space.arrival import MULTICAST, Arriving
from istio_init.space.diagram import Moved, Unknown, leaves
from istio_init.space.layout import NO_SOCKET, NOT_YET, ORIGINAL, REPLY, STAYS, UNTOLD
from istio_init.space.leaving import BROADCAST, LINK_LOCAL, LO, Leaving
from istio_init.space.stages import Line, Stages
from istio_init.space.unsaid import for_any
from istio_init.space.ways import ENDED, GOING, Delivery, Way, doubts
from istio_init.trace.facts import ROUTING
from istio_init.trace.result import Kind, RoutingDecider
from istio_init.trace.walk import BEYOND_SCOPE, NOT_LOCAL, TTL_ENDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.boxes import Region
    from istio_init.space.diagram import Node, Substitute
    from istio_init.space.namespace import Namespace
    from istio_init.space.ways import Ends

HERE = (AddressType.LOCAL, AddressType.ANYCAST)
TURNED_AWAY = Cause(Openness.NOT_MODELLED, "nat and another rule give it different destinations")
"""Nat translates anew what comes back via lo, which then may have to be routed again."""


LEAST_TTL = 2
"""What comes in with less is not forwarded (ip_forward, ip6_forward)."""


class Came(NamedTuple):
    """What decides about what has come in besides its numbers."""

    kind: Kind | None
    """How it was translated."""
    unknown: Unknown | None
    """An address that is not known."""
    ttl: Substitute | None
    """What a rule has made of it, if any has."""


class Walk:
    """Makes the program of one namespace and direction."""

    def __init__(self, namespace: Namespace, direction: Direction, known: Region | None = None) -> None:
        """``known`` is a region of packets of which alone it matters what becomes; of others anything is said."""
        self.known = known or {}
        self.namespace = namespace
        self.direction = direction
        self.family = namespace.family
        self.netfilter = namespace.netfilter
        self.layout = namespace.layout
        self.ways = namespace.ways
        self.truths = namespace.truths
        self.leaving = Leaving(namespace)
        self.stages = Stages(namespace, self.leaving)

    def run(self) -> Node:
        """What becomes of every packet."""
        if self.direction is Direction.OUTBOUND:
            found = self._outbound(self._begin(Field.OUT_INTERFACE, Field.IN_INTERFACE))
        else:
            found = self._inbound(self._to_many(self._begin(Field.IN_INTERFACE, Field.OUT_INTERFACE)))
        return for_any(self.ways, self.layout, found)

    def _begin(self, interface: Field, other: Field) -> Node:
        layout = self.layout
        changes: dict[int, Substitute] = {layout.dim(other): NO_INTERFACE, layout.track: NOT_YET,
                                          layout.destination_done: 0, layout.source_done: 0, layout.moved: STAYS,
                                          layout.taker: UNTOLD, layout.rewritten: 0,
                                          layout.route: Moved(layout.dim(interface)),
                                          layout.route_type: AddressType.LOCAL.value}  # fmt: skip
        zeros = dict.fromkeys((Field.CT_STATUS, Field.CT_ZONE, Field.PKTTYPE, Field.TOS, Field.PRIORITY, Field.CT_MARK,
                               *ORIGINAL, *REPLY), 0)  # fmt: skip
        changes.update(self.namespace.effects.numbers({**zeros, Field.CT_STATE: int(CtState.INVALID)}))
        if self.direction is Direction.INBOUND:
            changes[layout.dim(Field.UID)] = NO_SOCKET
        return self.ways.end(GOING, changes)

    def _to_many(self, begin: Node) -> Node:
        """What comes in for a group, or for all, has another packet type (eth_type_trans)."""
        layout, ways = self.layout, self.ways
        kinds: list[tuple[int, Intervals]] = [(2, MULTICAST[self.family])]
        if self.family is Family.IPV4:
            kinds.append((1, BROADCAST))
        for number, within in kinds:
            changed = ways.then(begin, ways.end(GOING, {layout.dim(Field.PKTTYPE): number}))
            begin = ways.where(self.truths.node(Test(Field.DESTINATION, within)), changed, begin)
        return begin

    def _outbound(self, begin: Node) -> Node:
        ways, layout = self.ways, self.layout
        line = Line(self.namespace, begin)
        self.stages.hook(line, Hook.OUTPUT, known=self.known)
        line.put(ways.end(GOING, {layout.dim(Field.OUT_INTERFACE): Moved(layout.route)}))
        self.stages.hook(line, Hook.POSTROUTING)
        line.put(self._met(self.netfilter.egress, layout.route, ways.going))
        by_lo = self.truths.within({layout.route: ((LO, LO),)})
        if layout.translates_otherwise:
            came = ways.then(line.program(), ways.where(by_lo, self._coming_back(), ways.going))
            line.become(ways.diagrams.grafted(came, self._turned_away))
            line.put(ways.where(by_lo, self._delivered(), ways.going))
        else:
            line.put(ways.where(by_lo, ways.then(self._coming_back(), self._delivered()), ways.going))
        return line.program()

    def _coming_back(self) -> Node:
        """What left via lo comes in via it: connection and marks stay, the socket does not."""
        layout, ways = self.layout, self.ways
        entering: dict[int, Substitute] = {
            layout.dim(Field.IN_INTERFACE): LO,
            layout.dim(Field.OUT_INTERFACE): NO_INTERFACE,
            layout.dim(Field.UID): NO_SOCKET,
        }
        line = Line(self.namespace, ways.end(GOING, entering))
        line.put(self._met(self.netfilter.ingress, layout.dim(Field.IN_INTERFACE), ways.going))
        self.stages.hook(line, Hook.PREROUTING, has_returned=True)
        return line.program()

    def _delivered(self) -> Node:
        """The route of what came back is the one that led to lo (skb_dst_force in loopback_xmit)."""
        ways = self.ways
        decider = RoutingDecider(NOT_LOCAL)
        line = Line(self.namespace, ways.where(self._is_here(), ways.going, ways.stopped(Kind.DROP, decider)))
        self.stages.hook(line, Hook.INPUT, has_returned=True)
        return line.program()

    def _is_here(self) -> Node:
        types = union([((each.value, each.value),) for each in HERE])
        return self.truths.within({self.layout.route_type: types})

    def _turned_away(self, ends: Ends) -> Node:
        """What has another destination, when it comes back, than its connection was translated to, is not followed."""
        found = self.ways.nothing
        stopped = self.ways.stopped(Kind.UNKNOWN, RoutingDecider(TURNED_AWAY.words), TURNED_AWAY)
        for way in sorted(ends.ways, key=lambda way: way is not ends.main):
            node = self.ways.where(self._is_turned_away(way), stopped, self.ways.alone(way))
            found = node if found is self.ways.nothing else self.ways.either(found, node, ends.doubts)
        return found

    def _is_turned_away(self, way: Way) -> Node:
        layout, changes = self.layout, dict(way.changes)
        status = [group.dim for group in layout.groups[Field.CT_STATUS] if group.mask == int(CtStatus.DNAT)]
        has_returned = changes.get(layout.dim(Field.IN_INTERFACE)) == LO
        if way.flow == ENDED or not any(changes.get(dim) for dim in status) or not has_returned:
            return self.truths.no
        pairs = ((Field.DESTINATION, Field.CT_REPLY_SOURCE), (Field.DPORT, Field.CT_REPLY_SPORT))
        dims = [each for one, other in pairs for each in zip(layout.dims(one), layout.dims(other), strict=True)]
        return self.truths.any_of(
            [self.leaving.unequal(changes.get(one, Moved(one)), changes[other]) for one, other in dims]
        )

    def _met(self, chains: Mapping[str, str], interface: int, program: Node) -> Node:
        """The program, but for packets at interfaces whose chains are not modelled."""
        for device, chain in sorted(chains.items()):  # Any interface, "", comes first.
            words = f"what {chain} does at {device or 'its interface'}"
            stopped = self.ways.stopped(Kind.UNKNOWN, RoutingDecider(words), Cause(Openness.NOT_MODELLED, words))
            at = self.truths.within({interface: exactly(device)}) if device else self.truths.yes
            program = self.ways.where(at, stopped, program)
        return program

    def _inbound(self, begin: Node) -> Node:
        ways, layout = self.ways, self.layout
        begin = self._met(self.netfilter.ingress, layout.dim(Field.IN_INTERFACE), begin)
        if self.family is Family.IPV6:  # ip6_rcv_core drops them before any hook.
            loopback = [self.truths.node(Test(each, ((1, 1),))) for each in (Field.SOURCE, Field.DESTINATION)]
            dropped = ways.stopped(Kind.DROP, RoutingDecider("no interface but lo takes packets of ::1"))
            begin = ways.where(self.truths.any_of(loopback), dropped, begin)
            dropped = ways.stopped(Kind.DROP, RoutingDecider("no interface takes packets from a group"))
            begin = ways.where(self.truths.node(Test(Field.SOURCE, MULTICAST[self.family])), dropped, begin)
        for link in self.namespace.host.links:
            if not link.is_up:
                here = self.truths.within({layout.dim(Field.IN_INTERFACE): exactly(link.name)})
                begin = ways.where(here, ways.stopped(Kind.DROP, RoutingDecider(f"{link.name} is down")), begin)
        line = Line(self.namespace, begin)
        self.stages.hook(line, Hook.PREROUTING, known=self.known)
        came = line.program()
        groups: dict[Came, set[Way]] = {}
        for ends in leaves(came):
            for way in ends.ways:
                groups.setdefault(self._arrival_key(way), set()).add(way)
        inside = Line(self.namespace)
        self.stages.hook(inside, Hook.INPUT)
        taken = {
            ttl: ways.where(self._is_here(), inside.program(), self._forwarded(ttl))
            for ttl in dict.fromkeys(came.ttl for came in groups)
        }
        routes = self.namespace.surroundings.routes
        arriving = Arriving(self.namespace.surroundings) if routes is not None else None
        routed = arriving.program() if arriving is not None else None
        parts = []
        for key, found in groups.items():
            line = Line(self.namespace, ways.part(came, found))
            if routed is not None and key.unknown is None:
                line.put(routed)
            else:
                line.put(self._arrived(key, arriving))
            line.put(taken[key.ttl])
            parts.append(line.program())
        return ways.apart(parts)

    def _arrival_key(self, way: Way) -> Came:
        """What decides about a way besides its numbers."""
        changes = dict(way.changes)
        dims = [*self.layout.dims(Field.SOURCE), *self.layout.dims(Field.DESTINATION)]
        unknown = next((each for dim in dims if isinstance(each := changes.get(dim), Unknown)), None)
        kind = way.delivery.kind if way.delivery is not None else None
        return Came(kind, unknown, changes.get(self.layout.dim(Field.TTL)))

    def _arrived(self, came: Came, arriving: Arriving | None) -> Node:
        """Where it may go, of which routing or the address is unknown: here, unless it was translated."""
        ways, here = self.ways, self.leaving.here()
        kind, unknown, _ = came
        if unknown is not None and kind is Kind.REDIRECT:
            return here
        if unknown is not None and arriving is not None:
            assert isinstance(unknown.why, Cause)
            nowhere, why = ways.stopped(Kind.DROP, RoutingDecider("no route")), doubts([unknown.why])
            return ways.either(ways.either(here, arriving.onwards(self.leaving.astray()), why), nowhere, why)
        if kind is not Kind.DNAT:
            return here
        either = ways.either(self.leaving.astray(), here, doubts([ROUTING]))
        local = self.truths.node(Test(Field.DESTINATION, self.leaving.local()))
        return ways.where(local, here, either)

    def _forwarded(self, ttl: Substitute | None) -> Node:
        """FORWARD and POSTROUTING; of IPv4, the priority is that of the TOS (rt_tos2priority).

        A TTL that no rule has set is taken to be enough, one that a rule has changed may be or not.
        """
        layout, ways = self.layout, self.ways
        if isinstance(ttl, Unknown) and isinstance(ttl.why, Cause):
            ended = ways.stopped(Kind.DROP, RoutingDecider(TTL_ENDS))
            return ways.either(self._forwarded(None), ended, doubts([ttl.why]))
        if isinstance(ttl, int) and ttl < LEAST_TTL:
            return ways.stopped(Kind.DROP, RoutingDecider(TTL_ENDS))
        left: dict[int, Substitute] = {layout.dim(Field.TTL): ttl - 1} if isinstance(ttl, int) else {}
        alone = self.truths.node(Test(Field.PKTTYPE, ((0, 0),)))
        words = "only packets addressed to this host alone are forwarded"
        begin = self.namespace.surroundings.interfaces.by(layout.route, self._sent_on)
        line = Line(self.namespace, ways.where(alone, begin, ways.stopped(Kind.DROP, RoutingDecider(words))))
        if self.family is Family.IPV6:
            line.put(self._within_scope())
        line.put(ways.end(GOING, {layout.dim(Field.OUT_INTERFACE): Moved(layout.route), **left}))
        if self.family is Family.IPV4:
            cause = Cause(Openness.NOT_MODELLED, "the priority of what is forwarded")
            unknown: dict[int, Substitute] = {group.dim: Unknown(cause) for group in layout.groups[Field.PRIORITY]}
            plain = ways.end(GOING, self.namespace.effects.numbers({Field.PRIORITY: 0}))
            no_tos = self.truths.node(Test(Field.TOS, ((0, 7),)))
            line.put(ways.where(no_tos, plain, ways.end(GOING, unknown)))
        self.stages.hook(line, Hook.FORWARD)
        self.stages.hook(line, Hook.POSTROUTING)
        line.put(self._met(self.netfilter.egress, layout.route, ways.going))
        by_lo = self.truths.within({layout.route: ((LO, LO),)})
        line.put(ways.where(by_lo, ways.stopped(Kind.DROP, RoutingDecider(NOT_LOCAL)), ways.going))
        return line.program()

    def _within_scope(self) -> Node:
        """IPv6 does not forward from some sources to another interface (ip6_forward)."""
        ways, truths, layout = self.ways, self.truths, self.layout
        stopped = ways.stopped(Kind.DROP, RoutingDecider(BEYOND_SCOPE))

        def by(name: str | None) -> Node:
            if name is None:
                return ways.going
            same = truths.within({layout.dim(Field.IN_INTERFACE): exactly(name)})
            return ways.where(same, ways.going, stopped)

        near = truths.node(Test(Field.SOURCE, union([((0, 0),), LINK_LOCAL])))
        return ways.where(near, self.namespace.surroundings.interfaces.by(layout.route, by), ways.going)

    def _sent_on(self, device: str | None) -> Node:
        decider = RoutingDecider(f"routing forwards it via {device}")
        return self.ways.end(GOING, delivery=Delivery(Kind.FORWARD, decider))
