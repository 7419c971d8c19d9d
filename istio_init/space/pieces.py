"""Packets that share their fate so far, and how they are divided and put together."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.tables import Table
from istio_init.space.intervals import contains, union
from istio_init.space.space import CONNMARK, INTERFACE, MARK, TRACKING, UNTRACKED, Region, Test, split
from istio_init.trace.engine import Outcome
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


_NO_CONNMARK = (CONNMARK, 0)
"""What every packet begins with."""


class Decider(Value):
    """The rules that decide: numbers ``first`` to ``last`` of a chain. None stands for no rule at all."""

    table: Table
    chain: str
    first: int
    last: int
    rule: Rule


class Piece(Value):
    """A region of packets as they began, and what was done to all of them.

    ``changed`` are values that differ from those that they began with, by dimension; ``route`` is the number of the
    interface by which they will leave, where that is not the one they began with; ``returned`` says that they came in
    again by lo.
    """

    region: Region
    outcome: Outcome = Outcome("direct")
    decider: Decider | None = None
    changed: tuple[tuple[int, int], ...] = ()
    route: int | None = None
    entry_mark: int | None = None
    """The mark that they had been given before they entered the table."""

    returned: bool = False
    ended: bool = False

    def get(self, dimension: int) -> int | None:
        """The value of a dimension, where all packets of the piece have the same."""
        for each, value in self.changed:
            if each == dimension:
                return value
        if dimension < 0:
            return {CONNMARK: 0, TRACKING: UNTRACKED}[dimension]
        [(low, high), *more] = self.region[dimension]
        return low if low == high and not more else None

    def having(self, values: Mapping[int, int]) -> Piece:
        """The same packets with values changed."""
        changed = {**dict(self.changed), **values}
        return self.replace(changed=tuple(sorted(each for each in changed.items() if each != _NO_CONNMARK)))

    def split(self, test: Test) -> tuple[Piece | None, list[Piece]]:
        """The packets that pass a test as they are now, and the rest in disjoint pieces."""
        left = dict(test)
        for dimension in [each for each in test if each < 0 or any(each == one for one, _ in self.changed)]:
            value = self.get(dimension)
            assert value is not None
            if not contains(left.pop(dimension), value):
                return None, [self]
        inside, outside = split(self.region, left)
        if inside is None:
            return None, [self]
        return self.replace(region=inside), [self.replace(region=each) for each in outside]

    def by_mark(self) -> list[Piece]:
        """The packets in pieces of one class of marks each."""
        if self.get(MARK) is not None:
            return [self]
        return [
            self.replace(region=(*self.region[:MARK], ((number, number),), *self.region[MARK + 1 :]))
            for low, high in self.region[MARK]
            for number in range(low, high + 1)
        ]

    def leaving_by(self, interface: int) -> tuple[Piece | None, list[Piece]]:
        """The packets that will leave by an interface, and the rest."""
        if self.route is not None:
            return (self, []) if self.route == interface else (None, [self])
        return self.split({INTERFACE: ((interface, interface),)})


class Ways:
    """Where the packets of a chain went."""

    def __init__(self) -> None:
        self.going: list[Piece] = []
        self.returned: list[Piece] = []
        self.accepted: list[Piece] = []
        self.stopped: list[Piece] = []


class TooManyPieces(Exception):
    """The rules divide the connections into more pieces than were asked for."""


def merged(pieces: list[Piece]) -> list[Piece]:
    """The same packets in fewer pieces: those that differ in one dimension alone are put together."""
    if len(pieces) < 2:
        return pieces
    groups: dict[object, list[Piece]] = {}
    for piece in pieces:
        way = piece.route, piece.entry_mark, piece.returned, piece.ended
        groups.setdefault((piece.outcome, piece.decider, piece.changed, *way), []).append(piece)
    return [
        group[0].replace(region=region)
        for group in groups.values()
        for region in joined([piece.region for piece in group])
    ]


def joined(regions: list[Region]) -> list[Region]:
    """The same places in fewer regions, disjoint as before."""
    count = 0
    while count != len(regions) and len(regions) > 1:
        count = len(regions)
        for dimension in range(len(regions[0])):
            groups: dict[Region, list[Region]] = {}
            for region in regions:
                groups.setdefault(region[:dimension] + region[dimension + 1 :], []).append(region)
            if len(groups) < len(regions):
                regions = [_union_in(group, dimension) for group in groups.values()]
    return regions


def _union_in(group: list[Region], dimension: int) -> Region:
    first = group[0]
    if len(group) == 1:
        return first
    return (*first[:dimension], union([region[dimension] for region in group]), *first[dimension + 1 :])
