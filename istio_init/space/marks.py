"""The marks that rules can tell apart, numbered.

The bits of a mark fall into groups that the rules' masks always take together. Of each group only the values that a
rule names matter, and that there are others; a class of marks is one choice for each group. So sets of marks are sets
of small numbers, and setting a part of a mark leads from class to class.
"""

from __future__ import annotations

from itertools import product
from math import prod

from istio_init.dialects.iptables.matches import Connmark, Mark
from istio_init.dialects.iptables.targets import RestoreMark, SaveMark, SetConnmark, SetMark, Tproxy
from istio_init.netfilter.family import MAX_MARK
from istio_init.space.intervals import union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.iptables.rules import Rule
    from istio_init.space.intervals import Intervals

MOST_CLASSES = 4096
"""More are not told apart: then tests of marks are not known."""

OTHER = None
"""In place of a group's value: any that no rule names."""

Choice = tuple[int | None, ...]


class Marks:
    """The classes of marks of some rules, and of some other marks. The class of no mark at all has the number 0."""

    def __init__(self, rules: Iterable[Rule], others: Iterable[int] = ()) -> None:
        masks, values = {MAX_MARK}, {0, *others}
        for rule in rules:
            used = [each for each in map(_tested, rule.matches) if each is not None]
            for mask, value in (*used, *_set_by(rule)):
                masks.add(mask)
                values.add(value)
        self.groups = _groups(masks)
        named = [sorted({value & group for value in values}) for group in self.groups]
        spare = [_unnamed(group, found) for group, found in zip(self.groups, named, strict=True)]
        options = [(*found, *([] if other is None else [OTHER])) for found, other in zip(named, spare, strict=True)]
        self.known = prod(map(len, options)) <= MOST_CLASSES
        self._spare = spare
        self.choices: list[Choice] = list(product(*options)) if self.known else [(OTHER,) * len(options)]
        self._numbers = {choice: number for number, choice in enumerate(self.choices)}
        self._named = [frozenset(found) for found in named]

    def number(self, mark: int) -> int:
        """The class of a mark."""
        return self._numbers[self._choice(mark)] if self.known else 0

    def example(self, number: int) -> int:
        """A mark of the class."""
        chosen = zip(self.choices[number], self._spare, strict=True)
        return sum(value if value is not OTHER else other or 0 for value, other in chosen)

    def is_vague(self, number: int) -> bool:
        """Whether the class stands for marks that no rule names."""
        return OTHER in self.choices[number]

    def text(self, number: int) -> str:
        """The marks of the class: one of them, or parts of them under masks; the rest is any other."""
        chosen = list(zip(self.choices[number], self.groups, strict=True))
        if not self.is_vague(number):
            return f"{self.example(number):#x}"
        named = [f"{value:#x}/{group:#x}" for value, group in chosen if value is not OTHER]
        return " and ".join([*named, "any other"])

    def test(self, value: int, mask: int) -> Intervals:
        """The classes whose marks have the value under the mask."""
        found = [
            number
            for number, choice in enumerate(self.choices)
            if all(chosen == value & group for chosen, group in zip(choice, self.groups, strict=True) if group & mask)
        ]
        return union([((number, number),) for number in found]) if value & ~mask == 0 else ()

    def combined(self, one: int, kept: int, other: int, added: int) -> int | None:
        """The class of ``(one & kept) ^ (other & added)``; None where that differs within the classes."""
        result: list[int | None] = []
        for group, first, second in zip(self.groups, self.choices[one], self.choices[other], strict=True):
            first = first if group & kept else 0
            second = second if group & added else 0
            if first == 0 or second == 0:
                result.append(second if first == 0 else first)
            elif first is OTHER or second is OTHER:
                return None
            else:
                result.append(first ^ second)
        choice = tuple([value if value in named else OTHER for value, named in zip(result, self._named, strict=True)])
        return self._numbers[choice] if self.known else None

    def _choice(self, mark: int) -> Choice:
        parts = [mark & group for group in self.groups]
        return tuple([part if part in named else OTHER for part, named in zip(parts, self._named, strict=True)])


def _tested(match: object) -> tuple[int, int] | None:
    return (match.mask, match.value) if isinstance(match, Mark | Connmark) else None


def _set_by(rule: Rule) -> list[tuple[int, int]]:
    """Masks and values of what the rule's target sets."""
    match rule.target:
        case SetMark(value, mask) | SetConnmark(value, mask) | Tproxy(_, _, value, mask):
            return [(mask, value)]
        case SaveMark(one, other) | RestoreMark(one, other):
            return [(one, 0), (other, 0)]
    return []


def _groups(masks: Iterable[int]) -> list[int]:
    """The bits in groups, so that every mask has all of a group or nothing of it; the highest first."""
    groups = [MAX_MARK]
    for mask in masks:
        groups = [part for group in groups for part in (group & mask, group & ~mask) if part]
    return sorted(groups, reverse=True)


def _unnamed(group: int, named: list[int]) -> int | None:
    """A value of the group's bits that no rule names, or None where all are named."""
    if len(named) == 1 << group.bit_count():
        return None
    value = 0
    while value in named:
        value = (value - group) & group
    return value
