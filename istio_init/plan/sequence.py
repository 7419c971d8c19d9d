"""The longest common subsequence: which rules may stay where they are."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

CELLS_LIMIT = 250_000
"""Beyond this many comparisons the middle of two long chains is aligned from the top, not as well as possible."""


def common_pairs(old: Sequence[Hashable], new: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Index pairs ``(old, new)`` of a longest common subsequence, in order."""
    numbers: dict[Hashable, int] = {}
    old = [numbers.setdefault(item, len(numbers)) for item in old]
    new = [numbers.setdefault(item, len(numbers)) for item in new]
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    pairs = [(index, index) for index in range(start)]
    middle = _table_pairs(old[start : len(old) - end], new[start : len(new) - end])
    pairs += [(start + left, start + right) for left, right in middle]
    pairs += [(len(old) - end + index, len(new) - end + index) for index in range(end)]
    return pairs


def is_subsequence(part: Sequence[Hashable], whole: Sequence[Hashable]) -> bool:
    """Whether ``part`` is ``whole`` with some items left out."""
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)


def _table_pairs(old: Sequence[Hashable], new: Sequence[Hashable]) -> list[tuple[int, int]]:
    if not old or not new:
        return []
    if len(old) * len(new) > CELLS_LIMIT:
        return _first_pairs(old, new)
    lengths = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        for j in range(len(new) - 1, -1, -1):
            same = old[i] == new[j]
            lengths[i][j] = lengths[i + 1][j + 1] + 1 if same else max(lengths[i + 1][j], lengths[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        if old[i] == new[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def _first_pairs(old: Sequence[Hashable], new: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs of a common subsequence, found in one pass: each item with its next occurrence."""
    places: dict[Hashable, list[int]] = {}
    for index in range(len(new) - 1, -1, -1):
        places.setdefault(new[index], []).append(index)
    pairs, last = [], -1
    for index, item in enumerate(old):
        candidates = places.get(item, [])
        while candidates and candidates[-1] <= last:
            candidates.pop()
        if candidates:
            last = candidates.pop()
            pairs.append((index, last))
    return pairs
