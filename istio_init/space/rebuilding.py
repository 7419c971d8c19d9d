"""Diagrams made of others, node by node: with other leaves, and with numbers in place of dimensions."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

from istio_init.space.nodes import END, Node, blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from typing import Any

    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.making import Join, Making


class Moved(NamedTuple):
    """In place of a dimension's number: that of another dimension, with some bits flipped."""

    dim: int
    flipped: int = 0


class Unknown:
    """In place of a dimension's number: one of several, or any, and why that is not known. Equal to itself alone."""

    __slots__ = ("why", "within")

    def __init__(self, why: Hashable, within: Intervals | None = None) -> None:
        self.why = why
        self.within = within


Substitute = int | Moved | Unknown


class Rebuilding:
    """Makes a diagram of another one: of what its children have become. Each node is looked at once."""

    __slots__ = ("_memo", "diagrams")

    def __init__(self, diagrams: Making) -> None:
        self.diagrams = diagrams
        self._memo: dict[Node, Node] = {}

    def of(self, node: Node) -> Node:
        """What a diagram becomes."""
        if self.stays(node):
            return node
        found = self._memo.get(node)
        if found is None:
            found = self._memo[node] = self.made(node)
        return found

    def stays(self, node: Node) -> bool:
        """Whether nothing of it changes."""
        return False

    def made(self, node: Node) -> Node:
        """What a diagram becomes that does not stay what it is."""
        raise NotImplementedError


class Mapped(Rebuilding):
    """With other leaves."""

    __slots__ = ("change",)

    def __init__(self, diagrams: Making, change: Callable[[Any], Node]) -> None:
        super().__init__(diagrams)
        self.change = change

    def made(self, node: Node) -> Node:
        """Of a leaf what it is changed to."""
        if node.dim == END:
            return self.change(node.value)
        return self.diagrams.node(node.dim, node.cuts, [self.of(child) for child in node.children])


class Grafted(Mapped):
    """With diagrams in place of leaves."""

    __slots__ = ()

    def made(self, node: Node) -> Node:
        """Of a leaf what is put in its place, whatever dimensions that tests."""
        if node.dim == END:
            return self.change(node.value)
        return self.diagrams.chosen(node.dim, node.cuts, [self.of(child) for child in node.children])


class Within(Rebuilding):
    """What it is in a region; elsewhere anything."""

    __slots__ = ("mask", "region")

    def __init__(self, diagrams: Making, region: Mapping[int, Intervals]) -> None:
        super().__init__(diagrams)
        self.region = region
        self.mask = sum(1 << dim for dim in region)

    def stays(self, node: Node) -> bool:
        """Whether it tests no dimension of the region."""
        return not node.support & self.mask

    def made(self, node: Node) -> Node:
        """Without children that lie outside."""
        if node.dim not in self.region:
            return self.diagrams.node(node.dim, node.cuts, [self.of(child) for child in node.children])
        inside = dict.fromkeys(_reached(node, self.region[node.dim]))
        kept = [self.of(child) if child in inside else None for child in node.children]
        last = next(child for child in kept if child is not None)
        filled = [last := child if child is not None else last for child in kept]
        return self.diagrams.node(node.dim, node.cuts, filled)


class Without(Rebuilding):
    """Without a number of a dimension: there it is what it is for the one before."""

    __slots__ = ("dim", "number")

    def __init__(self, diagrams: Making, dim: int, number: int) -> None:
        super().__init__(diagrams)
        self.dim = dim
        self.number = number

    def stays(self, node: Node) -> bool:
        """Whether it does not test the dimension, nor does anything below."""
        return node.dim > self.dim

    def made(self, node: Node) -> Node:
        """With another child for the number, if it has one of its own."""
        if node.dim < self.dim:
            return self.diagrams.node(node.dim, node.cuts, [self.of(child) for child in node.children])
        children = list(node.children)
        place = bisect_right(node.cuts, self.number)
        ends = *node.cuts, self.diagrams.sizes[self.dim]
        if (0, *node.cuts)[place] == self.number and ends[place] == self.number + 1:
            children[place] = children[place - 1 if place else 1]
        return self.diagrams.node(self.dim, node.cuts, children)


class Filled(Rebuilding):
    """Where it is some leaf that does not matter, it is what it is for the numbers before, or behind."""

    __slots__ = ("absent",)

    def __init__(self, diagrams: Making, absent: Node) -> None:
        super().__init__(diagrams)
        self.absent = absent

    def stays(self, node: Node) -> bool:
        """Whether it is a leaf."""
        return node.dim == END

    def made(self, node: Node) -> Node:
        """With other children for those that do not matter."""
        children = [self.of(child) for child in node.children]
        last = next((child for child in children if child is not self.absent), self.absent)
        filled = [last := child if child is not self.absent else last for child in children]
        return self.diagrams.node(node.dim, node.cuts, filled)


class Substituted(Rebuilding):
    """With numbers for some dimensions."""

    __slots__ = ("either", "mask", "values")

    def __init__(self, diagrams: Making, values: Mapping[int, Substitute], either: Join) -> None:
        super().__init__(diagrams)
        self.values = values
        self.either = either
        self.mask = sum(1 << dim for dim in values)

    def stays(self, node: Node) -> bool:
        """Whether it tests none of the dimensions."""
        return not node.support & self.mask

    def made(self, node: Node) -> Node:
        """The child for a number that is known; all of them, or a test of another dimension, elsewhere."""
        diagrams = self.diagrams
        if node.dim not in self.values:
            return diagrams.chosen(node.dim, node.cuts, [self.of(child) for child in node.children])
        value = self.values[node.dim]
        if isinstance(value, int):
            return self.of(node.children[bisect_right(node.cuts, value)])
        if isinstance(value, Unknown):
            found = node.children if value.within is None else _reached(node, value.within)
            return diagrams.joined([self.of(child) for child in dict.fromkeys(found)], self.either)
        children = [self.of(child) for child in node.children]
        if not value.flipped:
            return diagrams.chosen(value.dim, node.cuts, children)
        return diagrams.chosen(value.dim, *_flipped(node.cuts, children, value.flipped, diagrams.sizes[value.dim]))


def _reached(node: Node, within: Intervals) -> list[Node]:
    """The children for numbers within intervals."""
    return [
        child
        for low, high in within
        for child in node.children[bisect_right(node.cuts, low) : bisect_right(node.cuts, high) + 1]
    ]


def _flipped(cuts: Sequence[int], children: Sequence[Node], flipped: int, size: int) -> tuple[list[int], list[Node]]:
    """Cuts and children for numbers some of whose bits are flipped: blocks of a power of two change places."""
    starts: list[tuple[int, Node]] = []
    for child, (low, high) in zip(children, pairwise([0, *cuts, size]), strict=True):
        starts += [((start ^ flipped) & -width, child) for start, width in blocks(low, high)]
    starts.sort(key=lambda each: each[0])
    return [start for start, _ in starts[1:]], [child for _, child in starts]
