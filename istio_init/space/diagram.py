"""Decision diagrams: made (`Making`), and made of others (`Rebuilding`)."""

from __future__ import annotations

from istio_init.space.making import Making
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
    from collections.abc import Callable, Mapping
    from typing import Any

    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.making import Join

__all__ = ["END", "Diagrams", "Moved", "Node", "Substitute", "TooManyPieces", "Unknown", "blocks", "leaves", "value_at"]


class Diagrams(Making):
    """All that is done with diagrams. Raises `TooManyPieces` where they would have too many edges in all."""

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
