"""What the host makes of packets, as diagrams: types of addresses, routes back, sockets."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.intervals import difference, union
from istio_init.netfilter.names import NO_INTERFACE, number_of
from istio_init.netfilter.rules import Cause, Openness
from istio_init.space.diagram import Moved
from istio_init.space.layout import ORIGINAL
from istio_init.space.routes import Routes
from istio_init.space.truth import PORTED, Maybe
from istio_init.trace.facts import ROUTING, Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from istio_init.netfilter.host import Host, Listener
    from istio_init.netfilter.rules import Tproxy
    from istio_init.space.composing import Ways
    from istio_init.space.diagram import Diagrams, Node, Substitute
    from istio_init.space.layout import Layout, Region
    from istio_init.space.truth import Truths
    from istio_init.space.ways import Ends

PROXIED = ((6, 6), (17, 17))
"""TCP and UDP: nothing else is handed to a socket."""

SOCKETS = Cause(Openness.NOT_GIVEN, "the namespace's sockets")
LOOPBACK = "lo"

TYPES = {
    Field.SOURCE_TYPE: (Field.SOURCE, None),
    Field.DESTINATION_TYPE: (Field.DESTINATION, None),
    Field.SOURCE_TYPE_IN: (Field.SOURCE, Field.IN_INTERFACE),
    Field.DESTINATION_TYPE_IN: (Field.DESTINATION, Field.IN_INTERFACE),
    Field.SOURCE_TYPE_OUT: (Field.SOURCE, Field.OUT_INTERFACE),
    Field.DESTINATION_TYPE_OUT: (Field.DESTINATION, Field.OUT_INTERFACE),
}
"""Of which address a field is the type, and on which interface."""

BACK = {
    Field.RETURN_INTERFACE: (False, False),
    Field.RETURN_INTERFACE_MARK: (False, True),
    Field.RETURN_INTERFACE_HERE: (True, False),
    Field.RETURN_INTERFACE_HERE_MARK: (True, True),
}
"""Whether the route back is asked for the incoming interface, and with the mark."""

FOUND = {
    Field.SOCKET_FOUND: (False, False),
    Field.SOCKET_FOUND_ANY: (False, True),
    Field.SOCKET_TRANSPARENT: (True, False),
    Field.SOCKET_TRANSPARENT_ANY: (True, True),
}
"""Whether a socket has to be transparent, and whether one that is bound to every address counts."""


class Surroundings:
    """The diagrams of one host and family, made when they are asked for."""

    def __init__(self, ways: Ways, layout: Layout, host: Host, family: Family) -> None:
        self.ways = ways
        self.diagrams: Diagrams = ways.diagrams
        self.layout = layout
        self.host = host
        self.family = family
        self.facts = Facts(host, family)
        self._made: dict[Field, Node] = {}

    def attach(self, truths: Truths) -> None:
        """Have the diagrams of conditions, which are made of these, and of which routes are made."""
        self.truths = truths
        self.routes = Routes(self.ways, truths, self.host, self.family) if self.host.routes is not None else None

    def derived(self, field: Field) -> Node:
        """A field's number for every packet, or the cause for which it cannot be told."""
        if field not in self._made:
            if field in TYPES:
                self._made[field] = self._types(*TYPES[field])
            elif field in BACK:
                here, with_mark = BACK[field]
                self._made[field] = self._back(here=here, with_mark=with_mark)
            else:
                transparent, wildcards = FOUND[field]
                self._made[field] = self._socket(transparent=transparent, wildcards=wildcards)
        return self._made[field]

    def by_interface(self, dim: int, of: Callable[[str | None], Node]) -> Node:
        """A diagram for each interface: those that are known by their names, None for all others."""
        others = of(None)
        names = sorted({link.name for link in self.host.links} | {LOOPBACK}, key=number_of)
        cuts: list[int] = []
        children = [others]
        for name in names:
            cuts += [number_of(name), number_of(name) + 1]
            children += [of(name), others]
        return self.diagrams.chosen(dim, cuts, children)

    def _types(self, field: Field, interface: Field | None) -> Node:
        if interface is None:
            return self._types_on(field, None)
        nobody = self.diagrams.test(
            self.layout.dim(interface), ((NO_INTERFACE, NO_INTERFACE),), self.truths.yes, self.truths.no
        )
        on = self.by_interface(self.layout.dim(interface), lambda name: self._types_on(field, name or "?"))
        anywhere = self._types_on(field, None)

        def join(one: Node, other: Node) -> Node | None:
            return None if one.children else (other if one is self.truths.no else anywhere)

        return self.diagrams.combine(nobody, on, join)

    def _types_on(self, field: Field, device: str | None) -> Node:
        """By where a network of any route begins or ends, and the kernel's own ones."""
        top = 1 << self.family.bits
        ordered = sorted(each for each in self._starts() if each < top)
        children = []
        for start in ordered:
            found = self.facts.type_of(start, device)
            children.append(self.diagrams.leaf(ROUTING if found is None else found.value))
        return self.diagrams.node(self.layout.dim(field), ordered[1:], children)

    def _starts(self) -> Iterator[int]:
        yield 0
        yield 1
        if self.family is Family.IPV4:
            for first in (1, 127, 128, 224, 240):
                yield first << 24
            yield 0xFFFFFFFF
        else:
            yield 2
            yield 0xFF << 120
        for address in self.facts.local:
            yield address
            yield address + 1
        rules = (self.host.rules or {}).get(self.family, ())
        networks = {rule.destination for rule in rules} | {
            route.destination for route in (self.host.routes or {}).get(self.family, ())
        }
        for network in networks:
            if network is not None:
                yield int(network.network_address)
                yield int(network.broadcast_address) + 1

    def back(
        self,
        *,
        with_mark: bool,
        out_interface: str | None = None,
        in_interface: str = LOOPBACK,
        with_ports: bool = False,
    ) -> Node:
        """The route of an answer, from the packet's destination to its source; as nobody's, and of no protocol."""
        assert self.routes is not None
        dim = self.layout.dim
        values: dict[int, Substitute] = {
            dim(Field.DESTINATION): Moved(dim(Field.SOURCE)),
            dim(Field.SOURCE): Moved(dim(Field.DESTINATION)),
            dim(Field.UID): 0,
        }
        if with_ports:
            values[dim(Field.SPORT)], values[dim(Field.DPORT)] = Moved(dim(Field.DPORT)), Moved(dim(Field.SPORT))
        else:
            values.update(dict.fromkeys((dim(Field.PROTOCOL), dim(Field.SPORT), dim(Field.DPORT)), 0))
        if not with_mark:
            values.update({group.dim: 0 for group in self.layout.groups[Field.MARK]})
        return self.ways.substituted(self.routes.program(in_interface, out_interface), values)

    def _back(self, *, here: bool, with_mark: bool) -> Node:
        incoming = self.layout.dim(Field.IN_INTERFACE)
        return self.by_interface(incoming, lambda name: self._back_by(name, here=here, with_mark=with_mark))

    def _back_by(self, name: str | None, *, here: bool, with_mark: bool) -> Node:
        """For packets that came in by an interface; the address of a neighbour is asked for on it alone."""
        if name == LOOPBACK:
            return self.diagrams.leaf(number_of(LOOPBACK))
        if self.routes is None:
            return self.diagrams.leaf(ROUTING)
        device = (name or "?") if here else None
        if self.family is Family.IPV4 or here:
            return self._device(device, with_mark=with_mark)
        near = self.truths.within({self.layout.dim(Field.SOURCE): ((0xFE80 << 112, (0xFEC0 << 112) - 1),)})
        inside, outside = self._device(name or "?", with_mark=with_mark), self._device(None, with_mark=with_mark)
        return self.choice(near, inside, outside)

    def _device(self, device: str | None, *, with_mark: bool) -> Node:
        program = self.back(with_mark=with_mark, out_interface=device if self.family is Family.IPV6 else None)

        def leaf(ends: Ends) -> Node:
            if len(ends.ways) > 1:
                return self.diagrams.leaf(next((doubt.cause for doubt in ends.doubts), ROUTING))
            [way] = ends.ways
            changes = dict(way.changes)
            found = changes.get(self.layout.route)
            is_used = changes.get(self.layout.route_type) == AddressType.UNICAST.value
            is_used &= device is None or found == number_of(device)
            return self.diagrams.leaf(found if is_used else NO_INTERFACE)

        return self.diagrams.mapped(program, leaf)

    def choice(self, truth: Node, yes: Node, no: Node) -> Node:
        """One diagram where something is true, which can always be told, and another one elsewhere."""
        nowhere = self.diagrams.leaf(_NOWHERE)

        def inside(one: Node, other: Node) -> Node | None:
            return None if one.children else (other if one is self.truths.yes else nowhere)

        def outside(one: Node, other: Node) -> Node | None:
            return None if one.children else (nowhere if one is self.truths.yes else other)

        def join(one: Node, other: Node) -> Node | None:
            if one is nowhere or other is nowhere:
                return other if one is nowhere else one
            return None

        combine = self.diagrams.combine
        return combine(combine(truth, yes, inside), combine(truth, no, outside), join)

    def transparent(self, tproxy: Tproxy) -> Node:
        """Whether there is a transparent socket for a TPROXY statement."""
        proxied = self.truths.within({self.layout.dim(Field.PROTOCOL): PROXIED})
        if self.host.listeners is None:
            return proxied
        if tproxy.address is not None:
            found = self._listening(tproxy.address, tproxy.port, transparent=True, wildcards=True)
        else:
            incoming = self.layout.dim(Field.IN_INTERFACE)
            found = self.by_interface(incoming, lambda name: self._transparent_on(name, tproxy.port))
        return self.truths.all_of([proxied, found])

    def _transparent_on(self, name: str | None, port: int | None) -> Node:
        """The same for packets of an interface: the socket is looked for at its address, or the packet's own."""
        known = None if name is None else self.facts.addresses.get(name)
        if known is not None:
            return self._listening(known[0] if known else None, port, transparent=True, wildcards=True)
        anywhere = self._listening(0, port, transparent=True, wildcards=True)
        bound = [each for each in self.host.listeners or () if port in (None, each.port) and int(each.address)]
        if not bound:
            return anywhere
        unclear = self.truths.maybe(Cause(Openness.NOT_GIVEN, "the addresses of the incoming interface"))
        if port is not None:
            return unclear
        ports = union([((each.port, each.port),) for each in bound])
        return self.choice(self.truths.within({self.layout.dim(Field.DPORT): ports}), unclear, anywhere)

    def _socket(self, *, transparent: bool, wildcards: bool) -> Node:
        """1 where a socket would take the packet, else 0 (nf_sk_lookup_slow_v4)."""
        if self.host.listeners is None:
            ported = self.truths.within({self.layout.dim(Field.PROTOCOL): PORTED})
            return self.choice(ported, self.diagrams.leaf(SOCKETS), self.diagrams.leaf(0))
        found = self._listening(None, None, transparent=transparent, wildcards=wildcards)

        def number(value: bool | Maybe) -> Node:
            return self.diagrams.leaf(next(iter(value.causes)) if isinstance(value, Maybe) else int(value))

        return self.diagrams.mapped(found, number)

    def _listening(self, address: int | None, port: int | None, *, transparent: bool, wildcards: bool) -> Node:
        """Whether sockets would take packets to an address and port; None is the packet's own."""
        layout, truths = self.layout, self.truths
        places = {(each.protocol, each.port) for each in self.host.listeners or () if port in (None, each.port)}
        nodes = []
        for protocol, each in sorted(places):
            here: Region = {layout.dim(Field.PROTOCOL): ((protocol, protocol),)}
            if port is None:
                here[layout.dim(Field.DPORT)] = ((each, each),)
            bound = self._bound(protocol, each)
            if address is not None:
                answer = self._answer(protocol, address, each, transparent=transparent, wildcards=wildcards)
                nodes.append(truths.all_of([truths.within(here), answer]))
                continue
            for within, sample in bound:
                answer = self._answer(protocol, sample, each, transparent=transparent, wildcards=wildcards)
                nodes.append(truths.all_of([truths.within({**here, layout.dim(Field.DESTINATION): within}), answer]))
        return truths.any_of(nodes)

    def _bound(self, protocol: int, port: int) -> Iterator[tuple[tuple[tuple[int, int], ...], int]]:
        """Addresses that the sockets on a port tell apart, with one of each; at last all others."""
        bound = set()
        for each in self.host.listeners or ():
            if (each.protocol, each.port) == (protocol, port):
                mapped = each.address.ipv4_mapped if each.address.version == 6 else None
                bound.add(int(each.address if mapped is None else mapped))
        named = [number for number in bound if 0 < number < 1 << self.family.bits]
        for number in named:
            yield ((number, number),), number
        others = difference(((0, (1 << self.family.bits) - 1),), union([((number, number),) for number in named]))
        yield others, others[-1][1]

    def _answer(self, protocol: int, address: int, port: int, *, transparent: bool, wildcards: bool) -> Node:
        """Whether the sockets that would take a packet there are what is looked for."""
        found: list[Listener] = list(self.facts.listening(protocol, address, port))
        if not found or (not wildcards and int(found[0].address) == 0):
            return self.truths.no
        if not transparent:
            return self.truths.yes
        answers = {listener.is_transparent for listener in found}
        if len(answers) > 1 or None in answers:
            return self.truths.maybe(Cause(Openness.NOT_GIVEN, f"whether the socket on port {port} is transparent"))
        return self.truths.yes if answers == {True} else self.truths.no


_NOWHERE = ORIGINAL
"""Any value that no diagram has."""
