"""How large a part of all places has each of a diagram's values."""

from __future__ import annotations

from itertools import pairwise

from istio_init.space.nodes import END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from istio_init.space.nodes import Node

    Parts = dict[Hashable, float]


def shares(top: Node, sizes: Sequence[int]) -> Parts:
    """Of each value its part, where every number of a dimension is as likely as any other."""
    return _shares(top, sizes, {})


def _shares(node: Node, sizes: Sequence[int], known: dict[Node, Parts]) -> Parts:
    if node.dim == END:
        return {node.value: 1.0}
    found = known.get(node)
    if found is None:
        found = known[node] = {}
        size = sizes[node.dim]
        for child, (low, high) in zip(node.children, pairwise((0, *node.cuts, size)), strict=True):
            for value, share in _shares(child, sizes, known).items():
                found[value] = found.get(value, 0.0) + share * ((high - low) / size)
    return found
