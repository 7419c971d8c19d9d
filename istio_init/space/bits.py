"""Numbers some of whose bits are looked at: pushed together, and as intervals of the whole."""

from __future__ import annotations

from istio_init.netfilter.intervals import union
from istio_init.space.nodes import blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.netfilter.intervals import Intervals

MOST_SPREAD = 12
"""A mask may leave so many bits open above those that it tests."""


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


def shift_of(mask: int) -> int:
    """How many bits are below those of a mask."""
    return (mask & -mask).bit_length() - 1


def is_prefix(mask: int, whole: int) -> bool:
    """Whether a mask has some of the first bits of a whole number, all in a row."""
    rest = whole & ~mask
    return rest & (rest + 1) == 0


def edges_of(mask: int, whole: int) -> list[int]:
    """Where a mask's bits begin or end, as masks of all bits above, the first ones first."""
    edges = (mask ^ mask >> 1) & whole >> 1
    return [whole & -(2 << place) for place in reversed(range(edges.bit_length())) if edges >> place & 1]


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


def groups_of(width: int, masks: Iterable[int]) -> list[int]:
    """A number's bits in groups, by their masks: each mask has all of a group or nothing of it; the highest first."""
    groups = [(1 << width) - 1]
    for mask in masks:
        groups = [part for group in groups for part in (group & mask, group & ~mask) if part]
    return sorted(groups, reverse=True)
