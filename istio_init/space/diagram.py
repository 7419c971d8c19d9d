"""Functions of many whole numbers as decision diagrams: each node tests one dimension by intervals.

Dimensions are tested in ascending order, and equal diagrams are the same object, so that functions are compared by
identity and what they have in common is worked out once. (Bryant's ordered diagrams, with intervals in place of bits;
Strehl and Thiele's interval decision diagrams.)
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import groupby, pairwise

from istio_init.space.nodes import END, Node, TooManyPieces, blocks, leaves, value_at
from istio_init.space.rebuilding import (
    Filled,
    Grafted,
    Mapped,
    Moved,
    Substitute,
    Substituted,
    Unknown,
    Within,
    Without,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
    from typing import Any

    from istio_init.netfilter.intervals import Intervals

    Join = Callable[[Node, Node], Node | None]
    Memo = dict[tuple[Node, Node], Node]

__all__ = ["END", "Diagrams", "Moved", "Node", "Substitute", "TooManyPieces", "Unknown", "blocks", "leaves", "value_at"]

MOST_EDGES = 2_000_000
"""So many edges are made at most: some 150 MB, and several seconds."""


class Diagrams:
    """Makes diagrams, each once. ``sizes`` are how many numbers each dimension has.

    Raises `TooManyPieces` where they would have more than ``most`` edges in all.
    """

    def __init__(self, sizes: Sequence[int], most: int = MOST_EDGES) -> None:
        self.sizes = sizes
        self._leaves: dict[Hashable, Node] = {}
        self._nodes: dict[tuple[int, tuple[int, ...], tuple[Node, ...]], Node] = {}
        self._left = most

    def leaf(self, value: Hashable) -> Node:
        """The function that always has this value."""
        found = self._leaves.get(value)
        if found is None:
            found = self._leaves[value] = Node(END, (), (), value, 0)
        return found

    def spend(self, steps: int) -> None:
        """Count work beside the edges that are made."""
        self._left -= steps
        if self._left < 0:
            raise TooManyPieces

    def node(self, dim: int, cuts: Sequence[int], children: Sequence[Node]) -> Node:
        """A test of a dimension, which none of the children tests; neighbours may be the same."""
        if any(one is other for one, other in pairwise(children)):
            kept = [number for number in range(1, len(children)) if children[number] is not children[number - 1]]
            cuts = [cuts[number - 1] for number in kept]
            children = [children[0], *[children[number] for number in kept]]
        return self._made(dim, tuple(cuts), tuple(children))

    def _made(self, dim: int, cuts: tuple[int, ...], children: tuple[Node, ...]) -> Node:
        if not cuts:
            return children[0]
        key = dim, cuts, children
        found = self._nodes.get(key)
        if found is None:
            self._left -= len(children)
            if self._left < 0:
                raise TooManyPieces
            support = 1 << dim
            for child in children:
                support |= child.support
            found = self._nodes[key] = Node(dim, cuts, children, None, support)
        return found

    def test(self, dim: int, within: Intervals, yes: Node, no: Node) -> Node:
        """One diagram where the number lies within intervals, another where not; neither tests the dimension."""
        if yes is no:
            return no
        cuts: list[int] = []
        children = [no]
        for low, high in within:
            if low > 0:
                cuts.append(low)
                children.append(yes)
            else:
                children = [yes]
            if high + 1 < self.sizes[dim]:
                cuts.append(high + 1)
                children.append(no)
        return self._made(dim, tuple(cuts), tuple(children))

    def combine(self, one: Node, other: Node, join: Join) -> Node:
        """The function whose value is what ``join`` makes of the values of both.

        It is asked for diagrams, too, so that it can tell at once; None is for those whose children have to be looked
        at, and never for two leaves.
        """
        return self._combined(one, other, join, {})

    # Neither here nor in `rebuilding` do functions hold themselves: they are many, and would have to be collected.
    def _combined(self, one: Node, other: Node, join: Join, memo: Memo) -> Node:
        found = join(one, other)
        if found is None:
            if one.dim < other.dim:
                found = self._spread(one, [(child, other) for child in one.children], join, memo)
            elif other.dim < one.dim:
                found = self._spread(other, [(one, child) for child in other.children], join, memo)
            else:
                found = self._both(one, other, join, memo)
        memo[one, other] = found
        return found

    def _spread(self, node: Node, pairs: list[tuple[Node, Node]], join: Join, memo: Memo) -> Node:
        """One diagram's children, which test more than the other does here, with the other."""
        cuts: list[int] = []
        last = memo.get(pairs[0]) or self._combined(*pairs[0], join, memo)
        children = [last]
        for cut, pair in zip(node.cuts, pairs[1:], strict=True):
            child = memo.get(pair) or self._combined(*pair, join, memo)
            if child is not last:
                cuts.append(cut)
                children.append(child)
                last = child
        return self._made(node.dim, tuple(cuts), tuple(children))

    def _both(self, one: Node, other: Node, join: Join, memo: Memo) -> Node:
        """Two diagrams that test the same dimension, cut by cut."""
        ones, others = one.children, other.children
        pair = ones[0], others[0]
        last = memo.get(pair) or self._combined(*pair, join, memo)
        cuts: list[int] = []
        children = [last]
        i = j = 0
        limits, further = (*one.cuts, _BEYOND), (*other.cuts, _BEYOND)
        low, high = limits[0], further[0]
        while low is not _BEYOND or high is not _BEYOND:
            cut = low if low < high else high
            if cut == low:
                i += 1
                low = limits[i]
            if cut == high:
                j += 1
                high = further[j]
            pair = ones[i], others[j]
            child = memo.get(pair) or self._combined(*pair, join, memo)
            if child is not last:
                cuts.append(cut)
                children.append(child)
                last = child
        return self._made(one.dim, tuple(cuts), tuple(children))

    def mapped(self, node: Node, change: Callable[[Any], Node]) -> Node:
        """The diagram with other leaves."""
        return Mapped(self, change).of(node)

    def grafted(self, node: Node, change: Callable[[Any], Node]) -> Node:
        """The diagram with other diagrams in place of leaves."""
        return Grafted(self, change).of(node)

    def within(self, node: Node, region: Mapping[int, Intervals]) -> Node:
        """The function in a region, simpler: what it is elsewhere does not matter."""
        return Within(self, region).of(node) if region else node

    def without(self, node: Node, dim: int, number: int) -> Node:
        """The function with another value for a number that no packet has in a dimension: that of the one before it."""
        return Without(self, dim, number).of(node)

    def filled(self, node: Node, absent: Node) -> Node:
        """The function, simpler: where it is the leaf ``absent`` its value does not matter."""
        return Filled(self, absent).of(node)

    def substituted(self, node: Node, values: Mapping[int, Substitute], either: Join) -> Node:
        """The function with numbers for some dimensions, all at once; ``either`` joins where a number is not known."""
        return Substituted(self, values, either).of(node)

    def joined(self, nodes: Iterable[Node], join: Join) -> Node:
        """All of some diagrams together, two by two, in their order."""
        left = list(nodes)
        while len(left) > 1:
            pairs = [self.combine(one, other, join) for one, other in zip(left[::2], left[1::2], strict=False)]
            left = pairs + left[2 * len(pairs) :]
        return left[0]

    def chosen(self, dim: int, cuts: Sequence[int], children: Sequence[Node]) -> Node:
        """What `node` does for children that may test this dimension, or dimensions before it."""
        top = min(child.dim for child in children)
        if dim < top:
            return self.node(dim, cuts, children)
        if dim == top:
            bounds = [0, *cuts, self.sizes[dim]]
            starts: list[int] = []
            found: list[Node] = []
            for child, (low, high) in zip(children, pairwise(bounds), strict=True):
                more, inside = _within(child, dim, low, high)
                starts += [low, *more]
                found += inside
            return self.node(dim, starts[1:], found)
        starts = sorted({cut for child in children if child.dim == top for cut in child.cuts})
        segments = []
        for low in (0, *starts):
            at = [child.children[bisect_right(child.cuts, low)] if child.dim == top else child for child in children]
            segments.append(self.chosen(dim, cuts, at))
        return self.node(top, starts, segments)

    def at(self, dim: int, nodes: Mapping[int, Node], otherwise: Node) -> Node:
        """Diagrams for some numbers of a dimension, in ascending order, and another one for all others."""
        bounds = [(0, otherwise)]
        for number, node in nodes.items():
            if bounds[-1][0] == number:
                bounds.pop()
            bounds += [(number, node), (number + 1, otherwise)]
        if bounds[-1][0] == self.sizes[dim]:
            bounds.pop()
        return self.chosen(dim, [start for start, _ in bounds[1:]], [node for _, node in bounds])

    def stepped(self, digits: Sequence[tuple[int, int]], starts: Sequence[int], children: Sequence[Node]) -> Node:
        """A child from each start on, the first of which is 0, for a number whose digits are dimensions.

        Digits are given with how many bits are below them, the first ones first.
        """
        (dim, shift), *lower = digits
        if not lower:
            return self.chosen(dim, starts[1:], children)
        bounds: list[int] = []
        found: list[Node] = []
        last = children[0]
        for digit, group in groupby(zip(starts, children, strict=True), key=lambda each: each[0] >> shift):
            if bounds and digit > bounds[-1] + 1:
                bounds.append(bounds[-1] + 1)
                found.append(last)
            inside = [(start - (digit << shift), child) for start, child in group]
            if inside[0][0]:
                inside.insert(0, (0, last))
            last = inside[-1][1]
            bounds.append(digit)
            found.append(self.stepped(lower, [start for start, _ in inside], [child for _, child in inside]))
        if bounds[-1] + 1 < self.sizes[dim]:
            bounds.append(bounds[-1] + 1)
            found.append(last)
        return self.chosen(dim, bounds[1:], found)


_BEYOND = 1 << 200
"""Greater than every number."""


def _within(node: Node, dim: int, low: int, high: int) -> tuple[list[int], list[Node]]:
    """The cuts and children of a node from ``low`` up to, but without, ``high``."""
    if node.dim != dim:
        return [], [node]
    first = bisect_right(node.cuts, low)
    last = bisect_right(node.cuts, high - 1)
    return list(node.cuts[first:last]), list(node.children[first : last + 1])
