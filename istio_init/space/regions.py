"""Regions of a diagram in terms of fields, and packets that lie in them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import ADDRESSES, Field
from istio_init.netfilter.host import is_usable
from istio_init.netfilter.intervals import contains, intersection
from istio_init.netfilter.names import SIZE, name_of, number_of
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.rules import AnyOf, Test, Undecided
from istio_init.space.bits import apart, together
from istio_init.space.diagram import END, Node
from istio_init.space.layout import NO_SOCKET
from istio_init.space.truth import PORTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from istio_init.netfilter.host import Host
    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.covering import Told
    from istio_init.space.layout import Layout

    Best = dict[Node, tuple[int, int, Node | None]]
    """By leaf: how odd a packet is at least, the number that it has here, and the child for it."""

Region = tuple[Test | Undecided | AnyOf, ...]
"""What the packets of a region have in common: all tests hold. An answer of no is a negated `AnyOf` of it."""

ODD_DIMENSIONS = {Field.UID: 16, Field.MARK: 8, Field.PROTOCOL: 4, Field.OUT_INTERFACE: 2, Field.IN_INTERFACE: 2}
"""How little one would expect a packet that has none of the usual values of a field."""

USUAL: dict[Field, tuple[int, ...]] = {
    Field.PROTOCOL: (6, 17),
    Field.DPORT: (80, 443, 8080),
    Field.SPORT: (40000,),
    Field.UID: (1000, 1001),
    Field.GID: (1000, 1001),
    Field.MARK: (0,),
}
USUAL_ADDRESSES = {
    (Family.IPV4, Field.DESTINATION): (0x0A000005, 0xC6336401),
    (Family.IPV4, Field.SOURCE): (0x0A000001, 0xC6336402),
    (Family.IPV6, Field.DESTINATION): ((0xFD00 << 112) | 5,),
    (Family.IPV6, Field.SOURCE): ((0xFD00 << 112) | 1,),
}
SUFFIXES = ("0", "1", "x", "-")


class Packets:
    """All new connections of a direction and family, in the dimensions of a layout."""

    def __init__(self, layout: Layout, direction: Direction, host: Host) -> None:
        self.layout = layout
        self.direction = direction
        self.told: dict[Node, Told] = {}
        """What was found of diagrams of these packets, for descriptions."""
        self.interface = Field.OUT_INTERFACE if direction is Direction.OUTBOUND else Field.IN_INTERFACE
        self.usual: dict[Field, tuple[int, ...]] = {**USUAL}
        names = [link.name for link in host.links if link.is_up and link.name != "lo"]
        self.usual[self.interface] = tuple(number_of(name) for name in ("eth0", *names))
        own = [each for each in host.addresses if each.version == layout.family.version and is_usable(each)]
        mine, others = (Field.SOURCE, Field.DESTINATION)
        if direction is Direction.INBOUND:
            mine, others = others, mine
        self.usual[mine] = (*map(int, own), *USUAL_ADDRESSES[layout.family, mine])
        self.usual[others] = USUAL_ADDRESSES[layout.family, others]

    def place(self, packet: Packet) -> dict[int, int]:
        """Where a packet lies."""
        layout = self.layout
        numbers = {
            Field.PROTOCOL: packet.protocol,
            Field.SOURCE: int(packet.source),
            Field.DESTINATION: int(packet.destination),
            Field.SPORT: packet.source_port,
            Field.DPORT: packet.destination_port,
            Field.UID: NO_SOCKET,
            Field.GID: 0,
            self.interface: number_of(packet.interface),
            Field.MARK: packet.mark,
        }
        if self.direction is Direction.OUTBOUND and packet.uid is not None:
            numbers[Field.UID], numbers[Field.GID] = packet.uid, packet.gid or 0
        return {dim: number for field, value in numbers.items() for dim, number in layout.numbers(field, value).items()}

    def region(self, path: dict[int, Intervals]) -> Region:
        """The tests that packets of a path through a diagram pass."""
        tests: list[Test | Undecided | AnyOf] = []
        if path.get(self.layout.dim(Field.UID)) == ((NO_SOCKET, NO_SOCKET),):
            path = {dim: within for dim, within in path.items() if dim != self.layout.dim(Field.GID)}
        for dim, within in path.items():
            field = self.layout.fields[dim]
            if field is None:
                [cause] = [cause for cause, number in self.layout.answers.items() if number == dim]
                yes = Undecided(cause)
                tests.append(yes if within == ((1, 1),) else AnyOf(((yes,),), negated=True))
                continue
            mask = self.layout.masks[dim]
            if field in ADDRESSES:
                tests += self._address_tests(field, dim, path)
                continue
            if field is Field.UID and within == ((NO_SOCKET, NO_SOCKET),):
                tests.append(Test(Field.SOCKET, ((0, 0),)))
            elif field is Field.UID:
                owned = intersection(within, ((0, NO_SOCKET - 1),))
                tests.append(Test(field, owned, if_absent=owned != within))
            elif len(self.layout.groups[field]) == 1:
                tests.append(Test(field, within))
            else:
                tests.append(Test(field, tuple([(apart(low, mask), apart(high, mask)) for low, high in within]), mask))
        return tuple(tests)

    def _address_tests(self, field: Field, dim: int, path: dict[int, Intervals]) -> list[Test]:
        """The test of an address, at the first of its dimensions; of each dimension, where they make no intervals."""
        dims = self.layout.dims(field)
        whole = self.layout.whole(field, path)
        if whole is not None:
            return [Test(field, whole)] if dim == next(each for each in dims if each in path) else []
        mask = self.layout.masks[dim]
        return [Test(field, tuple([(apart(low, mask), apart(high, mask)) for low, high in path[dim]]), mask)]

    def packet(self, chosen: dict[int, int]) -> Packet:
        """A packet with some numbers, as ordinary as they allow."""
        layout = self.layout
        numbers: dict[Field, int] = {}
        for field, groups in layout.groups.items():
            usual = self.usual.get(field, (0,))[0]
            numbers[field] = sum(
                apart(chosen[group.dim], group.mask) if group.dim in chosen else usual & group.mask for group in groups
            )
        address = IPv4Address if layout.family is Family.IPV4 else IPv6Address
        has_socket = self.direction is Direction.OUTBOUND and numbers[Field.UID] != NO_SOCKET
        has_ports = contains(PORTED, numbers[Field.PROTOCOL])
        return Packet(
            self.direction,
            numbers[Field.PROTOCOL],
            address(numbers[Field.SOURCE]),
            address(numbers[Field.DESTINATION]),
            numbers[Field.SPORT] if has_ports else 0,
            numbers[Field.DPORT] if has_ports else 0,
            numbers[Field.UID] if has_socket else None,
            numbers[Field.GID] if has_socket else None,
            name_of(numbers[self.interface]),
            numbers[Field.MARK],
        )

    def examples(self, node: Node) -> dict[Node, tuple[int, Packet]]:
        """For each leaf how odd its most ordinary packet is, and that packet."""
        memo: dict[Node, Best] = {}
        best = self._best(node, memo)
        return {leaf: (found[0], self.packet(_followed(node, leaf, memo))) for leaf, found in best.items()}

    def _best(self, node: Node, memo: dict[Node, Best]) -> Best:
        found = memo.get(node)
        if found is None:
            found = memo[node] = {}
            if node.dim == END:
                found[node] = (0, 0, None)
                return found
            for child, within in by_child(node, self.layout.sizes[node.dim]):
                oddness, number = self._pick(node.dim, within)
                for leaf, (rest, _, _) in self._best(child, memo).items():
                    if leaf not in found or oddness + rest < found[leaf][0]:
                        found[leaf] = (oddness + rest, number, child)
        return found

    def _pick(self, dim: int, within: Intervals) -> tuple[int, int]:
        """The most ordinary number of some, and how odd it is."""
        field = self.layout.fields[dim]
        if field is None:
            return 0, within[0][0]
        if field is Field.MARK:
            return (0, 0) if within[0][0] == 0 else (ODD_DIMENSIONS[field], within[0][0])
        for place, number in enumerate(self.usual.get(field, ())):
            number = together(number, self.layout.masks[dim])
            if contains(within, number):
                return min(place, 1), number
        odd = ODD_DIMENSIONS.get(field, 1)
        if field is self.interface:
            return odd, _name(within)
        if field is Field.UID:
            has_socket = within[0][0] != NO_SOCKET
            return (1, within[0][0]) if has_socket else (odd, NO_SOCKET)
        return odd, within[0][0]


def by_child(node: Node, size: int) -> list[tuple[Node, Intervals]]:
    """The children of a node, each once, with the numbers that lead to it."""
    found: dict[Node, list[tuple[int, int]]] = {}
    for child, (low, high) in zip(node.children, pairwise((0, *node.cuts, size)), strict=True):
        found.setdefault(child, []).append((low, high - 1))
    return [(child, tuple(within)) for child, within in found.items()]


def paths(node: Node, wanted: frozenset[Hashable], sizes: list[int]) -> Iterator[dict[int, Intervals]]:
    """The disjoint regions of a diagram where its value is one of some."""
    reaching: dict[Node, bool] = {}

    def reaches(node: Node) -> bool:
        found = reaching.get(node)
        if found is None:
            found = node.value in wanted if node.dim == END else any(reaches(child) for child in set(node.children))
            reaching[node] = found
        return found

    def walk(node: Node, path: dict[int, Intervals]) -> Iterator[dict[int, Intervals]]:
        if node.dim == END:
            yield path
            return
        for child, within in by_child(node, sizes[node.dim]):
            if reaches(child):
                yield from walk(child, {**path, node.dim: within})

    if reaches(node):
        yield from walk(node, {})


def count(node: Node, wanted: frozenset[Hashable]) -> int:
    """How many regions `paths` has."""
    memo: dict[Node, int] = {}

    def go(node: Node) -> int:
        found = memo.get(node)
        if found is None:
            found = int(node.value in wanted) if node.dim == END else sum(go(child) for child in set(node.children))
            memo[node] = found
        return found

    return go(node)


def _followed(node: Node, leaf: Node, memo: dict[Node, Best]) -> dict[int, int]:
    """The numbers of the best packet of a leaf."""
    chosen = {}
    while node.dim != END:
        _, number, child = memo[node][leaf]
        chosen[node.dim] = number
        assert child is not None
        node = child
    return chosen


def _name(within: Intervals) -> int:
    """The number of a name that looks like an interface's, if there is one."""
    tried = [low for low, _ in within]
    for low, _ in within:
        stem = name_of(low)
        tried += [number_of(stem + suffix) for suffix in SUFFIXES if len(stem) < SIZE - 1]
    tried += [number_of(name) for name in ("net0", "veth0", "any0", "a", "z0")]
    possible = [number for number in tried if contains(within, number) and _is_name(number)]
    return possible[0] if possible else within[0][0]


def _is_name(number: int) -> bool:
    text = name_of(number)
    return bool(text) and text.isprintable() and number_of(text) == number
