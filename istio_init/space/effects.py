"""What rules do to packets, as programs."""

from __future__ import annotations

from istio_init.netfilter.fields import CtState, Field
from istio_init.netfilter.rules import (
    Assign,
    AssignFrom,
    Cause,
    Forget,
    Nat,
    Openness,
    Tproxy,
    Untrack,
    Zone,
)
from istio_init.space.bits import together
from istio_init.space.diagram import Moved, Unknown
from istio_init.space.layout import ENDS, NOT_YET, ORIGINAL, REPLY, TEMPLATE, TRACKED, UNTRACKED
from istio_init.space.truth import TEMPLATE_READ
from istio_init.space.ways import GOING, doubts
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Box, Effect, Hook, Key
    from istio_init.space.boxes import Region
    from istio_init.space.composing import Ways
    from istio_init.space.diagram import Node, Substitute
    from istio_init.space.layout import Layout
    from istio_init.space.translation import Translation
    from istio_init.space.truth import Truths
    from istio_init.space.ways import RuleDecider

UNREAD = Cause(Openness.NOT_GIVEN, "the elements of a map")

CONNECTION_FIELDS = frozenset([Field.CT_MARK, Field.CT_ZONE, Field.CT_STATUS, *ORIGINAL, *REPLY])


class Effects:
    """Makes programs of effects: each with what follows it in its rule."""

    def __init__(self, ways: Ways, truths: Truths, translation: Translation) -> None:
        self.ways = ways
        self.truths = truths
        self.translation = translation
        self.layout: Layout = truths.layout

    def effect(
        self, effect: Effect | object, rest: Node, decider: RuleDecider, hook: Hook | None, given: Region
    ) -> Node:
        """What an effect does, and what follows it, for packets of a region."""
        if isinstance(effect, Assign | AssignFrom | Forget) and effect.field in ENDS:
            rest = self.ways.then(self.ways.end(GOING, {self.layout.rewritten: 1}), rest)
        match effect:
            case Assign():
                return self.ways.then(self._assigned(effect), rest)
            case AssignFrom():
                return self._assigned_from(effect, rest, decider)
            case Forget(field, cause):
                return self.ways.then(self._forgotten(field, cause), rest)
            case Nat():
                return self.translation.nat(effect, decider, hook, given)
            case Tproxy():
                return self.translation.tproxy(effect, rest, decider)
            case Untrack():
                return self.ways.then(self._untracked(), rest)
            case Zone(zone, even_untracked):
                known = Unknown(zone) if isinstance(zone, Cause) else zone
                return self.ways.then(self._in_zone(known, even_untracked=even_untracked), rest)
        raise AssertionError(f"{effect!r} is no effect")

    def numbers(self, values: dict[Field, int]) -> dict[int, Substitute]:
        """The numbers of some fields' values, by dimension."""
        found: dict[int, Substitute] = {}
        for field, value in values.items():
            found.update(self.layout.numbers(field, value))
        return found

    def copied(self, field: Field, source: Field) -> dict[int, Substitute]:
        """A field's value in another field of the same size."""
        pairs = zip(self.layout.dims(field), self.layout.dims(source), strict=True)
        return {dim: Moved(other) for dim, other in pairs}

    def _assigned(self, assign: Assign) -> Node:
        """Give a field another value. A connection that is missing counts as 0, and is not written to.

        What is written to a template stays with it; what it holds is not known.
        """
        field, layout, ways = assign.field, self.layout, self.ways
        if field not in layout.groups:
            return ways.going  # Nothing that is told apart.
        done = ways.end(GOING, self._values(assign))
        tracked = self.truths.within({layout.track: ((TRACKED, TRACKED),)})
        if field in CONNECTION_FIELDS:
            return ways.where(tracked, done, ways.going)
        if not any(source in CONNECTION_FIELDS for source, _ in assign.parts):
            return done
        parts = tuple([part for part in assign.parts if part[0] not in CONNECTION_FIELDS])
        without = ways.end(GOING, self._values(assign.replace(parts=parts)))
        template = self.truths.within({layout.track: ((TEMPLATE, TEMPLATE),)})
        unclear: dict[int, Substitute] = {group.dim: Unknown(TEMPLATE_READ) for group in layout.groups[field]}
        return ways.where(tracked, done, ways.where(template, ways.end(GOING, unclear), without))

    def _values(self, assign: Assign) -> dict[int, Substitute]:
        """The new numbers of a field's groups of bits."""
        groups = self.layout.groups[assign.field]
        cause = Cause(Openness.NOT_MODELLED, f"the {assign.field.value} that a rule makes of other fields")
        found: dict[int, Substitute] = {}
        for place, group in enumerate(groups):
            value: Substitute = together(assign.constant, group.mask)
            for source, mask in assign.parts:
                if not mask & group.mask:
                    continue
                others = self.layout.groups.get(source, ())
                fits = [each.mask for each in others] == [each.mask for each in groups]
                if not fits or group.mask & ~mask or not isinstance(value, int):
                    value = Unknown(cause)
                    break
                value = Moved(others[place].dim, value)
            if value != Moved(group.dim):
                found[group.dim] = value
        return found

    def _forgotten(self, field: Field, cause: Cause) -> Node:
        changes: dict[int, Substitute] = {group.dim: Unknown(cause) for group in self.layout.groups.get(field, ())}
        return self.ways.end(GOING, changes)

    def _untracked(self) -> Node:
        changes = {self.layout.track: UNTRACKED, **self.numbers({Field.CT_STATE: int(CtState.UNTRACKED)})}
        return self.truths.choice(
            {self.layout.track: ((NOT_YET, NOT_YET),)}, self.ways.end(GOING, changes), self.ways.going
        )

    def _in_zone(self, zone: int | Unknown, *, even_untracked: bool) -> Node:
        changes: dict[int, Substitute] = {self.layout.track: TEMPLATE, self.layout.dim(Field.CT_ZONE): zone}
        changes.update(self.numbers({Field.CT_STATE: int(CtState.NEW)}))
        free: Intervals = ((NOT_YET, NOT_YET), (UNTRACKED, UNTRACKED)) if even_untracked else ((NOT_YET, NOT_YET),)
        return self.truths.choice({self.layout.track: free}, self.ways.end(GOING, changes), self.ways.going)

    def _assigned_from(self, assign: AssignFrom, rest: Node, decider: RuleDecider) -> Node:
        otherwise = rest if assign.otherwise_goes_on else self.ways.going
        programs: list[tuple[Box, Node]] = []
        for box, value in assign.values:
            changed = self._assigned(Assign(assign.field, (), value))
            programs.append((box, self.ways.then(changed, rest)))
        if assign.is_complete:
            return self.dispatched(assign.keys, programs, otherwise, decider, is_complete=True)
        forgotten = self.ways.then(self._forgotten(assign.field, UNREAD), rest)
        either = self.ways.either(forgotten, otherwise, doubts([UNREAD], decider))
        return self.ways.where(self.truths.present(assign.keys), either, otherwise)

    def dispatched(
        self,
        keys: tuple[Key, ...],
        programs: Sequence[tuple[Box, Node]],
        rest: Node,
        decider: RuleDecider,
        *,
        is_complete: bool,
    ) -> Node:
        """The program of the first box that has the keys, or ``rest``. Nobody can tell of a map that may change."""
        ways = self.ways
        if not is_complete:
            either = ways.either(ways.stopped(Kind.UNKNOWN, decider, UNREAD), rest, doubts([UNREAD], decider))
            return ways.where(self.truths.present(keys), either, rest)
        nowhere = ways.nothing
        found = [ways.where(self.truths.boxed(keys, box), program, nowhere) for box, program in programs]

        def first(one: Node, other: Node) -> Node | None:
            if one is nowhere:
                return other
            return None if one.children else one

        return ways.diagrams.joined([*found, rest], first)
