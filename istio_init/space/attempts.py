"""Layouts for the rules of some namespaces, of which a second one is tried where the first needs too many pieces."""

from __future__ import annotations

from istio_init.netfilter.rules import Undecided
from istio_init.netfilter.stages import NFT_FAMILIES
from istio_init.space.collecting import Uncollected
from istio_init.space.diagram import Diagrams, TooManyPieces
from istio_init.space.layout import Layout
from istio_init.space.namespace import Namespace
from istio_init.trace.routing import tos_mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    from istio_init.netfilter.family import Family
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.rules import Cause, Rule
    from istio_init.netfilter.stages import Netfilter

    Made = TypeVar("Made")
    Side = tuple[Netfilter, Host]

MOST_ANSWERS = 10
"""So many undecidable tests have each answer followed by itself, where rule sets are compared."""


class Attempts:
    """Namespaces of some layouts, each made once."""

    def __init__(self, family: Family, sides: Sequence[Side]) -> None:
        self.family = family
        self.sides = sides
        self._layouts: dict[bool, Layout] = {}
        self._namespaces: dict[bool, list[Namespace]] = {}

    def make(self, made: Callable[[Layout, list[Namespace]], Made]) -> Made:
        """What is made with ports before addresses, or, where that is too much, with addresses first."""
        with Uncollected():
            try:
                return made(*self._attempt(ports_first=True))
            except TooManyPieces:
                self._namespaces.pop(True, None)
            return made(*self._attempt(ports_first=False))  # Only here has what was made before been let go.

    def _attempt(self, *, ports_first: bool) -> tuple[Layout, list[Namespace]]:
        if ports_first not in self._layouts:
            answers = _answers(self.family, self.sides) if len(self.sides) > 1 else ()
            self._layouts[ports_first] = layout_of(self.family, self.sides, answers, ports_first=ports_first)
        layout = self._layouts[ports_first]
        if ports_first not in self._namespaces:
            diagrams = Diagrams(layout.sizes)
            self._namespaces[ports_first] = [Namespace(diagrams, layout, *side) for side in self.sides]
        return layout, self._namespaces[ports_first]


def _answers(family: Family, sides: Sequence[Side]) -> tuple[Cause, ...]:
    """The undecidable tests, so that rule sets are compared for each of their answers; none of too many."""
    found = {
        statement.cause: None
        for netfilter, _ in sides
        for rule in _rules(netfilter, family)
        for statement in rule.body
        if isinstance(statement, Undecided)
    }
    return tuple(found) if len(found) <= MOST_ANSWERS else ()


def layout_of(family: Family, sides: Sequence[Side], answers: tuple[Cause, ...] = (), *, ports_first: bool) -> Layout:
    """The dimensions that the rules of some namespaces tell apart."""
    rules = [rule for netfilter, _ in sides for rule in _rules(netfilter, family)]
    routing = [each for _, host in sides for each in (host.rules or {}).get(family, ())]
    marks = {each.mask for each in routing if each.mark is not None}
    tos_masks = {tos_mask(each.tos) for each in routing if each.tos is not None}
    return Layout(family, rules, marks, tos_masks=tos_masks, ports_first=ports_first, answers=answers)


def in_some_order(family: Family, sides: Sequence[Side], made: Callable[[Layout], Made]) -> Made:
    """What is made with ports before addresses, as most rules need it; with addresses first if that is too much."""
    try:
        return made(layout_of(family, sides, ports_first=True))
    except TooManyPieces:
        pass
    return made(layout_of(family, sides, ports_first=False))  # Only here has what was made before been let go.


def _rules(netfilter: Netfilter, family: Family) -> Iterator[Rule]:
    for table in netfilter.tables:
        if table.family in NFT_FAMILIES[family]:
            for chain in table.chains.values():
                yield from chain.rules
