"""Programs, and how one thing happens after another.

A program is a diagram of packets as they are where it begins. Its leaves are `Ends`, the ways that a packet can take:
several where it is undecidable which. What a first program does to a packet is put in the place of what a second one
looks at, so that both together are a program again.
"""

from __future__ import annotations

from operator import itemgetter

from istio_init.netfilter.rules import Cause
from istio_init.space.bits import apart
from istio_init.space.diagram import Moved, Substitute, TooManyPieces, Unknown, leaves
from istio_init.space.ways import (
    ENDED,
    GOING,
    NO_DOUBTS,
    Changes,
    Decider,
    Delivery,
    Doubt,
    Ends,
    Parts,
    Stop,
    Way,
    doubts,
)
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from istio_init.space.diagram import Diagrams, Node


MOST_WAYS = 512
"""So many ways a packet may take where rules leave it undecided, as many as the tracer follows."""


class Ways:
    """Makes programs, and one of two. Nothing is noted of dimensions that are ``unseen``."""

    def __init__(self, diagrams: Diagrams, unseen: frozenset[int] = frozenset()) -> None:
        self.diagrams = diagrams
        self._unseen = unseen
        self._ways: dict[object, Way] = {}
        self._equal: dict[object, object] = {}
        self._known: dict[int, tuple[object, object]] = {}
        """By identity a fact, which is kept for that, and the one that equals it."""

        self._after: dict[tuple[Way, Way], Way] = {}
        self.going = self.end(GOING)
        self.nothing = diagrams.leaf(Ends(frozenset(), None, NO_DOUBTS))
        """The program of no packet at all."""

    def way(
        self,
        flow: int,
        changes: Changes = (),
        delivery: Delivery | None = None,
        passed: Decider | None = None,
        returned: Decider | None = None,
        stop: Stop | None = None,
    ) -> Way:
        """The one way with these facts."""
        delivery, passed, returned, stop = map(self._one, (delivery, passed, returned, stop))
        key = flow, changes, id(delivery), id(passed), id(returned), id(stop)
        found = self._ways.get(key)
        if found is None:
            found = self._ways[key] = Way(flow, changes, delivery, passed, returned, stop)
        return found

    def _one(self, fact: Any) -> Any:
        """The one of equal facts, told by its identity from then on: their hashes take long."""
        if fact is None:
            return None
        known = self._known.get(id(fact))
        if known is None:
            known = self._known[id(fact)] = fact, self._equal.setdefault(fact, fact)
        return known[1]

    def end(
        self,
        flow: int,
        changes: dict[int, Substitute] | None = None,
        delivery: Delivery | None = None,
        passed: Decider | None = None,
        returned: Decider | None = None,
        stop: Stop | None = None,
    ) -> Node:
        """The program that does one thing to all packets."""
        noted = [each for each in sorted((changes or {}).items()) if each[0] not in self._unseen]
        made = self.way(flow, tuple(noted), delivery, passed, returned, stop)
        return self.alone(made)

    def alone(self, way: Way) -> Node:
        """The program that has one way."""
        return self.diagrams.leaf(Ends(frozenset([way]), way, NO_DOUBTS))

    def stopped(self, kind: Kind, decider: Decider | None, cause: Cause | None = None) -> Node:
        """The program that ends all packets."""
        return self.end(ENDED, stop=Stop(kind, decider, cause))

    def either(self, one: Node, other: Node, doubtful: frozenset[Doubt]) -> Node:
        """Both programs, where it is undecidable which; the first one has the main way."""

        def join(one: Node, other: Node) -> Node | None:
            if one is other:
                return one
            return None if one.children or other.children else self._ends(one.value, other.value, doubtful)

        return self.diagrams.combine(one, other, join)

    def apart(self, nodes: Iterable[Node]) -> Node:
        """Programs that are for different packets, together."""
        return self.diagrams.joined([self.nothing, *nodes], self._apart)

    def _apart(self, one: Node, other: Node) -> Node | None:
        if one is self.nothing or one is other:
            return other
        if other is self.nothing:
            return one
        return None if one.children or other.children else self._ends(one.value, other.value, NO_DOUBTS)

    def _ends(self, one: Ends, other: Ends, doubtful: frozenset[Doubt]) -> Node:
        """All of two ends; where they are the same ones nothing has to be told."""
        if one.ways == other.ways:
            doubtful = NO_DOUBTS
        return self._leaf(one.ways | other.ways, one.main or other.main, one.doubts | other.doubts | doubtful)

    def _leaf(self, ways: frozenset[Way], main: Way | None, doubtful: frozenset[Doubt]) -> Node:
        return self.diagrams.leaf(Ends(ways, main, doubtful if len(ways) > 1 else NO_DOUBTS))

    def _with_flow(self, way: Way, flow: int) -> Way:
        return self.way(flow, way.changes, way.delivery, way.passed, way.returned, way.stop)

    def where(self, truth: Node, program: Node, otherwise: Node, decider: Decider | None = None) -> Node:
        """A program where something is true, else another one; both where that is undecidable."""
        diagrams = self.diagrams
        yes, no = diagrams.leaf(True), diagrams.leaf(False)

        def inside(truth: Node, program: Node) -> Node | None:
            if truth.children:
                return None
            return self.nothing if truth is no else program

        def outside(truth: Node, program: Node) -> Node | None:
            if truth.children:
                return None
            return self.nothing if truth is yes else program

        def choice(truth: Node, program: Node) -> Node | None:
            if truth.children:
                return None
            return otherwise if truth is no else program

        causes = {cause for value in leaves(truth) if not isinstance(value, bool) for cause in value.causes}
        if not causes and not otherwise.children:
            return diagrams.combine(truth, program, choice)
        done = diagrams.combine(truth, program, inside)
        rest = diagrams.combine(truth, otherwise, outside)
        found = diagrams.combine(rest, done, self._apart)
        return self._explained(found, doubts(causes, decider)) if causes else found

    def _explained(self, node: Node, doubtful: frozenset[Doubt]) -> Node:
        """The program, with doubts wherever there are several ways and none is said yet."""

        def explained(ends: Ends) -> Node:
            if len(ends.ways) < 2 or ends.doubts:
                return self.diagrams.leaf(ends)
            return self.diagrams.leaf(Ends(ends.ways, ends.main, doubtful))

        return self.diagrams.mapped(node, explained)

    def then(self, first: Node, second: Node) -> Node:
        """One program after the other, for packets that go on after the first."""
        if first is self.going or second is self.going:
            return second if first is self.going else first
        groups = self._groups(first, second)
        if len(groups) < 2:
            return self._after_all(first, next(iter(groups), second))
        parts = []
        stays: set[Way] | None = {way for ends in leaves(first) for way in ends.ways if way.flow != GOING}
        for program, ways in groups.items():
            kept = ways | stays if stays else ways
            stays = None
            parts.append(self._after_all(self.part(first, kept), program))
        return self.apart(parts)

    def _groups(self, first: Node, second: Node) -> dict[Node, set[Way]]:
        """The ways that go on after the first program, by what the second one is for what they have changed."""
        by_values: dict[Changes, set[Way]] = {}
        for ends in leaves(first):
            for way in ends.ways:
                if way.flow == GOING:
                    seen = tuple([each for each in way.changes if second.support >> each[0] & 1])
                    by_values.setdefault(seen, set()).add(way)
        groups: dict[Node, set[Way]] = {}
        for values, ways in by_values.items():
            groups.setdefault(self.substituted(second, dict(values)), set()).update(ways)
        return groups

    def substituted(self, program: Node, values: dict[int, Substitute]) -> Node:
        """The program for packets of which something is known."""
        if not values:
            return program
        unknown = [value.why for value in values.values() if isinstance(value, Unknown)]
        doubtful = doubts(each for each in unknown if isinstance(each, Cause))

        def either(one: Node, other: Node) -> Node | None:
            if one is other:
                return one
            return None if one.children or other.children else self._ends(one.value, other.value, doubtful)

        return self.diagrams.substituted(program, values, either)

    def part(self, program: Node, kept: set[Way]) -> Node:
        """The program with some of its ways alone."""

        def only(ends: Ends) -> Node:
            self.diagrams.spend(len(ends.ways))
            ways = ends.ways & kept
            main = ends.main if ends.main in ways else None
            return self.diagrams.leaf(Ends(ways, main, ends.doubts)) if ways else self.nothing

        return self.diagrams.mapped(program, only)

    def _after_all(self, first: Node, second: Node) -> Node:
        """One program after the other, which is told in terms of what packets were before the first."""
        going = self.going
        memo: dict[tuple[Node, Node], Node] = {}

        def join(one: Node, other: Node) -> Node | None:
            if one.children:
                return one if other is going else None
            if one is going:
                return other
            if all(way.flow != GOING for way in one.value.ways):
                return one
            if other.children:
                return None
            found = memo.get((one, other))
            if found is None:
                found = memo[one, other] = self._sequence(one.value, other.value)
            return found

        return self.diagrams.combine(first, second, join)

    def _sequence(self, first: Ends, second: Ends) -> Node:
        self.diagrams.spend(4 * len(first.ways) * len(second.ways))
        ways = {way for way in first.ways if way.flow != GOING}
        for way in first.ways:
            if way.flow == GOING:
                ways.update([self.after(way, each) for each in second.ways])
        main = first.main
        if main is not None and main.flow == GOING:
            main = None if second.main is None else self.after(main, second.main)
        if len(ways) > MOST_WAYS:
            raise TooManyPieces
        if len(ways) > 1:
            return self.diagrams.leaf(Ends(frozenset(ways), main, first.doubts | second.doubts))
        # One of several ways, which others join again, keeps the doubts.
        return self.diagrams.leaf(Ends(frozenset(ways), main, first.doubts if len(first.ways) == 1 else NO_DOUBTS))

    def after(self, way: Way, then: Way) -> Way:
        """What happens to a packet by one way, and by another one after it."""
        found = self._after.get((way, then))
        if found is None:
            found = self._after[way, then] = self._made_after(way, then)
        return found

    def _made_after(self, way: Way, then: Way) -> Way:
        before = dict(way.changes)
        kept = way.changes
        if then.changes:
            changed = {each[0]: _resolved(each, before) for each in then.changes}
            left = [each for each in kept if each[0] not in changed]
            left += [each for each in changed.values() if not is_same(*each)]
            kept = tuple(sorted(left, key=itemgetter(0)))
        delivery = then.delivery
        passed, returned = (then.passed, then.returned) if way.delivery is None else (None, None)
        if delivery is not None and not (isinstance(delivery.address, int) and isinstance(delivery.port, int)):
            delivery = delivery.replace(
                address=resolved_parts(delivery.address, before),
                port=None if delivery.port is None else resolved(delivery.port, before),
            )
        if way.delivery is not None and (
            delivery is None or way.delivery.kind is Kind.TPROXY or delivery.kind is Kind.FORWARD
        ):
            delivery = way.delivery
        return self.way(then.flow, kept, delivery, passed or way.passed, way.returned or returned, then.stop)

    def ending(self, program: Node, flows: dict[int, int]) -> Node:
        """The program with other flows in place of some."""

        def changed(ends: Ends) -> Node:
            if not any(way.flow in flows for way in ends.ways):
                return self.diagrams.leaf(ends)
            ways = {way: self._with_flow(way, flows.get(way.flow, way.flow)) for way in ends.ways}
            changed = frozenset(ways.values())
            kept = ends.doubts if len(changed) > 1 or len(ends.ways) == 1 else NO_DOUBTS
            return self.diagrams.leaf(Ends(changed, None if ends.main is None else ways[ends.main], kept))

        return self.diagrams.mapped(program, changed)


def resolved_parts(value: int | Parts | None, before: dict[int, Substitute]) -> int | Parts | None:
    """The same of a number in parts: one number where all of them are known."""
    if not isinstance(value, Parts):
        return value
    return joint((mask, resolved(part, before)) for mask, part in value.values)


def joint(parts: Iterable[tuple[int, Substitute]]) -> int | Parts:
    """One number of its parts, if they are known."""
    values = tuple(parts)
    known = [apart(part, mask) for mask, part in values if isinstance(part, int)]
    return sum(known) if len(known) == len(values) else Parts(values)


def _resolved(change: tuple[int, Substitute], before: dict[int, Substitute]) -> tuple[int, Substitute]:
    """A change in terms of what dimensions were before; the same object where that is the same."""
    dim, value = change
    return (dim, resolved(value, before)) if isinstance(value, Moved) else change


def is_same(dim: int, value: Substitute) -> bool:
    """Whether a dimension's number is what it was."""
    return isinstance(value, Moved) and value.dim == dim and not value.flipped


def resolved(value: Substitute, before: dict[int, Substitute]) -> Substitute:
    """A value that is told in terms of what dimensions are, in terms of what they were before that."""
    if not isinstance(value, Moved) or value.dim not in before:
        return value
    found = before[value.dim]
    if isinstance(found, int):
        return found ^ value.flipped
    return found if isinstance(found, Unknown) else Moved(found.dim, found.flipped ^ value.flipped)
