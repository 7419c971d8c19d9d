"""Sets of whole numbers as sorted, disjoint, non-adjacent intervals, both ends included."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Intervals = tuple[tuple[int, int], ...]

EMPTY: Intervals = ()


def union(sets: Iterable[Intervals]) -> Intervals:
    """The numbers of any of the sets."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(each for found in sets for each in found):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def intersection(one: Intervals, other: Intervals) -> Intervals:
    """The numbers of both sets."""
    if one is other:
        return one
    if len(one) == 1 or len(other) == 1:
        [(low, high)], many = (one, other) if len(one) == 1 else (other, one)
        first, last = _reach(many, low, high)
        within = many[first:last]
        if within and (within[0][0] < low or within[-1][1] > high):
            within = tuple((max(low, start), min(high, end)) for start, end in within)
        return within
    found = []
    i = j = 0
    while i < len(one) and j < len(other):
        low, high = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if low <= high:
            found.append((low, high))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def difference(one: Intervals, other: Intervals) -> Intervals:
    """The numbers of the first set that are not in the second."""
    if one is other:
        return EMPTY
    if len(other) == 1:
        [(low, high)] = other
        first, last = _reach(one, low, high)
        if first == last:
            return one
        before, after = one[first][0], one[last - 1][1]
        left = ((before, low - 1),) if before < low else EMPTY
        right = ((high + 1, after),) if after > high else EMPTY
        return (*one[:first], *left, *right, *one[last:])
    found = []
    j = 0
    for low, high in one:
        start = low
        while j < len(other) and other[j][1] < start:
            j += 1
        k = j
        while k < len(other) and other[k][0] <= high:
            if other[k][0] > start:
                found.append((start, other[k][0] - 1))
            start = max(start, other[k][1] + 1)
            k += 1
        if start <= high:
            found.append((start, high))
    return tuple(found)


def _reach(found: Intervals, low: int, high: int) -> tuple[int, int]:
    """Which intervals have a number from low to high: from the first on, up to but without the last."""
    first = bisect_left(found, low, key=itemgetter(1))
    return first, bisect_right(found, high, lo=first, key=itemgetter(0))


def contains(found: Intervals, number: int) -> bool:
    """Whether a number is in the set."""
    return any(low <= number <= high for low, high in found)


def size(found: Intervals) -> int:
    """How many numbers the set has."""
    return sum(high - low + 1 for low, high in found)
