"""Which dimensions packets have in diagrams, and what a test of a field is in them.

Fields whose bits rules take apart (marks, TOS) are split into groups of bits, so that every mask that a rule uses is a
union of groups. Each group is a dimension of its own, its bits pushed together. Addresses and ports are split only
where masks of them leave out bits in between, or NETMAP exchanges the first ones: into groups of bits in a row.
"""

from __future__ import annotations

from itertools import islice

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import ADDRESSES, PORTS, AddressType, CtState, CtStatus, Field, bits_of
from istio_init.netfilter.intervals import intersection, union
from istio_init.space.bits import MOST_SPREAD, edges_of, groups_of, is_prefix, shift_of, spread, together
from istio_init.space.boxes import joined
from istio_init.space.diagram import Moved
from istio_init.space.nodes import blocks
from istio_init.space.scan import SPLIT, Scan
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Cause, Rule
    from istio_init.space.boxes import Region

NOT_YET, TEMPLATE, TRACKED, UNTRACKED = range(4)
"""Numbers of `Layout.track`: the connection is not looked up yet; a template stands in for it; it is; it never is."""

STAYS, ELSEWHERE, SOMEWHERE = range(3)
"""Numbers of `Layout.moved`: the destination is what it was; another one; an unknown one."""

UNTOLD, WILDCARD, BOUND = range(3)
"""Numbers of `Layout.taker`: an unknown socket, or none; one that is bound to every address; one bound to one."""

NO_SOCKET = 2**32 - 1
"""In place of the user of a packet without a socket: the id that no user can have."""

BITS_APART = {
    Field.CT_STATE: (int(CtState.SNAT), int(CtState.DNAT)),
    Field.CT_STATUS: (int(CtStatus.SNAT), int(CtStatus.DNAT), int(CtStatus.CONFIRMED)),
}
"""Bits that the kernel sets by themselves."""

FIRST = (Field.CT_STATE, Field.CT_STATUS, Field.CT_ZONE, Field.PKTTYPE, Field.PROTOCOL, Field.IN_INTERFACE,
         Field.OUT_INTERFACE)  # fmt: skip
PORTS_FIRST = (Field.DPORT, Field.DESTINATION, Field.SOURCE, Field.SPORT)
ADDRESSES_FIRST = (Field.DESTINATION, Field.SOURCE, Field.DPORT, Field.SPORT)
ORIGINAL = (Field.CT_ORIG_DPORT, Field.CT_ORIG_DESTINATION, Field.CT_ORIG_SOURCE, Field.CT_ORIG_SPORT)
REPLY = (Field.CT_REPLY_DPORT, Field.CT_REPLY_DESTINATION, Field.CT_REPLY_SOURCE, Field.CT_REPLY_SPORT)

ENDS = {
    Field.SOURCE: Field.CT_REPLY_DESTINATION,
    Field.SPORT: Field.CT_REPLY_DPORT,
    Field.DESTINATION: Field.CT_REPLY_SOURCE,
    Field.DPORT: Field.CT_REPLY_SPORT,
}
"""What a connection has of its packets' ends, as the other side answers."""

PRIORITY_OF_TOS = 0xF8
"""A packet that is forwarded has a priority where any of these bits of its TOS is set (rt_tos2priority)."""

MOST_PARTS = 64
"""An address whose parts leave more intervals is told part by part."""

MOST_SPLITS = 7
"""In so many places an address is split at most; masks that would need more are not told apart."""

UNSAID = (Field.TTL, Field.LENGTH, Field.ICMP_TYPE, Field.ICMP_CODE)
"""Facts of a packet of which the map says nothing (`istio_init.space.unsaid`)."""

TAKERS = frozenset([Field.SOCKET_FOUND, Field.SOCKET_TRANSPARENT])
"""Fields that depend on what the socket is bound to."""

SELDOM = (Field.CT_STATE, Field.CT_STATUS, Field.CT_ZONE, Field.TOS, Field.PRIORITY, Field.TTL, *ORIGINAL, *REPLY)
"""Fields that the kernel sets for rules alone: where no rule looks at one, nothing is noted of it."""


class Group(Value):
    """Some bits of a field, as a dimension."""

    dim: int
    mask: int


class Layout:
    """The dimensions for the rules of some models: those that are compared have the same."""

    track = 0
    """The dimension of how far the packet's connection is known."""
    destination_done, source_done = 1, 2
    """Whether it has been decided what its connection's destination and source are translated to."""
    route, route_type = 3, 4
    """The interface via which the packet will leave, and the type of the route: rules see it only at the next hook."""
    moved = 5
    """Whether nat has given the packet another destination, for which routing has not been asked yet."""
    taker = 6
    """The socket that TPROXY gave the packet."""
    rewritten = 7
    """Whether a rule may have given the packet an address that its connection does not know of."""

    def __init__(
        self,
        family: Family,
        rules: Iterable[Rule],
        marks: Iterable[int] = (),
        *,
        ports_first: bool = True,
        tos_masks: Iterable[int] = (),
        answers: Sequence[Cause] = (),
    ) -> None:
        """Masks are those of routing; ``answers`` are undecidable tests that answer alike wherever they are asked."""
        self.family = family
        scan = Scan(rules)
        masks = scan.masks
        masks[Field.MARK] |= masks[Field.CT_MARK] | set(marks)
        masks[Field.CT_MARK] = masks[Field.MARK]
        masks[Field.TOS] |= set(tos_masks)
        if Field.PRIORITY in scan.fields:
            masks[Field.TOS].add(PRIORITY_OF_TOS)
        masks.update(dict.fromkeys(ADDRESSES, _edges(family.bits, scan.tested, scan.exchanged)))
        masks.update(dict.fromkeys(PORTS, _edges(16, scan.ports)))
        self.sizes = [4, 2, 2, 1 << 128, len(AddressType), 3, 3, 2]
        self.fields: list[Field | None] = [None] * len(self.sizes)
        self.masks = [0] * len(self.sizes)
        """Of which bits of its field each dimension is."""
        self.groups: dict[Field, tuple[Group, ...]] = {}
        middle = PORTS_FIRST if ports_first else ADDRESSES_FIRST
        for field in (*FIRST, *middle, Field.UID, Field.GID, *ORIGINAL, *REPLY, *SPLIT, *UNSAID):
            self._add(field, groups_of(self.width(field), (*masks.get(field, ()), *BITS_APART.get(field, ()))))
        self.sizes[self.dim(Field.GID)] = NO_SOCKET
        self.answers = {cause: len(self.sizes) + number for number, cause in enumerate(answers)}
        """The dimension of each answer: 1 is yes."""
        self.sizes += [2] * len(answers)
        self.fields += [None] * len(answers)
        self.masks += [1] * len(answers)
        seen = scan.fields | scan.assigned | ({Field.TOS} if tos_masks or Field.PRIORITY in scan.fields else set())
        self.has_templates = scan.has_templates
        """Whether connections may have a template before they are looked up."""
        self.tracks_after_all = scan.tracks_after_all
        """Whether they may have one after that, where they were not to be tracked."""
        self.assigned = frozenset(scan.assigned)
        """Fields that rules change, apart from nat and TPROXY."""
        self.translates_otherwise = bool(scan.assigned & {Field.DESTINATION, Field.DPORT})
        """Whether rules give packets destinations, which nat does not know of."""
        if self.assigned & ENDS.keys():
            seen.update((*REPLY, Field.CT_STATUS))
        unseen = [dim for field in SELDOM if field not in seen for dim in self.dims(field)]
        unseen += [] if seen & TAKERS else [self.taker]
        unseen += [] if self.assigned & ENDS.keys() else [self.rewritten]
        self.unseen = frozenset(unseen)
        """Dimensions that nothing asks for."""

    def width(self, field: Field) -> int:
        """How many bits a field has."""
        return bits_of(field, self.family.bits)

    def dim(self, field: Field) -> int:
        """The dimension of a field that is not split."""
        [group] = self.groups[field]
        return group.dim

    def dims(self, field: Field) -> tuple[int, ...]:
        """The dimensions of a field."""
        return tuple([group.dim for group in self.groups[field]])

    def digits(self, field: Field) -> list[tuple[int, int]]:
        """The dimensions of a field whose groups are of bits in a row, and how many bits are below each."""
        return [(group.dim, shift_of(group.mask)) for group in self.groups[field]]

    def known_to_nat(self, field: Field) -> Field:
        """What nat takes for a packet's address or port: the connection's, which a rule's change does not reach."""
        pair = next(pair for pair in ((Field.SOURCE, Field.SPORT), (Field.DESTINATION, Field.DPORT)) if field in pair)
        return ENDS[field] if self.assigned.intersection(pair) else field

    def kept(self, field: Field) -> dict[int, Moved]:
        """A field's dimensions as nat leaves them."""
        return dict(zip(self.dims(field), map(Moved, self.dims(self.known_to_nat(field))), strict=True))

    def numbers(self, field: Field, value: int) -> dict[int, int]:
        """The numbers of a field's value, in its dimensions."""
        return {group.dim: together(value, group.mask) for group in self.groups[field]}

    def regions(self, field: Field, mask: int | None, within: Intervals) -> list[Region] | None:
        """Disjoint regions where a field's bits lie within intervals; None where they would be too many."""
        groups = self.groups[field]
        whole = (1 << self.width(field)) - 1
        mask = whole if mask is None else mask & whole
        within = intersection(within, ((0, whole),))
        if len(groups) == 1:
            found = within if mask == whole else spread(within, mask, whole)
            return None if found is None else [{groups[0].dim: found}] if found else []
        regions = []
        for start, size in (block for low, high in within for block in blocks(low, high + 1)):
            tested = mask & -size
            if start & ~tested == 0:
                region = self._having(field, start, tested)
                if region is None:
                    return None
                regions.append(region)
        return joined(regions)

    def hull(self, field: Field, mask: int, within: Intervals) -> Intervals:
        """Outside of which a field's bits under a mask never lie within intervals: as far as its first bits count."""
        whole = (1 << self.width(field)) - 1
        last = (1 << (whole & ~mask).bit_length()) - 1
        return union(((low & ~last & whole, (high & whole) | last),) for low, high in within if low <= whole)

    def whole(self, field: Field, region: Region) -> Intervals | None:
        """The numbers of a field in a region; None where they are too many intervals, or its bits are not in order."""
        found: Intervals = ((0, 0),)
        for group in self.groups[field]:
            size = self.sizes[group.dim]
            part = region.get(group.dim, ((0, size - 1),))
            if part == ((0, size - 1),):
                found = tuple([(low * size, high * size + size - 1) for low, high in found])
            elif all(low == high for low, high in found) and len(found) * len(part) <= MOST_PARTS:
                found = tuple([(first * size + low, first * size + high) for first, _ in found for low, high in part])
            else:
                return None
        return union([found])

    def _having(self, field: Field, value: int, mask: int) -> Region | None:
        """Where a field has a value under a mask; None where that has other bits of a group than the first."""
        region: Region = {}
        for group in self.groups[field]:
            if group.mask & mask:
                number, tested = together(value, group.mask), together(mask, group.mask)
                whole = self.sizes[group.dim] - 1
                if not is_prefix(tested, whole):
                    return None
                region[group.dim] = ((number, number | whole & ~tested),)
        return region

    def _add(self, field: Field, masks: list[int]) -> None:
        groups = []
        for mask in masks:
            groups.append(Group(len(self.sizes), mask))
            self.sizes.append(1 << mask.bit_count())
            self.fields.append(field)
            self.masks.append(mask)
        self.groups[field] = tuple(groups)


def _edges(width: int, tested: Iterable[int], exchanged: Iterable[int] = ()) -> set[int]:
    """Where a number has to be split, if it has to be: for what is exchanged, and masks that leave many bits open."""
    whole = (1 << width) - 1
    masks = [mask & whole for mask in (*exchanged, *tested)]
    open_bits = [(whole & -(mask & -mask) & ~mask).bit_count() for mask in masks]
    if not any(exchanged) and max(open_bits, default=0) <= MOST_SPREAD:
        return set()
    edges = dict.fromkeys(edge for mask in masks if not is_prefix(mask, whole) for edge in edges_of(mask, whole))
    return set(islice(edges, MOST_SPLITS))
