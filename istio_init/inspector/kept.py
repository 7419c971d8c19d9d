"""What is made of rules once where several namespaces have the same ones, as most pods of a node do."""

from __future__ import annotations

MOST = 16
"""Results of a kind that are kept."""


class Same:
    """Things as a key of what is kept: equal where they are the very same, which costs no look into them."""

    __slots__ = ("things",)

    def __init__(self, *things: object) -> None:
        self.things = things

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same) or len(other.things) != len(self.things):
            return False
        return all(one is another for one, another in zip(self.things, other.things, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.things)))
