"""Which dimensions packets have in diagrams, and what a test of a field is in them.

Fields whose bits rules take apart (marks, TOS) are split into groups of bits, so that every mask that a rule uses is a
union of groups. Each group is a dimension of its own, its bits pushed together.
"""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, CtState, CtStatus, Field, bits_of
from istio_init.netfilter.intervals import intersection, union
from istio_init.space.diagram import blocks
from istio_init.space.scan import SPLIT, Scan
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Cause, Rule

Region = dict[int, "Intervals"]
"""What lies within intervals in some dimensions; in others anywhere."""

NOT_YET, TEMPLATE, TRACKED, UNTRACKED = range(4)
"""Numbers of `Layout.track`: the connection is not looked up yet; a template stands in for it; it is; it never is."""

STAYS, ELSEWHERE, SOMEWHERE = range(3)
"""Numbers of `Layout.moved`: the destination is what it was; another one; an unknown one."""

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

SELDOM = (Field.CT_STATE, Field.CT_STATUS, Field.CT_ZONE, Field.TOS, Field.PRIORITY, *ORIGINAL, *REPLY)
"""Fields that the kernel sets for rules alone: where no rule looks at one, nothing is noted of it."""

MOST_SPREAD = 12
"""A mask may leave so many bits open above those that it tests."""


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
    """The interface by which the packet will leave, and the type of the route: rules see it only at the next hook."""
    moved = 5
    """Whether nat has given the packet another destination, for which routing has not been asked yet."""

    def __init__(
        self,
        family: Family,
        rules: Iterable[Rule],
        marks: Iterable[int] = (),
        *,
        ports_first: bool = True,
        routes_by_tos: bool = False,
        answers: Sequence[Cause] = (),
    ) -> None:
        """``answers`` are undecidable tests, to be taken to answer alike wherever they are asked."""
        self.family = family
        scan = Scan(rules)
        masks = scan.masks
        masks[Field.MARK] |= masks[Field.CT_MARK] | set(marks)
        masks[Field.CT_MARK] = masks[Field.MARK]
        self.sizes = [4, 2, 2, 1 << 128, len(AddressType), 3]
        self.fields: list[Field | None] = [None] * len(self.sizes)
        self.groups: dict[Field, tuple[Group, ...]] = {}
        middle = PORTS_FIRST if ports_first else ADDRESSES_FIRST
        for field in (*FIRST, *middle, Field.UID, Field.GID, *ORIGINAL, *REPLY, *SPLIT):
            self._add(field, _groups(self.width(field), (*masks.get(field, ()), *BITS_APART.get(field, ()))))
        self.sizes[self.dim(Field.GID)] = NO_SOCKET
        self.answers = {cause: len(self.sizes) + number for number, cause in enumerate(answers)}
        """The dimension of each answer: 1 is yes."""
        self.sizes += [2] * len(answers)
        self.fields += [None] * len(answers)
        seen = scan.fields | scan.assigned | ({Field.TOS} if routes_by_tos or Field.PRIORITY in scan.fields else set())
        self.has_templates = scan.has_templates
        """Whether connections may have a template before they are looked up."""
        self.assigned = frozenset(scan.assigned)
        """Fields that rules change, apart from nat and TPROXY."""
        self.translates_otherwise = bool(scan.assigned & {Field.DESTINATION, Field.DPORT})
        """Whether rules give packets destinations, which nat does not know of."""
        if self.translates_otherwise:
            seen |= {Field.CT_STATUS, *REPLY}
        self.unseen = frozenset([group.dim for field in SELDOM if field not in seen for group in self.groups[field]])
        """Dimensions that nothing asks for."""

    def width(self, field: Field) -> int:
        """How many bits a field has."""
        return bits_of(field, self.family.bits)

    def dim(self, field: Field) -> int:
        """The dimension of a field that is not split."""
        [group] = self.groups[field]
        return group.dim

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
            if any(group.mask & tested not in (0, group.mask) for group in groups):
                return None
            if start & ~tested == 0:
                regions.append(self._having(field, start, tested))
        return _merged(regions)

    def hull(self, field: Field, mask: int, within: Intervals) -> Intervals:
        """Outside of which a field's bits under a mask never lie within intervals: as far as its first bits count."""
        whole = (1 << self.width(field)) - 1
        last = (1 << (whole & ~mask).bit_length()) - 1
        return union(((low & ~last & whole, (high & whole) | last),) for low, high in within if low <= whole)

    def _having(self, field: Field, value: int, mask: int) -> Region:
        """Where a field has a value under a mask that is a union of groups."""
        region: Region = {}
        for group in self.groups[field]:
            if group.mask & mask:
                number = together(value, group.mask)
                region[group.dim] = ((number, number),)
        return region

    def _add(self, field: Field, masks: list[int]) -> None:
        groups = []
        for mask in masks:
            groups.append(Group(len(self.sizes), mask))
            self.sizes.append(1 << mask.bit_count())
            self.fields.append(field)
        self.groups[field] = tuple(groups)


def _merged(regions: list[Region]) -> list[Region]:
    """The same with fewer regions: those of one dimension together."""
    if len(regions) < 2 or any(region.keys() != regions[0].keys() or len(region) != 1 for region in regions):
        return regions
    [dim] = regions[0]
    return [{dim: union(region[dim] for region in regions)}]


def together(value: int, mask: int) -> int:
    """The bits of a value that a mask selects, pushed together."""
    if mask & (mask + 1) == 0:
        return value & mask
    found = place = 0
    while mask:
        low = mask & -mask
        if value & low:
            found |= 1 << place
        place += 1
        mask ^= low
    return found


def apart(number: int, mask: int) -> int:
    """The value whose bits under a mask are those of a number: the opposite of `together`."""
    value = 0
    while mask:
        low = mask & -mask
        if number & 1:
            value |= low
        number >>= 1
        mask ^= low
    return value


def spread(within: Intervals, mask: int, whole: int) -> Intervals | None:
    """The numbers whose bits under a mask lie within intervals; None where they would be too many intervals."""
    if not mask:
        return ((0, whole),) if within and within[0][0] == 0 else ()
    step = mask & -mask
    upper = whole & -step
    open_bits = upper & ~mask
    if open_bits.bit_count() > MOST_SPREAD:
        return None
    found: list[tuple[int, int]] = []
    for low, high in within:
        for start, size in blocks(low, high + 1):
            tested = mask & -size
            if start & ~tested == 0:
                found += _under(start, tested, whole)
                if len(found) > 1 << MOST_SPREAD:
                    return None
    return union([tuple(found)])


def _under(value: int, mask: int, whole: int) -> Iterator[tuple[int, int]]:
    """Intervals of the numbers that have a value under a mask."""
    step = mask & -mask if mask else whole + 1
    free = whole & -step & ~mask
    if free.bit_count() > MOST_SPREAD:
        return
    part = 0
    while True:
        yield value | part, value | part | (step - 1)
        part = (part - free) & free
        if not part:
            return


def _groups(width: int, masks: Iterable[int]) -> list[int]:
    """The bits in groups, so that every mask has all of a group or nothing of it; the highest first."""
    groups = [(1 << width) - 1]
    for mask in masks:
        groups = [part for group in groups for part in (group & mask, group & ~mask) if part]
    return sorted(groups, reverse=True)
