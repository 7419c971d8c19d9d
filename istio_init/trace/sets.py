"""Sets and maps of rules, indexed so that ten thousand elements cost no more than ten."""

from __future__ import annotations

from bisect import bisect_right

from istio_init.netfilter.intervals import intersection
from istio_init.trace.state import Unsure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Box
    from istio_init.trace.state import Number


class Members:
    """Whether a number lies within many intervals."""

    __slots__ = ("highs", "lows")

    def __init__(self, within: Intervals) -> None:
        self.lows = [low for low, _ in within]
        self.highs = [high for _, high in within]

    def has(self, number: int) -> bool:
        """Whether it does."""
        last = bisect_right(self.lows, number) - 1
        return last >= 0 and number <= self.highs[last]


class Index:
    """Boxes, each with what a map gives for it. Of boxes that overlap the first counts."""

    __slots__ = ("_lows", "_ordered", "boxes", "groups")

    def __init__(self, boxes: Iterable[tuple[Box, object]]) -> None:
        self.boxes = [(box, given) for box, given in boxes if all(box)]
        self.groups: dict[tuple[bool, ...], dict[tuple[int, ...], list[int]]] = {}
        self._ordered: list[tuple[int, int, int]] = []
        if all(len(box) == 1 for box, _ in self.boxes):
            self._ordered = sorted(
                (low, high, number) for number, (box, _) in enumerate(self.boxes) for low, high in box[0]
            )
            if any(one[1] >= other[0] for one, other in zip(self._ordered, self._ordered[1:], strict=False)):
                self._ordered = []
        self._lows = [low for low, _, _ in self._ordered]
        if not self._ordered:
            self._group()

    def _group(self) -> None:
        """Sort boxes by the coordinates that are one number each."""
        for number, (box, _) in enumerate(self.boxes):
            pattern = tuple([len(within) == 1 and within[0][0] == within[0][1] for within in box])
            points = tuple([within[0][0] for within, is_point in zip(box, pattern, strict=True) if is_point])
            self.groups.setdefault(pattern, {}).setdefault(points, []).append(number)

    def find(self, key: Sequence[Any]) -> tuple[object] | None:
        """What the first box with the key gives."""
        if self._ordered:
            last = bisect_right(self._lows, key[0]) - 1
            if last < 0 or key[0] > self._ordered[last][1]:
                return None
            return (self.boxes[self._ordered[last][2]][1],)
        first: int | None = None
        for pattern, group in self.groups.items():
            points = tuple([number for number, is_point in zip(key, pattern, strict=True) if is_point])
            for number in group.get(points, ()):
                if first is not None and number > first:
                    break
                if _has(self.boxes[number][0], key):
                    first = number
                    break
        return None if first is None else (self.boxes[first][1],)

    def possible(self, key: Sequence[Number]) -> tuple[list[object], bool]:
        """What boxes may give for a key of which not all is known, and whether one of them surely has it."""
        found: list[object] = []
        for box, given in self.boxes:
            answers = [_may_have(within, number) for within, number in zip(box, key, strict=True)]
            if all(answers):
                found.append(given)
                if all(answer == 2 for answer in answers):
                    return found, True
        return found, False


def _has(box: Box, key: Sequence[int]) -> bool:
    return all(any(low <= number <= high for low, high in within) for within, number in zip(box, key, strict=True))


def _may_have(within: Intervals, number: Number) -> int:
    """0 where a number is not within, 1 where it may be, 2 where it is."""
    if isinstance(number, Unsure):
        common = intersection(number.within, within)
        return 2 if common == number.within else 1 if common else 0
    return 2 if number is not None and any(low <= number <= high for low, high in within) else 0
