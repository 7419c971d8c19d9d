"""Conditions as diagrams: where they hold, where they do not, and where they are undecidable."""

from __future__ import annotations

from itertools import product

from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import contains, difference, intersection, union
from istio_init.netfilter.rules import AnyOf, Cause, Lookup, Never, Openness, Test, Undecided
from istio_init.space.boxes import meeting
from istio_init.space.layout import NO_SOCKET, TEMPLATE, Layout
from istio_init.space.presence import OF_CONNECTIONS, constant, presence
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Box, Condition, Key
    from istio_init.space.boxes import Region
    from istio_init.space.diagram import Diagrams, Node

    Derived = Callable[[Field], "Node"]

TEMPLATE_READ = Cause(Openness.NOT_MODELLED, "what rules see of a connection before it is looked up")
"""x_tables reads a template's fields, which are what the last packet left there; for nft it has none but the state."""


class Maybe(Value):
    """Nobody can tell, for these causes."""

    causes: frozenset[Cause]


class Truths:
    """Makes diagrams of conditions. Their leaves are True, False and `Maybe`.

    ``derived`` gives a diagram of what the kernel works out from a packet and its surroundings, its leaves the field's
    number, or a `Cause` where it cannot be told.
    """

    def __init__(self, diagrams: Diagrams, layout: Layout, derived: Derived, own: Collection[int] = ()) -> None:
        """``own`` are this machine's addresses, which packets of its own come from and others go to."""
        self.diagrams = diagrams
        self.layout = layout
        self.derived = derived
        self.own = frozenset(own)
        self.yes = diagrams.leaf(True)
        self.no = diagrams.leaf(False)

    def node(self, condition: Condition) -> Node:
        """Where a condition holds."""
        match condition:
            case Test():
                region = self.region(condition)
                return self._test(condition) if region is None else self.within(region)
            case Lookup():
                return self._lookup(condition)
            case AnyOf(options, negated):
                found = self.any_of([self.all_of([self.node(each) for each in option]) for option in options])
                return self.negated(found) if negated else found
            case Never():
                return self.no
            case Undecided(cause) if cause in self.layout.answers:
                return self.diagrams.test(self.layout.answers[cause], ((1, 1),), self.yes, self.no)
            case Undecided(cause):
                return self.maybe(cause)

    def region(self, condition: Condition) -> Region | None:
        """The one region where a condition holds for certain, and outside of which it does not; None if it is none."""
        match condition:
            case Test(field, within, mask, negated, if_absent):
                return self._region(field, within, mask, negated, if_absent)
            case Lookup((key,), elements, negated, if_absent) if elements.is_complete:
                within = union(within for (within,) in elements.boxes)
                return self._region(key.field, within, key.mask, negated, if_absent)
            case _:
                return None

    def within(self, region: Region) -> Node:
        """True in a region."""
        return self.choice(region, self.yes, self.no)

    def choice(self, region: Region, yes: Node, no: Node) -> Node:
        """One leaf in a region, another one outside of it."""
        if not all(region.values()):
            return no
        for dim in sorted(region, reverse=True):
            yes = self.diagrams.test(dim, region[dim], yes, no)
        return yes

    def either_of(self, truth: Node, yes: Node, no: Node) -> Node:
        """One diagram where something is true, which can always be told, and another one elsewhere."""
        nowhere = self.diagrams.leaf(_NO_VALUE)

        def inside(one: Node, other: Node) -> Node | None:
            return None if one.children else (other if one is self.yes else nowhere)

        def outside(one: Node, other: Node) -> Node | None:
            return None if one.children else (nowhere if one is self.yes else other)

        def join(one: Node, other: Node) -> Node | None:
            if one is nowhere or other is nowhere:
                return other if one is nowhere else one
            return None

        combine = self.diagrams.combine
        return combine(combine(truth, yes, inside), combine(truth, no, outside), join)

    def stepped(self, field: Field, starts: Sequence[int], children: Sequence[Node]) -> Node:
        """One diagram from each start on, up to the next: by the number of a field that is not split, or in order."""
        return self.diagrams.stepped(self.layout.digits(field), starts, children)

    def maybe(self, *causes: Cause) -> Node:
        """Nobody can tell."""
        return self.diagrams.leaf(Maybe(frozenset(causes)))

    def all_of(self, nodes: list[Node]) -> Node:
        """Where all hold."""
        return self.diagrams.joined([self.yes, *nodes], self._both)

    def any_of(self, nodes: list[Node]) -> Node:
        """Where any holds."""
        return self.diagrams.joined([self.no, *nodes], self._either)

    def negated(self, node: Node) -> Node:
        """Where it does not hold."""
        opposite = {True: self.no, False: self.yes}
        return self.diagrams.mapped(
            node, lambda value: self.diagrams.leaf(value) if isinstance(value, Maybe) else opposite[value]
        )

    def _both(self, one: Node, other: Node) -> Node | None:
        if one is self.no or other is self.no:
            return self.no
        if one is self.yes or one is other:
            return other
        if other is self.yes:
            return one
        return self._maybes(one, other)

    def _either(self, one: Node, other: Node) -> Node | None:
        if one is self.yes or other is self.yes:
            return self.yes
        if one is self.no or one is other:
            return other
        if other is self.no:
            return one
        return self._maybes(one, other)

    def _maybes(self, one: Node, other: Node) -> Node | None:
        if one.children or other.children:
            return None
        return self.diagrams.leaf(Maybe(one.value.causes | other.value.causes))

    def _values(self, field: Field, within: Intervals, mask: int | None) -> list[Region] | None:
        """Disjoint regions where a field that the packet has lies within intervals; None where it cannot be said so."""
        always = constant(field, self.layout.family)
        if always is not None:
            holds = contains(within, always if mask is None else always & mask)
            return [{}] if holds else []
        if field is Field.SOCKET:
            held = [number for number in (0, 1) if contains(within, number if mask is None else number & mask)]
            uids = union([((NO_SOCKET, NO_SOCKET),) if number == 0 else ((0, NO_SOCKET - 1),) for number in held])
            return [{self.layout.dim(Field.UID): uids}]
        field = Field.PROTOCOL if field is Field.CT_PROTOCOL else field
        return self.layout.regions(field, mask, within) if field in self.layout.groups else None

    def _region(
        self, field: Field, within: Intervals, mask: int | None, negated: bool, if_absent: bool
    ) -> Region | None:
        regions = self._values(field, within, mask)
        if regions is None or len(regions) > 1 or (field in OF_CONNECTIONS and self.layout.has_templates):
            return None
        region: Region | None = regions[0] if regions else None
        if negated:
            region = self._outside(region)
            if region is _SEVERAL:
                return None
        where = presence(self.layout, field)
        if not where:
            return _NOWHERE if region is None else region
        if not if_absent:
            return _NOWHERE if region is None else meeting(region, where)
        [(dim, present), *more] = where.items()
        if more or (region is not None and region.keys() - {dim}):
            return None
        inside = () if region is None else intersection(region.get(dim, self._whole(dim)), present)
        return {dim: union([inside, difference(self._whole(dim), present)])}

    def _outside(self, region: Region | None) -> Region | None:
        """All but a region, where that is one: None is nowhere."""
        if region is None:
            return {}
        if len(region) > 1:
            return _SEVERAL
        for dim, within in region.items():
            rest = difference(self._whole(dim), within)
            return {dim: rest} if rest else None
        return None

    def _whole(self, dim: int) -> Intervals:
        return ((0, self.layout.sizes[dim] - 1),)

    def _test(self, test: Test) -> Node:
        """A test whose packets are no single region."""
        field, within, mask = test.field, test.within, test.mask
        found = self._value(field, within, mask)
        if test.negated:
            found = self.negated(found)
        return self._where_present([field], found, test.if_absent)

    def _value(self, field: Field, within: Intervals, mask: int | None) -> Node:
        """Whether a field that the packet has lies within intervals."""
        regions = self._values(field, within, mask)
        if regions is not None:
            return self.any_of([self.within(region) for region in regions])
        if field in self.layout.groups:
            return self._masked(field, within, mask)

        def answer(number: int | Cause) -> Node:
            if isinstance(number, Cause):
                return self.maybe(number)
            return self.yes if contains(within, number if mask is None else number & mask) else self.no

        return self.diagrams.mapped(self.derived(field), answer)

    def _masked(self, field: Field, within: Intervals, mask: int | None) -> Node:
        """Whether bits lie within intervals that are too many as intervals of the whole: told of addresses of this
        machine, and where the first bits rule it out."""
        cause = Cause(Openness.NOT_MODELLED, f"{field.value} under a mask")
        if len(self.layout.groups[field]) > 1 or mask is None:
            return self.maybe(cause)
        dim = self.layout.dim(field)
        hull = self.layout.hull(field, mask, within)
        points = self.own if field in (Field.SOURCE, Field.DESTINATION) else ()
        starts = {0, *points, *(point + 1 for point in points)}
        starts.update(edge for low, high in hull for edge in (low, high + 1))
        ordered = sorted(starts - {self.layout.sizes[dim]})
        children = []
        for start in ordered:
            if start in points:
                children.append(self.yes if contains(within, start & mask) else self.no)
            else:
                children.append(self.maybe(cause) if contains(hull, start) else self.no)
        return self.diagrams.node(dim, ordered[1:], children)

    def _where_present(self, fields: Iterable[Field], present: Node, if_absent: bool) -> Node:
        if present is (self.yes if if_absent else self.no):
            return present  # Of a template, too.
        found = list(dict.fromkeys(fields))
        guard = self.all_of([self.within(presence(self.layout, field)) for field in found])
        present = self.all_of([guard, present])
        if if_absent:
            present = self.any_of([self.negated(guard), present])
        if not self.layout.has_templates or OF_CONNECTIONS.isdisjoint(found):
            return present
        template = self.within({self.layout.track: ((TEMPLATE, TEMPLATE),)})
        unclear = self.all_of([template, self.maybe(TEMPLATE_READ)])
        return self.any_of([unclear, self.all_of([self.negated(template), present])])

    def _lookup(self, lookup: Lookup) -> Node:
        region = self.region(lookup)
        if region is not None:
            return self.within(region)
        if not lookup.elements.is_complete:
            unread = self.maybe(Cause(Openness.NOT_GIVEN, f"the elements of {lookup.elements.name}"))
            return self._where_present([key.field for key in lookup.keys], unread, lookup.if_absent)
        found = self.any_of([self.box(lookup.keys, box) for box in lookup.elements.boxes])
        if lookup.negated:
            found = self.negated(found)
        return self._where_present([key.field for key in lookup.keys], found, lookup.if_absent)

    def box(self, keys: tuple[Key, ...], box: Box) -> Node:
        """Whether the keys, which the packet has, lie in a box."""
        parts = [self._values(key.field, within, key.mask) for key, within in zip(keys, box, strict=True)]
        if all(part is not None for part in parts):
            regions = [meeting(*found) for found in product(*[part for part in parts if part is not None])]
            return self.any_of([self.within(region) for region in regions])
        return self.all_of([self._value(key.field, within, key.mask) for key, within in zip(keys, box, strict=True)])

    def present(self, keys: tuple[Key, ...]) -> Node:
        """Whether the packet has the keys."""
        return self._where_present([key.field for key in keys], self.yes, False)

    def boxed(self, keys: tuple[Key, ...], box: Box) -> Node:
        """Whether the packet has the keys, and they lie in a box."""
        return self._where_present([key.field for key in keys], self.box(keys, box), False)


_NOWHERE: Region = {Layout.track: ()}
_SEVERAL: Region = {}
_NO_VALUE = object()
"""What no diagram has as a value."""
