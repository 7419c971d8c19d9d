"""Nodes of decision diagrams: functions of many whole numbers, each node a test of one of them by intervals."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping
    from typing import Any

    from istio_init.netfilter.intervals import Intervals


END = 1 << 30
"""The dimension of leaves: after all others."""


class TooManyPieces(Exception):
    """The rules divide the packets into more pieces than can be looked at."""


class Node:
    """A diagram. A leaf has a ``value``; another has children for the intervals between ``cuts``.

    Child i is what the function is for numbers from ``cuts[i - 1]`` up to, but without, ``cuts[i]``. ``support`` has a
    bit for each dimension that is tested here or below.
    """

    __slots__ = ("children", "cuts", "dim", "support", "value")

    def __init__(self, dim: int, cuts: tuple[int, ...], children: tuple[Node, ...], value: Any, support: int) -> None:
        self.dim = dim
        self.cuts = cuts
        self.children = children
        self.value = value
        self.support = support

    def __repr__(self) -> str:
        return f"Node({self.value!r})" if self.dim == END else f"Node({self.dim}: {len(self.children)} children)"


def blocks(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Start and size of the aligned blocks of a power of two that make up the numbers from low up to, without, high."""
    while low < high:
        size = low & -low or 1 << (high.bit_length() - 1)
        while low + size > high:
            size >>= 1
        yield low, size
        low += size


def value_at(node: Node, place: Mapping[int, int]) -> Any:
    """The function's value at a place."""
    while node.dim != END:
        node = node.children[bisect_right(node.cuts, place[node.dim])]
    return node.value


def leaves(node: Node) -> list[Any]:
    """The values that the function has, each once, in the order of their first place."""
    seen: dict[Node, None] = {}
    todo = [node]
    while todo:
        found = todo.pop()
        if found not in seen:
            seen[found] = None
            todo += [child for child in reversed(dict.fromkeys(found.children)) if child not in seen]
    return [each.value for each in seen if each.dim == END]


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
