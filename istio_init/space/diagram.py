"""Functions of many whole numbers as decision diagrams: each node tests one dimension by intervals.

Dimensions are tested in ascending order, and equal diagrams are the same object, so that functions are compared by
identity and what they have in common is worked out once. (Bryant's ordered diagrams, with intervals in place of bits;
Strehl and Thiele's interval decision diagrams.)
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from istio_init.netfilter.intervals import Intervals

END = 1 << 30
"""The dimension of leaves: after all others."""

MOST_EDGES = 2_000_000
"""So many edges are made at most: some 150 MB, and several seconds."""


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


class Moved(NamedTuple):
    """In place of a dimension's number: that of another dimension, with some bits flipped."""

    dim: int
    flipped: int = 0


class Unknown(Value):
    """In place of a dimension's number: one of several, or any, and why it is not known which."""

    why: Hashable
    within: Intervals | None = None


Substitute = int | Moved | Unknown


class Diagrams:
    """Makes diagrams, each once. ``sizes`` are how many numbers each dimension has.

    ``fixed`` are dimensions of which only one number is of interest: no diagram tests them. Raises `TooManyPieces`
    where they would have more than ``most`` edges in all.
    """

    def __init__(self, sizes: Sequence[int], most: int = MOST_EDGES, fixed: Mapping[int, int] | None = None) -> None:
        self.sizes = sizes
        self._fixed = fixed or {}
        self._leaves: dict[Hashable, Node] = {}
        self._nodes: dict[tuple[int, tuple[int, ...], tuple[Node, ...]], Node] = {}
        self._left = most

    def leaf(self, value: Hashable) -> Node:
        """The function that always has this value."""
        found = self._leaves.get(value)
        if found is None:
            found = self._leaves[value] = Node(END, (), (), value, 0)
        return found

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
        if dim in self._fixed:
            return children[bisect_right(cuts, self._fixed[dim])]
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

    def combine(self, one: Node, other: Node, join: Callable[[Node, Node], Node | None]) -> Node:
        """The function whose value is what ``join`` makes of the values of both.

        It is asked for diagrams, too, so that it can tell at once; None is for those whose children have to be looked
        at, and never for two leaves.
        """
        memo: dict[tuple[Node, Node], Node] = {}
        made = self._made

        def go(one: Node, other: Node) -> Node:
            found = join(one, other)
            if found is None:
                if one.dim < other.dim:
                    found = spread(one, [(child, other) for child in one.children])
                elif other.dim < one.dim:
                    found = spread(other, [(one, child) for child in other.children])
                else:
                    found = both(one, other)
            memo[one, other] = found
            return found

        def spread(node: Node, pairs: list[tuple[Node, Node]]) -> Node:
            cuts: list[int] = []
            last = memo.get(pairs[0]) or go(*pairs[0])
            children = [last]
            for cut, pair in zip(node.cuts, pairs[1:], strict=True):
                child = memo.get(pair) or go(*pair)
                if child is not last:
                    cuts.append(cut)
                    children.append(child)
                    last = child
            return made(node.dim, tuple(cuts), tuple(children))

        def both(one: Node, other: Node) -> Node:
            ones, others = one.children, other.children
            pair = ones[0], others[0]
            last = memo.get(pair) or go(*pair)
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
                child = memo.get(pair) or go(*pair)
                if child is not last:
                    cuts.append(cut)
                    children.append(child)
                    last = child
            return made(one.dim, tuple(cuts), tuple(children))

        return go(one, other)

    def mapped(self, node: Node, change: Callable[[Any], Node]) -> Node:
        """The diagram with other leaves."""
        memo: dict[Node, Node] = {}

        def go(node: Node) -> Node:
            found = memo.get(node)
            if found is None:
                if node.dim == END:
                    found = change(node.value)
                else:
                    found = self.node(node.dim, node.cuts, [go(child) for child in node.children])
                memo[node] = found
            return found

        return go(node)

    def grafted(self, node: Node, change: Callable[[Any], Node]) -> Node:
        """The diagram with other diagrams in place of leaves."""
        memo: dict[Node, Node] = {}

        def go(node: Node) -> Node:
            found = memo.get(node)
            if found is None:
                if node.dim == END:
                    found = change(node.value)
                else:
                    found = self.chosen(node.dim, node.cuts, [go(child) for child in node.children])
                memo[node] = found
            return found

        return go(node)

    def within(self, node: Node, region: Mapping[int, Intervals]) -> Node:
        """The function in a region, simpler: what it is elsewhere does not matter."""
        memo: dict[Node, Node] = {}
        mask = sum(1 << dim for dim in region)

        def go(node: Node) -> Node:
            if not node.support & mask:
                return node
            found = memo.get(node)
            if found is None:
                if node.dim not in region:
                    found = self.node(node.dim, node.cuts, [go(child) for child in node.children])
                else:
                    reached = dict.fromkeys(_reached(node, region[node.dim]))
                    kept = [go(child) if child in reached else None for child in node.children]
                    last = next(child for child in kept if child is not None)
                    filled = [last := child if child is not None else last for child in kept]
                    found = self.node(node.dim, node.cuts, filled)
                memo[node] = found
            return found

        return go(node) if mask else node

    def without(self, node: Node, dim: int, number: int) -> Node:
        """The function with another value for a number that no packet has in a dimension: that of the one before it."""
        memo: dict[Node, Node] = {}

        def go(node: Node) -> Node:
            if node.dim > dim:
                return node
            found = memo.get(node)
            if found is None:
                found = memo[node] = made(node)
            return found

        def made(node: Node) -> Node:
            if node.dim < dim:
                return self.node(node.dim, node.cuts, [go(child) for child in node.children])
            children = list(node.children)
            place = bisect_right(node.cuts, number)
            if (0, *node.cuts)[place] == number and (*node.cuts, self.sizes[dim])[place] == number + 1:
                children[place] = children[place - 1 if place else 1]
            return self.node(dim, node.cuts, children)

        return go(node)

    def substituted(
        self, node: Node, values: Mapping[int, Substitute], either: Callable[[Node, Node], Node | None]
    ) -> Node:
        """The function with numbers for some dimensions, all at once; ``either`` joins where a number is not known."""
        mask = sum(1 << dim for dim in values)
        memo: dict[Node, Node] = {}

        def go(node: Node) -> Node:
            if not node.support & mask:
                return node
            found = memo.get(node)
            if found is None:
                found = memo[node] = made(node)
            return found

        def made(node: Node) -> Node:
            value = values.get(node.dim, node.dim)
            if node.dim not in values:
                return self.chosen(node.dim, node.cuts, [go(child) for child in node.children])
            if isinstance(value, int):
                return go(node.children[bisect_right(node.cuts, value)])
            if isinstance(value, Unknown):
                found = node.children if value.within is None else _reached(node, value.within)
                return self.joined([go(child) for child in dict.fromkeys(found)], either)
            children = [go(child) for child in node.children]
            if not value.flipped:
                return self.chosen(value.dim, node.cuts, children)
            return self.chosen(value.dim, *_flipped(node.cuts, children, value.flipped, self.sizes[value.dim]))

        return go(node)

    def joined(self, nodes: Iterable[Node], join: Callable[[Node, Node], Node | None]) -> Node:
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


_BEYOND = 1 << 200
"""Greater than every number."""


def _within(node: Node, dim: int, low: int, high: int) -> tuple[list[int], list[Node]]:
    """The cuts and children of a node from ``low`` up to, but without, ``high``."""
    if node.dim != dim:
        return [], [node]
    first = bisect_right(node.cuts, low)
    last = bisect_right(node.cuts, high - 1)
    return list(node.cuts[first:last]), list(node.children[first : last + 1])


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
