"""Orders in which things may stand that are known in part."""

from __future__ import annotations

from itertools import chain, cycle, product
from math import prod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeVar

    T = TypeVar("T")

MOST_ORDERS = 24
"""So many orders are followed at most: all of four things."""

MOST_PERMUTED = 4


def orders(sequences: Sequence[list[T]]) -> list[list[T]]:
    """The orders that leave each sequence in its own: all of few things; of more, those with each sequence first."""
    if sum(map(len, sequences)) <= MOST_PERMUTED:
        return list(_interleaved(sequences))
    found = []
    for number, first in enumerate(sequences):
        rest = [*sequences[:number], *sequences[number + 1 :]]
        found += [[*first, *chain.from_iterable(behind)] for behind in (rest, rest[::-1])]
    return found


def together(choices: Sequence[Sequence[T]]) -> list[tuple[T, ...]]:
    """Every choice with every other one; where those are too many, each of them at least once."""
    if prod(map(len, choices)) <= MOST_ORDERS:
        return list(product(*choices))
    longest = max(map(len, choices))
    return [together for _, together in zip(range(longest), zip(*map(cycle, choices), strict=True), strict=False)]


def _interleaved(sequences: Sequence[list[T]]) -> Iterator[list[T]]:
    if not any(sequences):
        yield []
    for number, sequence in enumerate(sequences):
        if sequence:
            rest = [*sequences[:number], sequence[1:], *sequences[number + 1 :]]
            yield from ([sequence[0], *order] for order in _interleaved(rest))
