"""Ways: what can become of packets at one place, and what decides it."""

from __future__ import annotations

from typing import NamedTuple

from istio_init.netfilter.rules import Cause, Rule
from istio_init.space.diagram import Substitute
from istio_init.trace.result import Kind, PolicyDecider, ReversePathDecider, RoutingDecider
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

GOING, RETURNED, ACCEPTED, ENDED = range(4)
"""Where a way leads: to the next statement, out of the chain, out of the base chain, or to its end."""

Changes = tuple[tuple[int, Substitute], ...]
"""What dimensions have become, in terms of what they were, in ascending order."""


class RuleDecider(Value):
    """The rules that decide: numbers ``first`` to ``last`` of a chain, which do the same. ``rule`` is the first one."""

    rule: Rule
    last: int

    def __hash__(self) -> int:
        return hash((self.rule.origin.chain, self.rule.origin.number, self.last))

    @property
    def first(self) -> int:
        """The number of the first rule."""
        return self.rule.origin.number


Decider = RuleDecider | PolicyDecider | RoutingDecider | ReversePathDecider


class Parts(NamedTuple):
    """A number whose groups of bits, by their masks, each have become something."""

    values: tuple[tuple[int, Substitute], ...]


class Delivery(Value):
    """Where packets were sent, and what decided that. What has a socket keeps it, whatever else translates it."""

    kind: Kind
    decider: Decider
    address: int | Parts | None = None
    port: int | Parts | None = None


class Stop(Value):
    """Why packets go no further: dropped, rejected, or undecidable."""

    kind: Kind
    decider: Decider | None
    cause: Cause | None = None


class Doubt(Value):
    """What is undecidable, and the rule that it decides."""

    cause: Cause
    decider: Decider | None = None


class Way:
    """One thing that happens to a packet. Equal ways are the same object, see `Ways.way`.

    ``passed`` is the last rule that let it pass where it could have been redirected, ``returned`` the first one when it
    came back via lo.
    """

    __slots__ = ("changes", "delivery", "flow", "passed", "returned", "stop")

    def __init__(
        self,
        flow: int,
        changes: Changes,
        delivery: Delivery | None,
        passed: Decider | None,
        returned: Decider | None,
        stop: Stop | None,
    ) -> None:
        self.flow = flow
        self.changes = changes
        self.delivery = delivery
        self.passed = passed
        self.returned = returned
        self.stop = stop

    def __repr__(self) -> str:
        return f"Way({self.flow}, {self.changes}, {self.delivery}, {self.passed}, {self.returned}, {self.stop})"


class Ends(NamedTuple):
    """What can become of a packet, and what would tell where that is more than one thing.

    ``main`` is the way on which no undecidable test holds; None where it is not among these.
    """

    ways: frozenset[Way]
    main: Way | None
    doubts: frozenset[Doubt]


NO_DOUBTS: frozenset[Doubt] = frozenset()


def doubts(causes: Iterable[Cause], decider: Decider | None = None) -> frozenset[Doubt]:
    """Causes, all of one rule."""
    return frozenset([Doubt(cause, decider) for cause in causes])
