"""What the host makes of packets, as diagrams: types of addresses, routes back, sockets."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.names import NO_INTERFACE, number_of
from istio_init.netfilter.rules import Test
from istio_init.space.diagram import Moved
from istio_init.space.interfaces import LOOPBACK, Interfaces
from istio_init.space.routes import Asked, Routes
from istio_init.space.sockets import Sockets
from istio_init.trace.facts import IPSEC, ROUTING, Facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.netfilter.host import Host
    from istio_init.space.composing import Ways
    from istio_init.space.diagram import Diagrams, Node, Substitute
    from istio_init.space.layout import Layout
    from istio_init.space.truth import Truths
    from istio_init.space.ways import Ends

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
        self.interfaces = Interfaces(self.diagrams, host)
        self._made: dict[Field, Node] = {}

    def attach(self, truths: Truths) -> None:
        """Have the diagrams of conditions, which are made of these, and of which routes are made."""
        self.truths = truths
        self.sockets = Sockets(truths, self.facts, self.interfaces)
        self.routes = Routes(self.ways, truths, tables) if (tables := self.facts.tables) is not None else None

    def derived(self, field: Field) -> Node:
        """A field's number for every packet, or the cause for which it cannot be told."""
        if field not in self._made:
            if field in TYPES:
                self._made[field] = self._types(*TYPES[field])
            elif field in BACK:
                here, with_mark = BACK[field]
                self._made[field] = self._back(here=here, with_mark=with_mark)
            elif field is Field.IPSEC:
                self._made[field] = self.diagrams.leaf(0 if self.host.has_ipsec is False else IPSEC)
            else:
                transparent, wildcards = FOUND[field]
                asked = self.sockets.found(transparent=transparent, wildcards=wildcards)
                self._made[field] = self.sockets.unless_it_has_one(asked, transparent=transparent, wildcards=wildcards)
        return self._made[field]

    def _types(self, field: Field, interface: Field | None) -> Node:
        if interface is None:
            return self._types_on(field, None)
        has_none = self.diagrams.test(
            self.layout.dim(interface), ((NO_INTERFACE, NO_INTERFACE),), self.truths.yes, self.truths.no
        )
        on = self.interfaces.by(self.layout.dim(interface), lambda name: self._types_on(field, name or "?"))
        anywhere = self._types_on(field, None)

        def join(one: Node, other: Node) -> Node | None:
            return None if one.children else (other if one is self.truths.no else anywhere)

        return self.diagrams.combine(has_none, on, join)

    def _types_on(self, field: Field, device: str | None) -> Node:
        """By where a network of any route begins or ends, and the kernel's own ones."""
        top = 1 << self.family.bits
        ordered = sorted(each for each in self._starts() if each < top)
        children = []
        for start in ordered:
            found = self.facts.type_of(start, device)
            children.append(self.diagrams.leaf(ROUTING if found is None else found.value))
        return self.truths.stepped(field, ordered, children)

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
        values: dict[int, Substitute] = {dim(Field.UID): 0}
        swapped = [(Field.SOURCE, Field.DESTINATION), *([(Field.SPORT, Field.DPORT)] if with_ports else [])]
        for one, other in (pair for ends in swapped for pair in zip(*map(self.layout.dims, ends), strict=True)):
            values[one], values[other] = Moved(other), Moved(one)
        if not with_ports:
            ports = (*self.layout.dims(Field.SPORT), *self.layout.dims(Field.DPORT))
            values.update(dict.fromkeys((dim(Field.PROTOCOL), *ports), 0))
        if not with_mark:
            values.update({group.dim: 0 for group in self.layout.groups[Field.MARK]})
        return self.ways.substituted(self.routes.program(Asked(in_interface, out_interface, as_named=True)), values)

    def _back(self, *, here: bool, with_mark: bool) -> Node:
        incoming = self.layout.dim(Field.IN_INTERFACE)
        return self.interfaces.by(incoming, lambda name: self._back_by(name, here=here, with_mark=with_mark))

    def _back_by(self, name: str | None, *, here: bool, with_mark: bool) -> Node:
        """For packets that came in via an interface; the address of a neighbour is asked for on it alone."""
        if name == LOOPBACK:
            return self.diagrams.leaf(number_of(LOOPBACK))
        if self.routes is None:
            return self.diagrams.leaf(ROUTING)
        device = (name or "?") if here else None
        anywhere = self._device(device, None, with_mark=with_mark)
        if self.family is Family.IPV4:
            return anywhere
        near = self.truths.node(Test(Field.SOURCE, ((0xFE80 << 112, (0xFEC0 << 112) - 1),)))
        return self.truths.either_of(near, self._device(name or "?", name or "?", with_mark=with_mark), anywhere)

    def _device(self, device: str | None, out_interface: str | None, *, with_mark: bool) -> Node:
        program = self.back(with_mark=with_mark, out_interface=out_interface)

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
