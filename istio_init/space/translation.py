"""What nat and TPROXY make of packets, as programs (nf_nat_core.c, nf_nat_redirect.c, nft_tproxy.c)."""

from __future__ import annotations

from itertools import product

from istio_init.netfilter.fields import CtState, CtStatus, Field
from istio_init.netfilter.intervals import difference, size, union
from istio_init.netfilter.rules import Cause, Hook, NatKind, Openness
from istio_init.space.addresses import Addresses, chosen
from istio_init.space.bits import together
from istio_init.space.diagram import Moved, Unknown
from istio_init.space.layout import ELSEWHERE, NO_SOCKET, SOMEWHERE, TEMPLATE
from istio_init.space.resolving import joint
from istio_init.space.ways import ACCEPTED, GOING, Delivery, doubts
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from istio_init.netfilter.host import Host
    from istio_init.netfilter.rules import Nat, Tproxy
    from istio_init.space.addresses import Address
    from istio_init.space.boxes import Region
    from istio_init.space.composing import Ways
    from istio_init.space.diagram import Node, Substitute
    from istio_init.space.surroundings import Surroundings
    from istio_init.space.truth import Truths
    from istio_init.space.ways import Parts, RuleDecider

    Changed = Mapping[int, Substitute]
    """What the dimensions of a field become."""

FEW = 16
"""Of so many addresses or ports that a translation may choose each is followed."""


class Translation:
    """Makes programs of nat and TPROXY statements."""

    def __init__(self, ways: Ways, truths: Truths, host: Host, surroundings: Surroundings) -> None:
        self.ways = ways
        self.truths = truths
        self.layout = truths.layout
        self.surroundings = surroundings
        self.addresses = Addresses(truths.layout, host, surroundings)

    def nat(self, nat: Nat, decider: RuleDecider, hook: Hook | None, given: Region) -> Node:
        """Translate the connection, and accept. A template counts as confirmed, and is not (nf_nat_setup_info)."""
        done = self._translated(nat, decider, hook, given)
        if not self.layout.tracks_after_all:
            return done
        template: Region = {self.layout.track: ((TEMPLATE, TEMPLATE),)}
        return self.ways.where(self.truths.within(template), self.ways.end(ACCEPTED, {}), done)

    def _translated(self, nat: Nat, decider: RuleDecider, hook: Hook | None, given: Region) -> Node:
        ways = self.ways
        field, port_field = _fields(nat)
        programs = []
        for where, address in self.addresses.of(nat, hook, field, given):
            if address is None:
                programs.append((where, ways.stopped(Kind.DROP, decider)))
                continue
            for here, port in self._ports(nat, port_field):
                programs.append(({**where, **here}, self._several(nat, decider, address, port)))
        if len(programs) == 1:
            return programs[0][1]
        return ways.apart(ways.where(self.truths.within(region), done, ways.nothing) for region, done in programs)

    def _several(self, nat: Nat, decider: RuleDecider, address: Address, port: Address) -> Node:
        """A choice of few addresses or ports is followed for each of them; of many ports the choice is undecidable."""
        field, port_field = _fields(nat)
        if not nat.kind.is_of_destination and len(self.layout.groups[field]) == 1:
            return self._mapped(nat, decider, self._changes(field, address), self._changes(port_field, port))
        addresses = [self._changes(field, each) for each in _few(address)]
        ports = _few(port) if nat.kind.is_of_destination else [port]
        if nat.kind.is_of_destination and isinstance(port, Unknown) and port in ports:
            assert isinstance(port.why, Cause)
            return self.ways.stopped(Kind.UNKNOWN, decider, port.why)
        told = [self._changes(port_field, each) for each in ports]
        found = [self._mapped(nat, decider, *each) for each in product(addresses, told)]
        done = found[0]
        unknown = [each.why for each in (address, port) if isinstance(each, Unknown)]
        why = doubts([each for each in unknown if isinstance(each, Cause)], decider)
        for other in found[1:]:
            done = self.ways.either(done, other, why)
        return done

    def _changes(self, field: Field, address: Address | int) -> Changed:
        """What the dimensions of an address or port become; of one of several, as far as each tells by itself."""
        if isinstance(address, int):
            return dict(self.layout.numbers(field, address))
        if not isinstance(address, Unknown):
            return address
        groups = self.layout.groups[field]
        if len(groups) == 1:
            return {groups[0].dim: address}
        found: dict[int, Substitute] = {}
        for dim, shift in self.layout.digits(field):
            most = self.layout.sizes[dim]
            bounds = [(low >> shift, high >> shift) for low, high in address.within or ()]
            within = tuple((low % most, high % most) for low, high in bounds if low // most == high // most)
            found[dim] = Unknown(address.why, union([within]) if within and len(within) == len(bounds) else None)
        return found

    def _mapped(self, nat: Nat, decider: RuleDecider, address: Changed, port: Changed) -> Node:
        """The way of packets that get an address and a port; the connection knows if that is something new."""
        layout, ways = self.layout, self.ways
        field, port_field = _fields(nat)
        is_destination = nat.kind.is_of_destination
        kept: dict[int, Substitute] = {layout.destination_done if is_destination else layout.source_done: 1}
        changes = {**kept, **self._remembered(is_destination, address, port)}
        changes.update((dim, value) for dim, value in {**address, **port}.items() if value != Moved(dim))
        before = {**layout.kept(field), **layout.kept(port_field)}
        delivery, same = None, ways.end(ACCEPTED, kept)
        if is_destination:
            kind = Kind.REDIRECT if nat.kind is NatKind.REDIRECT else Kind.DNAT
            delivery = Delivery(kind, decider, self._joint(field, address), self._joint(port_field, port))
            unchanged = (self._unchanged(delivery),) if kind is Kind.REDIRECT else (None, decider)
            same = ways.end(ACCEPTED, kept, *unchanged)
        changed = ways.end(ACCEPTED, changes, delivery)
        set_to = [(before[dim].dim, value) for dim, value in port.items() if value != before[dim]]
        if set_to:
            here: Region = {dim: ((value, value),) if isinstance(value, int) else () for dim, value in set_to}
            same = self.truths.choice(here, same, changed)
        elsewhere = SOMEWHERE if any(isinstance(each, Unknown) for each in address.values()) else ELSEWHERE
        moved = ways.end(ACCEPTED, {**changes, **({layout.moved: elsewhere} if is_destination else {})}, delivery)
        given = [(before[dim].dim, value) for dim, value in address.items() if value != before[dim]]
        if not all(isinstance(value, int) for _, value in given):
            return moved
        there: Region = {dim: ((value, value),) for dim, value in given if isinstance(value, int)}
        return ways.where(self.truths.within(there), same, moved)

    def _unchanged(self, delivery: Delivery) -> Delivery:
        """A delivery of packets whose connection has all of it already, so that their headers stay."""
        layout = self.layout
        if layout.known_to_nat(Field.DPORT) is Field.DPORT:
            return delivery
        ends = [self._joint(field, _as_is(layout.dims(field))) for field in (Field.DESTINATION, Field.DPORT)]
        return Delivery(delivery.kind, delivery.decider, *ends)

    def _joint(self, field: Field, changed: Changed) -> int | Parts:
        return joint((group.mask, changed[group.dim]) for group in self.layout.groups[field])

    def _remembered(self, is_destination: bool, address: Changed, port: Changed) -> dict[int, Substitute]:
        """What the connection knows of its translation."""
        layout = self.layout
        state, status = (CtState.DNAT, CtStatus.DNAT) if is_destination else (CtState.SNAT, CtStatus.SNAT)
        found: dict[int, Substitute] = {}
        for field, bit in ((Field.CT_STATE, int(state)), (Field.CT_STATUS, int(status))):
            for group in layout.groups[field]:
                if group.mask == bit:
                    found[group.dim] = together(bit, bit)
        fields = (Field.CT_REPLY_SOURCE, Field.CT_REPLY_SPORT)
        if not is_destination:
            fields = (Field.CT_REPLY_DESTINATION, Field.CT_REPLY_DPORT)
        for field, changed in zip(fields, (address, port), strict=True):
            found.update(zip(layout.dims(field), changed.values(), strict=True))
        return found

    def _ports(self, nat: Nat, field: Field) -> Iterator[tuple[Region, Address]]:
        """A destination's new port is the first of the range, a source's any, unless the old one is within.

        Rules that give ports test the protocol, so that packets without ports are none of theirs.
        """
        is_destination = nat.kind.is_of_destination
        if nat.ports is None:
            is_chosen = nat.random and not is_destination
            yield {}, Unknown(chosen("port"), ((1, 0xFFFF),)) if is_chosen else self.layout.kept(field)
            return
        low, high = nat.ports
        inside = ((low, high),)
        one_of = Unknown(chosen("port"), inside)
        first: dict[int, Substitute] = dict(self.layout.numbers(field, low))
        if low == high:
            yield {}, first
        elif nat.random:
            yield {}, one_of
        else:
            known = self.layout.known_to_nat(field)
            for region in self.layout.regions(known, None, inside) or ():
                yield region, self.layout.kept(field)
            for region in self.layout.regions(known, None, difference(((0, 0xFFFF),), inside)) or ():
                yield region, first if is_destination else one_of

    def tproxy(self, tproxy: Tproxy, rest: Node, decider: RuleDecider) -> Node:
        """Give packets a transparent socket, and go on: iptables accepts."""
        ways, layout = self.ways, self.layout
        changes: dict[int, Substitute] = {}
        for group in layout.groups[Field.MARK]:
            value = together(tproxy.mark, group.mask)
            if group.mask & tproxy.mask:
                changes[group.dim] = value
            elif value:
                changes[group.dim] = Moved(group.dim, value)
        owner = Cause(Openness.NOT_GIVEN, "the owner of the socket that takes the packet")
        for field in (Field.UID, Field.GID):
            changes[layout.dim(field)] = Unknown(owner, ((0, NO_SOCKET - 1),))
        kept = self._joint(Field.DPORT, _as_is(layout.dims(Field.DPORT)))
        port = tproxy.port if tproxy.port is not None else kept
        delivery = Delivery(Kind.TPROXY, decider, tproxy.address, port)
        taken = ways.end(ACCEPTED if tproxy.drops else GOING, changes, delivery)
        if layout.taker not in layout.unseen:
            noted = ways.diagrams.mapped(
                self.surroundings.sockets.taker(tproxy), lambda number: ways.end(GOING, {layout.taker: number})
            )
            taken = ways.then(noted, taken)
        if not tproxy.drops:
            taken = ways.then(taken, rest)
        missed = ways.stopped(Kind.DROP, decider) if tproxy.drops else ways.going
        return ways.where(self.surroundings.sockets.transparent(tproxy), taken, missed)


def _fields(nat: Nat) -> tuple[Field, Field]:
    """What a statement changes."""
    return (Field.DESTINATION, Field.DPORT) if nat.kind.is_of_destination else (Field.SOURCE, Field.SPORT)


def _as_is(dims: Iterable[int]) -> dict[int, Substitute]:
    """Dimensions of a packet's header as they are."""
    return {dim: Moved(dim) for dim in dims}


def _few(value: Address) -> list[Address | int]:
    """The numbers that a value can be, where those are few; else the value itself."""
    if not isinstance(value, Unknown) or value.within is None or size(value.within) > FEW:
        return [value]
    return [number for low, high in value.within for number in range(low, high + 1)]
