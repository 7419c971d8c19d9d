"""Chains as steps of a partition: rules in a row that do the same and differ in one dimension are one step.

That keeps a thousand excluded ranges a single split.
"""

from __future__ import annotations

from bisect import bisect_left

from istio_init.dialects.iptables.targets import Jump, Redirect, Tproxy, Verdict
from istio_init.space.conditions import condition
from istio_init.space.intervals import Intervals, union
from istio_init.space.pieces import Decider
from istio_init.space.space import CONNMARK, MARK, TRACKING
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.rules import Chain
    from istio_init.dialects.iptables.tables import Table
    from istio_init.space.space import Space


CHANGING = frozenset([MARK, CONNMARK, TRACKING])
"""What a called chain may change of packets that come back from it."""


class Step(Value):
    """One rule, or several alike in a row, with the disjoint regions that match."""

    decider: Decider
    tests: tuple[tuple[tuple[int, Intervals], ...], ...]
    certain: bool


def steps(space: Space, table: Table, hook: str, chain: Chain) -> list[Step]:
    """The steps of a chain, asked at a hook."""
    found: list[Step] = []
    row = _Row()
    for number, entry in enumerate(chain.entries, 1):
        when = condition(space, entry.rule, table, hook)
        step = Step(Decider(table, chain.name, number, number, entry.rule), when.tests, when.certain)
        if not row.takes(step):
            found += row.steps()
            row = _Row(step)
    return found + row.steps()


class _Row:
    """Rules alike, put together as long as the next one fits."""

    def __init__(self, first: Step | None = None) -> None:
        self.first = first
        self.last = first
        self.varying: int | None = None
        self.sets: list[Intervals] = []
        self.jumping: list[tuple[int, int]] = []

    def takes(self, step: Step) -> bool:
        """Add a step if it differs from those before in one dimension alone."""
        if self.first is None or not _alike(self.first, step):
            return False
        one, other = dict(self.first.tests[0]), dict(step.tests[0])
        differing = [dimension for dimension in one if one[dimension] != other[dimension]]
        varying = self.varying if self.varying is not None else differing[0] if len(differing) == 1 else None
        if varying is None or not set(differing) <= {varying}:
            return False
        if isinstance(step.decider.rule.target, Jump) and not self._apart(one[varying], other[varying], varying):
            return False
        if self.varying is None:
            self.varying, self.sets = varying, [one[varying]]
        self.sets.append(other[varying])
        self.last = step
        return True

    def _apart(self, first: Intervals, further: Intervals, varying: int) -> bool:
        """Whether no packet makes two of the jumps, which could change it in between, and remember the values."""
        if varying in CHANGING:
            return False
        if self.varying is None:
            self.jumping = list(first)
        for low, high in further:
            place = bisect_left(self.jumping, (low, low))
            before, after = self.jumping[max(0, place - 1) : place], self.jumping[place : place + 1]
            if any(end >= low for _, end in before) or any(start <= high for start, _ in after):
                return False
            self.jumping.insert(place, (low, high))
        return True

    def steps(self) -> list[Step]:
        """The one step that the row has become; none where it is empty."""
        if self.first is None or self.last is None:
            return []
        if self.varying is None:
            return [self.first]
        tests = dict(self.first.tests[0])
        tests[self.varying] = union(self.sets)
        decider = self.first.decider.replace(last=self.last.decider.first)
        return [self.first.replace(tests=(tuple(sorted(tests.items())),), decider=decider)]


def _alike(one: Step, other: Step) -> bool:
    target = one.decider.rule.target
    if target != other.decider.rule.target or not isinstance(target, Verdict | Redirect | Tproxy | Jump):
        return False
    if not (one.certain and other.certain and len(one.tests) == len(other.tests) == 1):
        return False
    return [dimension for dimension, _ in one.tests[0]] == [dimension for dimension, _ in other.tests[0]]
