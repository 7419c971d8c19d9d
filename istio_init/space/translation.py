"""What nat and TPROXY make of packets, as programs (nf_nat_core.c, nf_nat_redirect.c, nft_tproxy.c)."""

from __future__ import annotations

from itertools import product

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState, CtStatus, Field
from istio_init.netfilter.intervals import difference, size, union
from istio_init.netfilter.names import exactly
from istio_init.netfilter.rules import Cause, Hook, NatKind, Openness
from istio_init.space.diagram import Moved, Unknown
from istio_init.space.layout import ELSEWHERE, NO_SOCKET, SOMEWHERE, together
from istio_init.space.ways import ACCEPTED, GOING, Delivery, doubts
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.netfilter.host import Host, Link
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Nat, Tproxy
    from istio_init.space.composing import Ways
    from istio_init.space.diagram import Node, Substitute
    from istio_init.space.layout import Region
    from istio_init.space.surroundings import Surroundings
    from istio_init.space.truth import Truths
    from istio_init.space.ways import RuleDecider

    Choice = tuple[Region, Substitute | None]
    """Where a field gets which value; None is dropped."""

LOOPBACK = {Family.IPV4: 0x7F000001, Family.IPV6: 1}
"""Where REDIRECT sends an outbound packet: 127.0.0.1, ::1 (nf_nat_redirect)."""

FEW = 16
"""Of so many addresses or ports that a translation may choose each is followed."""

IPV4_LINK_LOCAL = 0xA9FE
"""The first half of IPv4's link-local addresses."""

LOOPBACK_SCOPE, LINK_SCOPE, SITE_SCOPE, COMPATIBLE_SCOPE = 0x10, 0x20, 0x40, 0x80
DESTINATION_KINDS = frozenset([NatKind.DNAT, NatKind.REDIRECT])


class Translation:
    """Makes programs of nat and TPROXY statements."""

    def __init__(self, ways: Ways, truths: Truths, host: Host, surroundings: Surroundings) -> None:
        self.ways = ways
        self.truths = truths
        self.layout = truths.layout
        self.host = host
        self.surroundings = surroundings

    def nat(self, nat: Nat, decider: RuleDecider, hook: Hook | None, given: Region) -> Node:
        """Translate the connection, and accept."""
        layout, ways = self.layout, self.ways
        is_destination = nat.kind in DESTINATION_KINDS
        fields = (Field.DESTINATION, Field.DPORT) if is_destination else (Field.SOURCE, Field.SPORT)
        dims = layout.dim(fields[0]), layout.dim(fields[1])
        programs = []
        for where, number in self._addresses(nat, hook, dims[0], given):
            if number is None:
                programs.append((where, ways.stopped(Kind.DROP, decider)))
                continue
            for here, port in self._ports(nat, dims[1], is_destination):
                programs.append(({**where, **here}, self._several(nat, decider, dims, (number, port))))
        if len(programs) == 1:
            return programs[0][1]
        return ways.apart(ways.where(self.truths.within(region), done, ways.nothing) for region, done in programs)

    def _several(
        self, nat: Nat, decider: RuleDecider, dims: tuple[int, int], new: tuple[Substitute, Substitute]
    ) -> Node:
        """A choice of few addresses or ports is followed for each of them; of many ports the choice is undecidable."""
        if nat.kind not in DESTINATION_KINDS:
            return self._mapped(nat, decider, dims, new)
        found = [self._mapped(nat, decider, dims, each) for each in product(_few(new[0]), _few(new[1]))]
        port = new[1]
        if isinstance(port, Unknown) and port in _few(port):
            assert isinstance(port.why, Cause)
            return self.ways.stopped(Kind.UNKNOWN, decider, port.why)
        done = found[0]
        why = doubts([each.why for each in new if isinstance(each, Unknown) and isinstance(each.why, Cause)], decider)
        for other in found[1:]:
            done = self.ways.either(done, other, why)
        return done

    def _mapped(
        self, nat: Nat, decider: RuleDecider, dims: tuple[int, int], new: tuple[Substitute, Substitute]
    ) -> Node:
        """The way of packets that get an address and a port; the connection knows if that is something new."""
        layout, ways = self.layout, self.ways
        is_destination = nat.kind in DESTINATION_KINDS
        kept: dict[int, Substitute] = {layout.destination_done if is_destination else layout.source_done: 1}
        changes = {**kept, **self._remembered(is_destination, *new)}
        changes.update((dim, value) for dim, value in zip(dims, new, strict=True) if value != Moved(dim))
        if nat.kind is NatKind.REDIRECT:
            delivery = Delivery(Kind.REDIRECT, decider, *new)
            same = ways.end(ACCEPTED, kept, delivery)
        elif is_destination:
            delivery = Delivery(Kind.DNAT, decider, *new)
            same = ways.end(ACCEPTED, kept, passed=decider)
        else:
            delivery, same = None, ways.end(ACCEPTED, kept)
        changed = ways.end(ACCEPTED, changes, delivery)
        address, port = new
        if port != Moved(dims[1]):
            here: Region = {dims[1]: ((port, port),)} if isinstance(port, int) else {dims[1]: ()}
            same = self.truths.choice(here, same, changed)
        elsewhere = SOMEWHERE if isinstance(address, Unknown) else ELSEWHERE
        moved = ways.end(ACCEPTED, {**changes, **({layout.moved: elsewhere} if is_destination else {})}, delivery)
        if isinstance(address, int):
            return self.ways.diagrams.chosen(dims[0], *_at(address, same, moved, layout.sizes[dims[0]]))
        return same if address == Moved(dims[0]) else moved

    def _remembered(self, is_destination: bool, address: Substitute, port: Substitute) -> dict[int, Substitute]:
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
        return {**found, layout.dim(fields[0]): address, layout.dim(fields[1]): port}

    def _addresses(self, nat: Nat, hook: Hook | None, dim: int, given: Region) -> Iterable[Choice]:
        if nat.kind is NatKind.REDIRECT:
            if hook is Hook.OUTPUT:
                return [({}, LOOPBACK[self.layout.family])]
            return self._incoming(dim)
        if nat.kind is NatKind.MASQUERADE:
            return self._leaving()
        if nat.cause is not None:
            return [({}, Unknown(nat.cause))]
        if nat.addresses is None:
            return [({}, Moved(dim))]
        low, high = nat.addresses
        if nat.netmap:
            return self._netmap(low, high, dim, given.get(dim))
        if low == high:
            return [({}, low)]
        one_of = Unknown(_chosen("address"), ((low, high),))
        if nat.kind is NatKind.SNAT and not nat.random:
            inside = ((low, high),)
            return [({dim: inside}, Moved(dim)), ({dim: self._rest(dim, inside)}, one_of)]
        return [({}, one_of)]

    def _netmap(self, low: int, high: int, dim: int, given: Intervals | None) -> Iterable[Choice]:
        """The host's bits stay. They are known where all packets come from, or go to, one network of that size."""
        network = ~(high - low)
        if given is not None and given[0][0] & network == given[-1][1] & network:
            return [({}, Moved(dim, given[0][0] & network ^ low))]
        inside = ((low, high),)
        cause = Cause(Openness.NOT_MODELLED, "which address of a whole network it gets")
        return [({dim: inside}, Moved(dim)), ({dim: self._rest(dim, inside)}, Unknown(cause, inside))]

    def _incoming(self, dim: int) -> Iterator[Choice]:
        """REDIRECT gives what comes in the first address of its interface (nf_nat_redirect_ipv4)."""
        links = self.host.links
        if not any(link.addresses for link in links):
            yield {}, Moved(dim)
            return
        interface = self.layout.dim(Field.IN_INTERFACE)
        for link in links:
            here: Region = {interface: exactly(link.name)}
            addresses = self._addresses_of(link)
            for within, scope in self._scopes():
                usable = [each for each in addresses if not scope or scope & scope_of(each)]
                yield {**here, dim: within}, usable[0] if usable else None
        cause = Cause(Openness.NOT_GIVEN, "the addresses of the incoming interface")
        yield {interface: self._others(interface)}, Unknown(cause)

    def _scopes(self) -> list[tuple[Intervals, int]]:
        """Destinations by their scope, 0 for all others: REDIRECT keeps to it (nf_nat_redirect_ipv6)."""
        if self.layout.family is Family.IPV4:
            return [(((0, (1 << 32) - 1),), 0)]
        narrow: list[tuple[Intervals, int]] = [
            (((1, 1),), LOOPBACK_SCOPE),
            (((2, (1 << 32) - 1),), COMPATIBLE_SCOPE),
            (((0xFE80 << 112, (0xFEC0 << 112) - 1),), LINK_SCOPE),
            (((0xFEC0 << 112, (0xFF00 << 112) - 1),), SITE_SCOPE),
        ]
        for number, scope in ((1, LOOPBACK_SCOPE), (2, LINK_SCOPE), (5, SITE_SCOPE)):
            starts = [0xFF << 120 | flags << 116 | number << 112 for flags in range(16)]
            narrow.append((union([((start, start + (1 << 112) - 1),) for start in starts]), scope))
        rest = difference(((0, (1 << 128) - 1),), union([within for within, _ in narrow]))
        return [*narrow, (rest, 0)]

    def _leaving(self) -> Iterator[Choice]:
        """MASQUERADE gives what leaves an address of its interface that is of use elsewhere (inet_select_addr)."""
        layout, facts = self.layout, self.surroundings.facts
        interface, destination = layout.dim(Field.OUT_INTERFACE), layout.dim(Field.DESTINATION)
        far = [each for each in sorted(facts.local) if not self._is_near(each)]
        ours = union([((each, each),) for each in facts.local]) if layout.family is Family.IPV6 else ()
        if ours:  # What is sent to an address of ours comes from it, ::1 included (ipv6_dev_get_saddr).
            yield {destination: ours}, self._one_of(sorted(facts.local))
        others: Region = {destination: self._rest(destination, ours)} if ours else {}
        for link in self.host.links:
            usable = [each for each in self._addresses_of(link) if not self._is_near(each)]
            value = usable[0] if len(usable) == 1 else self._one_of(usable or far)
            yield {**others, interface: exactly(link.name)}, value
        yield {**others, interface: self._others(interface)}, self._one_of(far)

    def _one_of(self, addresses: list[int]) -> Unknown:
        within = union([((each, each),) for each in addresses])
        return Unknown(Cause(Openness.NOT_GIVEN, "the address of the outgoing interface"), within or None)

    def _is_near(self, address: int) -> bool:
        """Whether an address is of use on its link or its machine alone."""
        if self.layout.family is Family.IPV6:
            return scope_of(address) != 0
        return self.surroundings.facts.is_loopback(address) or address >> 16 == IPV4_LINK_LOCAL

    def _addresses_of(self, link: Link) -> list[int]:
        return [int(each) for each in link.addresses if each.version == self.layout.family.version]

    def _others(self, interface: int) -> Intervals:
        """The names of no interface that is known."""
        return self._rest(interface, union([exactly(link.name) for link in self.host.links]))

    def _rest(self, dim: int, within: Intervals) -> Intervals:
        return difference(((0, self.layout.sizes[dim] - 1),), within)

    def _ports(self, nat: Nat, dim: int, is_destination: bool) -> Iterator[tuple[Region, Substitute]]:
        """A destination's new port is the first of the range, a source's any, unless the old one is within.

        Rules that give ports test the protocol, so that packets without ports are none of theirs.
        """
        if nat.ports is None:
            is_chosen = nat.random and not is_destination
            yield {}, Unknown(_chosen("port"), ((1, 0xFFFF),)) if is_chosen else Moved(dim)
            return
        low, high = nat.ports
        inside = ((low, high),)
        one_of = Unknown(_chosen("port"), inside)
        if low == high:
            yield {}, low
        elif nat.random:
            yield {}, one_of
        else:
            yield {dim: inside}, Moved(dim)
            yield {dim: self._rest(dim, inside)}, low if is_destination else one_of

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
        port = tproxy.port if tproxy.port is not None else Moved(layout.dim(Field.DPORT))
        delivery = Delivery(Kind.TPROXY, decider, tproxy.address, port)
        taken = ways.end(ACCEPTED if tproxy.drops else GOING, changes, delivery)
        if not tproxy.drops:
            taken = ways.then(taken, rest)
        missed = ways.stopped(Kind.DROP, decider) if tproxy.drops else ways.going
        return ways.where(self.surroundings.sockets.transparent(tproxy), taken, missed)


def scope_of(address: int) -> int:
    """The scope of an address of this machine, 0 for a global one (ipv6_addr_scope)."""
    if 0 < address < 1 << 32:
        return LOOPBACK_SCOPE if address == 1 else COMPATIBLE_SCOPE
    return {0xFE80 >> 6: LINK_SCOPE, 0xFEC0 >> 6: SITE_SCOPE}.get(address >> 118, 0)


def _at(number: int, there: Node, elsewhere: Node, size: int) -> tuple[list[int], list[Node]]:
    """Cuts and children for one program at a number, and another one elsewhere."""
    bounds = [(0, elsewhere), (number, there), (number + 1, elsewhere)]
    kept = [each for each, (above, _) in zip(bounds, [*bounds[1:], (size, elsewhere)], strict=True) if each[0] < above]
    return [start for start, _ in kept[1:]], [node for _, node in kept]


def _few(value: Substitute) -> list[Substitute]:
    """The numbers that a value can be, where those are few; else the value itself."""
    if not isinstance(value, Unknown) or value.within is None or size(value.within) > FEW:
        return [value]
    return [number for low, high in value.within for number in range(low, high + 1)]


def _chosen(what: str) -> Cause:
    return Cause(Openness.OPEN, f"which {what} of several is chosen")
