"""The map: all new connections of a direction and family, divided by what becomes of them."""

from __future__ import annotations

from functools import partial

from istio_init.netfilter.packet import Direction
from istio_init.netfilter.rules import Test
from istio_init.space.attempts import Attempts
from istio_init.space.expected import NOWHERE, expected, only
from istio_init.space.leaving import Leaving
from istio_init.space.outcomes import Verdict, verdicts
from istio_init.space.regions import Packets
from istio_init.space.traffic import Map
from istio_init.space.walk import Walk
from istio_init.trace.result import Kind, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.netfilter.family import Family
    from istio_init.netfilter.fields import Field
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.stages import Netfilter
    from istio_init.space.diagram import Diagrams, Node
    from istio_init.space.layout import Layout
    from istio_init.space.namespace import Namespace


def classes(
    netfilter: Netfilter, host: Host, family: Family, direction: Direction, *, only_expected: bool = False
) -> Map:
    """All new connections of a direction and family, and attempts that no route leads anywhere for, in classes.

    `Space` makes both directions' sooner.

    Raises:
        TooManyPieces: the rules divide them into more than can be looked at.
    """
    return Space(netfilter, host, family).map(direction, only_expected=only_expected, refusals=True)


class Space:
    """The new connections of a family, as one namespace's rules divide them."""

    def __init__(self, netfilter: Netfilter, host: Host, family: Family) -> None:
        self._host = host
        self._attempts = Attempts(family, [(netfilter, host)])
        self._made: dict[tuple[Namespace, Direction, bool], tuple[Node, Node]] = {}

    def map(
        self,
        direction: Direction,
        *,
        only_expected: bool = False,
        refusals: bool = False,
        within: Mapping[Field, Intervals] | None = None,
        fixed: Mapping[Field, int] | None = None,
    ) -> Map:
        """Those of a direction, in classes; with ``only_expected`` without those that the host has not, rules or no.

        With ``refusals`` also those for which there is no route, and which no rule ever sees; else these are told as
        if there was one.

        ``within`` and ``fixed`` keep those alone whose fields have such values; a fixed one is in no condition, and
        conditions are as wide as the packets that there are allow.

        Raises:
            TooManyPieces: the rules divide them into more than can be looked at.
        """

        def made(layout: Layout, namespaces: list[Namespace]) -> Map:
            [namespace] = namespaces
            diagrams = namespace.diagrams
            packets = Packets(layout, direction, self._host)
            top = self._verdicts(namespace, direction, packets, refusals=refusals)[int(only_expected)]
            for field, values in (within or {}).items():
                top = only(diagrams, top, namespace.truths.node(Test(field, values)))
            numbers = {field: layout.numbers(field, value) for field, value in (fixed or {}).items()}
            values_at = {dim: number for each in numbers.values() for dim, number in each.items()}
            if values_at:
                top = diagrams.filled(diagrams.substituted(top, values_at, lambda one, _: one), diagrams.leaf(NOWHERE))
            return Map(packets.possible(diagrams, top), packets)

        return self._attempts.make(made)

    def _verdicts(
        self, namespace: Namespace, direction: Direction, packets: Packets, *, refusals: bool
    ) -> tuple[Node, Node]:
        """What becomes of all packets, and the same of those that are expected."""
        key = namespace, direction, refusals
        if key not in self._made:
            diagrams = namespace.diagrams
            found = verdicts(diagrams, Walk(namespace, direction).run())
            refused = None
            if refusals and direction is Direction.OUTBOUND:
                refused = Leaving(namespace).refused()
                found = diagrams.combine(refused, found, partial(_refused, diagrams))
            there = expected(diagrams, namespace.layout, self._host, direction, packets, refused)
            self._made[key] = found, only(diagrams, found, there)
        return self._made[key]


def _refused(diagrams: Diagrams, refused: Node, found: Node) -> Node | None:
    """What becomes of packets where some are refused."""
    if refused.children:
        return None
    return found if refused.value is None else diagrams.leaf(Verdict(Outcome(Kind.DROP), refused.value))
