"""Which addresses nat gives packets (nf_nat_core.c, nf_nat_redirect.c, xt_NETMAP.c)."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import difference, union
from istio_init.netfilter.names import exactly
from istio_init.netfilter.rules import Cause, Hook, NatKind, Openness
from istio_init.space.bits import together
from istio_init.space.boxes import meeting
from istio_init.space.diagram import Moved, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from istio_init.netfilter.host import Host, Link
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Nat
    from istio_init.space.boxes import Region
    from istio_init.space.diagram import Substitute
    from istio_init.space.layout import Layout
    from istio_init.space.surroundings import Surroundings

    Address = Unknown | Mapping[int, Substitute]
    """One that is not known, or what the dimensions of an address become."""
    Choice = tuple[Region, Address | None]
    """Where packets get which address; None is dropped."""

LOOPBACK = {Family.IPV4: 0x7F000001, Family.IPV6: 1}
"""Where REDIRECT sends an outbound packet: 127.0.0.1, ::1 (nf_nat_redirect)."""

IPV4_LINK_LOCAL = 0xA9FE
"""The first half of IPv4's link-local addresses."""

LOOPBACK_SCOPE, LINK_SCOPE, SITE_SCOPE, COMPATIBLE_SCOPE = 0x10, 0x20, 0x40, 0x80


class Addresses:
    """Tells what addresses nat statements give, and where which."""

    def __init__(self, layout: Layout, host: Host, surroundings: Surroundings) -> None:
        self.layout = layout
        self.host = host
        self.surroundings = surroundings

    def of(self, nat: Nat, hook: Hook | None, field: Field, given: Region) -> Iterable[Choice]:
        """What a field becomes of packets that are all in a region."""
        if nat.kind is NatKind.REDIRECT:
            if hook is Hook.OUTPUT:
                return [({}, self._exactly(field, LOOPBACK[self.layout.family]))]
            return self._incoming(field)
        if nat.kind is NatKind.MASQUERADE:
            return self._leaving(field)
        if nat.cause is not None:
            return [({}, Unknown(nat.cause))]
        if nat.addresses is None:
            return [({}, self.layout.kept(field))]
        low, high = nat.addresses
        if nat.netmap:
            return self._netmap(low, high, field, given)
        if low == high:
            return [({}, self._exactly(field, low))]
        one_of = Unknown(chosen("address"), ((low, high),))
        if nat.kind is NatKind.SNAT and not nat.random:
            return self._kept_within(field, ((low, high),), one_of)
        return [({}, one_of)]

    def _exactly(self, field: Field, number: int) -> dict[int, Substitute]:
        return dict(self.layout.numbers(field, number))

    def _within(self, field: Field, within: Intervals, *more: Region) -> Iterator[Region]:
        """Regions in which an address lies within intervals."""
        for region in self.layout.regions(field, None, within) or ():
            yield meeting(region, *more)

    def _kept_within(self, field: Field, within: Intervals, otherwise: Unknown) -> Iterator[Choice]:
        """Addresses that lie within stay what they are."""
        known = self.layout.known_to_nat(field)
        for region in self._within(known, within):
            yield region, self.layout.kept(field)
        for region in self._within(known, self._rest(field, within)):
            yield region, otherwise

    def _netmap(self, low: int, high: int, field: Field, given: Region) -> Iterable[Choice]:
        """Exchange the first bits of the header's address, as xt_NETMAP does, where it is the connection's as well."""
        rewritten = self.layout.rewritten
        if rewritten in self.layout.unseen:
            yield from self._exchanged(low, high, field, given)
            return
        cause = Cause(Openness.NOT_MODELLED, "which address a network has for one that a rule has changed")
        for region, address in self._exchanged(low, high, field, given):
            yield {**region, rewritten: ((0, 0),)}, address
        yield {rewritten: ((1, 1),)}, Unknown(cause, ((low, high),))

    def _exchanged(self, low: int, high: int, field: Field, given: Region) -> Iterable[Choice]:
        """In dimensions of their own by setting them, else by flipping them, where packets have the same first bits."""
        found: dict[int, Substitute] = {}
        before = self.layout.kept(field)
        for group in self.layout.groups[field]:
            kept, new = together(high - low, group.mask), together(low, group.mask)
            first = self.layout.sizes[group.dim] - 1 & ~kept
            within = given.get(group.dim)
            if not first or not kept:
                found[group.dim] = new if first else before[group.dim]
            elif within and within[0][0] & first == within[-1][1] & first:
                found[group.dim] = Moved(before[group.dim].dim, (within[0][0] ^ new) & first)
            else:
                cause = Cause(Openness.NOT_MODELLED, "which address of a whole network it gets")
                return self._kept_within(field, ((low, high),), Unknown(cause, ((low, high),)))
        return [({}, found)]

    def _incoming(self, field: Field) -> Iterator[Choice]:
        """REDIRECT gives what comes in the first address of its interface (nf_nat_redirect_ipv4)."""
        links = self.host.links
        if not any(link.addresses for link in links):
            yield {}, self.layout.kept(field)
            return
        interface = self.layout.dim(Field.IN_INTERFACE)
        for link in links:
            here: Region = {interface: exactly(link.name)}
            addresses = self._addresses_of(link)
            for within, scope in self._scopes():
                usable = [each for each in addresses if not scope or scope & scope_of(each)]
                for region in self._within(field, within, here):
                    yield region, self._exactly(field, usable[0]) if usable else None
        cause = Cause(Openness.NOT_GIVEN, "the addresses of the incoming interface")
        yield {interface: self._others()}, Unknown(cause)

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

    def _leaving(self, field: Field) -> Iterator[Choice]:
        """MASQUERADE gives what leaves an address of its interface that is of use elsewhere (inet_select_addr)."""
        layout, facts = self.layout, self.surroundings.facts
        interface, destination = layout.dim(Field.OUT_INTERFACE), Field.DESTINATION
        far = [each for each in sorted(facts.local) if not self._is_near(each)]
        ours = union([((each, each),) for each in facts.local]) if layout.family is Family.IPV6 else ()
        for region in self._within(destination, ours):
            # What is sent to an address of ours comes from it, ::1 included (ipv6_dev_get_saddr).
            yield region, self._one_of(field, sorted(facts.local))
        others: list[Region] = list(self._within(destination, self._rest(destination, ours))) if ours else [{}]
        for link in self.host.links:
            usable = [each for each in self._addresses_of(link) if not self._is_near(each)]
            for region in others:
                yield {**region, interface: exactly(link.name)}, self._one_of(field, usable or far)
        for region in others:
            yield {**region, interface: self._others()}, self._one_of(field, far)

    def _one_of(self, field: Field, addresses: list[int]) -> Address:
        if len(addresses) == 1:
            return self._exactly(field, addresses[0])
        within = union([((each, each),) for each in addresses])
        return Unknown(Cause(Openness.NOT_GIVEN, "the address of the outgoing interface"), within or None)

    def _is_near(self, address: int) -> bool:
        """Whether an address is of use on its link or its machine alone."""
        if self.layout.family is Family.IPV6:
            return scope_of(address) not in (0, COMPATIBLE_SCOPE)  # The latter's scope is global (ipv6_addr_type).
        return self.surroundings.facts.is_loopback(address) or address >> 16 == IPV4_LINK_LOCAL

    def _addresses_of(self, link: Link) -> list[int]:
        return [int(each) for each in link.addresses if each.version == self.layout.family.version]

    def _others(self) -> Intervals:
        """The names of no interface that is known."""
        return self._rest(Field.IN_INTERFACE, union([exactly(link.name) for link in self.host.links]))

    def _rest(self, field: Field, within: Intervals) -> Intervals:
        return difference(((0, (1 << self.layout.width(field)) - 1),), within)


def scope_of(address: int) -> int:
    """The scope of an address of this machine, 0 for a global one (ipv6_addr_scope)."""
    if 0 < address < 1 << 32:
        return LOOPBACK_SCOPE if address == 1 else COMPATIBLE_SCOPE
    return {0xFE80 >> 6: LINK_SCOPE, 0xFEC0 >> 6: SITE_SCOPE}.get(address >> 118, 0)


def chosen(what: str) -> Cause:
    """Why one of several is not known."""
    return Cause(Openness.OPEN, f"which {what} of several is chosen")
