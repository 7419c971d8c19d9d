"""Sockets that would take packets, as diagrams."""

from __future__ import annotations

from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import difference, union
from istio_init.netfilter.names import NO_INTERFACE
from istio_init.netfilter.rules import Cause, Openness, Test
from istio_init.space.layout import BOUND, NO_SOCKET, UNTOLD, WILDCARD
from istio_init.space.presence import PORTED
from istio_init.space.truth import Maybe
from istio_init.trace.facts import OWN_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.netfilter.host import Listener
    from istio_init.netfilter.rules import Tproxy
    from istio_init.space.boxes import Region
    from istio_init.space.diagram import Node
    from istio_init.space.interfaces import Interfaces
    from istio_init.space.truth import Truths
    from istio_init.trace.facts import Facts

PROXIED = ((6, 6), (17, 17))
"""TCP and UDP: nothing else is handed to a socket."""

TAKER = Cause(Openness.NOT_GIVEN, "the socket that takes the packet")
SENDER = Cause(Openness.NOT_GIVEN, OWN_SOCKET)
SOCKETS = Cause(Openness.NOT_GIVEN, "the namespace's sockets")


class Sockets:
    """The diagrams of a host's listening sockets. Of those of connections none is known."""

    def __init__(self, truths: Truths, facts: Facts, interfaces: Interfaces) -> None:
        self.truths = truths
        self.layout = truths.layout
        self.diagrams = truths.diagrams
        self.facts = facts
        self.host = facts.host
        self.interfaces = interfaces

    def transparent(self, tproxy: Tproxy) -> Node:
        """Whether there is a transparent socket for a TPROXY statement."""
        proxied = self.truths.within({self.layout.dim(Field.PROTOCOL): PROXIED})
        if self.host.listeners is None:
            return proxied
        if tproxy.address is not None:
            found = self._listening(tproxy.address, tproxy.port, transparent=True, wildcards=True)
        else:
            incoming = self.layout.dim(Field.IN_INTERFACE)
            found = self.interfaces.by(incoming, lambda name: self._transparent_on(name, tproxy.port))
        # Before those that listen, one is looked for that is connected at the packet's own port.
        return self.truths.all_of([proxied, self._unless_connected(None, found)])

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
        return self.truths.either_of(self.truths.node(Test(Field.DPORT, ports)), unclear, anywhere)

    def found(self, *, transparent: bool, wildcards: bool) -> Node:
        """1 where a socket would take the packet, else 0 (nf_sk_lookup_slow_v4)."""
        if self.host.listeners is None:
            ported = self.truths.within({self.layout.dim(Field.PROTOCOL): PORTED})
            return self.truths.either_of(ported, self.diagrams.leaf(SOCKETS), self.diagrams.leaf(0))
        found = self._listening(None, None, transparent=transparent, wildcards=wildcards)

        def number(value: bool | Maybe) -> Node:
            return self.diagrams.leaf(next(iter(value.causes)) if isinstance(value, Maybe) else int(value))

        return self.diagrams.mapped(found, number)

    def unless_it_has_one(self, asked: Node, *, transparent: bool, wildcards: bool) -> Node:
        """What is found of a packet, but for its sender's, and the one that TPROXY gave it: that is found."""
        layout, leaf, either = self.layout, self.diagrams.leaf, self.truths.either_of
        socket, incoming = layout.dim(Field.UID), layout.dim(Field.IN_INTERFACE)
        nowhere = ((NO_INTERFACE, NO_INTERFACE),)
        came = difference(((0, layout.sizes[incoming] - 1),), nowhere)
        taken: Region = {socket: ((0, NO_SOCKET - 1),), incoming: came}
        sent: Region = {socket: ((0, NO_SOCKET - 1),), incoming: nowhere}
        of_sender = leaf(SENDER if transparent or not wildcards else 1)
        found = either(self.truths.within({incoming: nowhere}), leaf(0), asked)
        found = either(self.truths.within(sent), of_sender, found)
        return either(self.truths.within(taken), leaf(1) if wildcards else self._by_taker(), found)

    def _by_taker(self) -> Node:
        """What is found of a packet that has TPROXY's socket, by what that is bound to."""
        taker, leaf = self.layout.taker, self.diagrams.leaf
        is_bound = self.truths.choice({taker: ((BOUND, BOUND),)}, leaf(1), leaf(TAKER))
        return self.truths.choice({taker: ((WILDCARD, WILDCARD),)}, leaf(0), is_bound)

    def taker(self, tproxy: Tproxy) -> Node:
        """What the socket is bound to that TPROXY gives packets: a number of `Layout.taker`."""
        if tproxy.address is not None:
            return self._taker_at(tproxy.address, tproxy.port)
        incoming = self.layout.dim(Field.IN_INTERFACE)
        return self.interfaces.by(incoming, lambda name: self._taker_on(name, tproxy.port))

    def _taker_on(self, name: str | None, port: int | None) -> Node:
        known = None if name is None else self.facts.addresses.get(name)
        if known is None:
            return self.diagrams.leaf(UNTOLD)
        return self._taker_at(known[0] if known else None, port)

    def _taker_at(self, address: int | None, port: int | None) -> Node:
        """The same for an address and port of which None is the packet's own."""
        truths, leaf = self.truths, self.diagrams.leaf
        found = leaf(UNTOLD)
        for protocol, number in self._places(port):
            sought = self._bound(protocol, number) if address is None else [(None, address)]
            for within, sample in sought:
                bound = {int(each.address) != 0 for each in self.facts.listening(protocol, sample, number)}
                if len(bound) != 1:
                    continue
                here = [truths.within({self.layout.dim(Field.PROTOCOL): ((protocol, protocol),)})]
                here += [] if port is not None else [truths.node(Test(Field.DPORT, ((number, number),)))]
                here += [] if within is None else [truths.node(Test(Field.DESTINATION, within))]
                found = truths.either_of(truths.all_of(here), leaf(BOUND if bound.pop() else WILDCARD), found)
        # A socket that has a peer, or an interface, may take the packet instead.
        for protocol, number in sorted(self.facts.choosy):
            peer = [truths.within({self.layout.dim(Field.PROTOCOL): ((protocol, protocol),)})]
            peer += [] if number == port else [truths.node(Test(Field.DPORT, ((number, number),)))]
            found = truths.either_of(truths.all_of(peer), leaf(UNTOLD), found)
        return found

    def _places(self, port: int | None) -> list[tuple[int, int]]:
        """Protocols and ports of sockets that may take packets to a port, or to each one's own."""
        listeners = self.host.listeners or ()
        return sorted({(each.protocol, each.port) for each in listeners if port in (None, each.port)})

    def _listening(self, address: int | None, port: int | None, *, transparent: bool, wildcards: bool) -> Node:
        """Whether sockets would take packets to an address and port; None is the packet's own."""
        layout, truths = self.layout, self.truths
        nodes = []
        for protocol, each in self._places(port):
            here = truths.within({layout.dim(Field.PROTOCOL): ((protocol, protocol),)})
            if port is None:
                here = truths.all_of([here, truths.node(Test(Field.DPORT, ((each, each),)))])
            bound = self._bound(protocol, each)
            if address is not None:
                answer = self._answer(protocol, address, each, transparent=transparent, wildcards=wildcards)
                nodes.append(truths.all_of([here, answer]))
                continue
            for within, sample in bound:
                answer = self._answer(protocol, sample, each, transparent=transparent, wildcards=wildcards)
                nodes.append(truths.all_of([here, truths.node(Test(Field.DESTINATION, within)), answer]))
        return self._unless_connected(port, truths.any_of(nodes))

    def _unless_connected(self, port: int | None, found: Node) -> Node:
        """What is found, but where a socket that has a peer, or an interface, may take the packet instead."""
        truths = self.truths
        for protocol, number in sorted(self.facts.choosy):
            if port in (None, number):
                here = truths.within({self.layout.dim(Field.PROTOCOL): ((protocol, protocol),)})
                if port is None:
                    here = truths.all_of([here, truths.node(Test(Field.DPORT, ((number, number),)))])
                doubt = self.facts.choosy_about(protocol, number)
                assert doubt is not None
                found = truths.either_of(here, truths.maybe(doubt), found)
        return found

    def _bound(self, protocol: int, port: int) -> Iterator[tuple[tuple[tuple[int, int], ...], int]]:
        """Addresses that the sockets on a port tell apart, with one of each; at last all others."""
        bound = set()
        for each in self.host.listeners or ():
            if (each.protocol, each.port) == (protocol, port):
                mapped = each.address.ipv4_mapped if each.address.version == 6 else None
                bound.add(int(each.address if mapped is None else mapped))
        named = [number for number in bound if 0 < number < 1 << self.layout.family.bits]
        for number in named:
            yield ((number, number),), number
        others = difference(
            ((0, (1 << self.layout.family.bits) - 1),), union([((number, number),) for number in named])
        )
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
