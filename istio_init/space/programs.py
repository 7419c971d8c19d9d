"""Rules and chains as programs: what they do to every packet.

Rules in a row that do the same are one program, whose regions are put together before anything else is done; the
programs of a chain are joined two by two, so that thousands of rules take a dozen rounds.
"""

from __future__ import annotations

from typing import NamedTuple

from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import (
    AnyOf,
    Cause,
    Dispatch,
    End,
    Hook,
    Lookup,
    Nat,
    Never,
    Note,
    Openness,
    Test,
    Undecided,
    Unknowable,
    Verdict,
)
from istio_init.space.boxes import joined, meeting, narrowed
from istio_init.space.callers import Callers
from istio_init.space.effects import Effects
from istio_init.space.runs import conditions_of, runs
from istio_init.space.ways import ACCEPTED, GOING, RETURNED, RuleDecider
from istio_init.trace.result import Kind
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from istio_init.netfilter.chains import Table
    from istio_init.netfilter.rules import Condition, Statement
    from istio_init.space.boxes import Region
    from istio_init.space.composing import Ways
    from istio_init.space.diagram import Node
    from istio_init.space.runs import Run
    from istio_init.space.truth import Truths

MAX_DEPTH = 60
"""So deep chains may call each other here; those of nf_tables 16 levels (NFT_JUMP_STACK_SIZE)."""

LASTING = frozenset([Field.PROTOCOL, Field.SOURCE, Field.DESTINATION, Field.SPORT, Field.DPORT,
                     Field.IN_INTERFACE, Field.OUT_INTERFACE])  # fmt: skip
"""What no rule changes of packets that go on, but by assignments."""


class Context(Value):
    """Where a chain is evaluated, and whether a rule that lets pass decides there: it may keep from a redirection.

    On the way back via lo it does so only where none has before. ``hook`` is None where it makes no difference.
    """

    hook: Hook | None
    lets_pass: bool = False
    has_returned: bool = False


class Scope(NamedTuple):
    """Where a rule is evaluated: in which table and context, who has called its chain, and for which packets.

    ``given`` is a region in which they all are, as far as no rule changes that; ``known`` one in which all are that are
    of interest where the base chain is evaluated.
    """

    table: Table
    context: Context
    callers: tuple[str, ...]
    given: Region
    known: Region


class Programs:
    """Compiles chains, each once for each context; one that is called in one place alone, for what comes from there."""

    def __init__(self, ways: Ways, truths: Truths, effects: Effects) -> None:
        self.ways = ways
        self.truths = truths
        self.effects = effects
        layout = truths.layout
        self._lasting = frozenset([dim for field in LASTING - layout.assigned for dim in layout.dims(field)])
        self._chains: dict[tuple[object, ...], Node] = {}
        self._callers = Callers()

    def chain(self, table: Table, name: str, context: Context, known: Region) -> Node:
        """What a base chain does; what comes to its end, or returns, is going on.

        ``known`` is a region of which alone it is asked for, as far as no rule changes that.
        """
        lasting = {dim: within for dim, within in known.items() if dim in self._lasting}
        return self._chain(Scope(table, context, (), {}, lasting), name)

    def _chain(self, scope: Scope, name: str) -> Node:
        context = scope.context
        if context.hook is not None and not self._callers.depends_on_hook(scope.table, name):
            context = context.replace(hook=None)
        given = scope.given if self._callers.count(scope.table, name) == 1 else {}
        key = id(scope.table), name, context, tuple(given.items()), tuple(scope.known.items())
        found = self._chains.get(key)
        if found is None:
            inner = Scope(scope.table, context, (*scope.callers, name), given, scope.known)
            found = self._sequence([self._run(run, inner) for run in runs(scope.table.chains[name])])
            found = self._chains[key] = self.ways.ending(found, {RETURNED: GOING})
        return found

    def _sequence(self, programs: Sequence[Node]) -> Node:
        """Programs one after the other."""
        left = list(programs)
        while len(left) > 1:
            pairs = [self.ways.then(one, other) for one, other in zip(left[::2], left[1::2], strict=False)]
            left = pairs + left[2 * len(pairs) :]
        return left[0] if left else self.ways.going

    def _run(self, run: Run, scope: Scope) -> Node:
        """Rules that do the same."""
        regions: list[Region] = []
        others = []
        given = {**scope.known, **scope.given}
        for rule in run.rules:
            conditions = conditions_of(rule)
            region = self._region(conditions, given)
            if region is None:
                if not self._is_outside(conditions, given):
                    others.append((rule, conditions))
            elif all(region.values()):
                regions.append(region)
        if not regions and not others:
            return self.ways.going
        if len(run.rules) == 1 and regions:
            lasting = {dim: within for dim, within in regions[0].items() if dim in self._lasting}
            scope = scope._replace(given={**scope.given, **lasting})
        done = self._body(run.tail, RuleDecider(run.rules[0], run.rules[-1].origin.number), scope)
        going = self.ways.going
        if done.children:
            inside = [self.ways.where(self.truths.within(region), done, going) for region in joined(regions)]
        else:
            inside = [self.truths.choice(region, done, going) for region in joined(regions)]
        for rule, conditions in others:
            inside.append(self._where(conditions, done, RuleDecider(rule, rule.origin.number)))
        return self._sequence(inside)

    def _region(self, conditions: Sequence[Condition], given: Region) -> Region | None:
        """The one region where all conditions hold, without what is given; None where it is none."""
        found: Region = {}
        for condition in conditions:
            region = self.truths.region(condition)
            if region is None:
                return None
            found = meeting(found, region) if found else region
        return narrowed(found, given) if given else found

    def _is_outside(self, conditions: Sequence[Condition], given: Region) -> bool:
        """Whether one of several conditions holds nowhere in what is given."""
        regions = [self.truths.region(condition) for condition in conditions] if given else []
        return any(region is not None and not all(narrowed(region, given).values()) for region in regions)

    def _where(self, conditions: Sequence[Condition], program: Node, decider: RuleDecider) -> Node:
        """A program where conditions hold."""
        truth = self.truths.all_of([self.truths.node(each) for each in conditions])
        return self.ways.where(truth, program, self.ways.going, decider)

    def _body(self, body: Sequence[Statement], decider: RuleDecider, scope: Scope) -> Node:
        """Statements one after the other, the last of them first."""
        done = self.ways.going
        for statement in reversed(body):
            match statement:
                case Test() | Lookup() | AnyOf() | Undecided() | Never():
                    done = self._where([statement], done, decider)
                case Note():
                    pass
                case End():
                    done = self._end(statement, decider, scope)
                case Dispatch(keys, verdicts, is_complete):
                    ends = [(box, self._end(end, decider, scope)) for box, end in verdicts]
                    done = self.effects.dispatched(keys, ends, done, decider, is_complete=is_complete)
                case Unknowable(cause):
                    done = self.ways.stopped(Kind.UNKNOWN, decider, cause)
                case Nat():
                    done = self.effects.effect(statement, done, decider, scope.context.hook, scope.given)
                    done = self.ways.diagrams.within(done, scope.given)
                case _:
                    done = self.effects.effect(statement, done, decider, scope.context.hook, scope.given)
        return done

    def _end(self, end: End, decider: RuleDecider, scope: Scope) -> Node:
        ways, text = self.ways, decider.rule.origin.text
        match end.verdict:
            case Verdict.ACCEPT | Verdict.RETURN:
                flow = ACCEPTED if end.verdict is Verdict.ACCEPT else RETURNED
                if not scope.context.lets_pass:
                    return ways.end(flow)
                return (
                    ways.end(flow, returned=decider) if scope.context.has_returned else ways.end(flow, passed=decider)
                )
            case Verdict.DROP:
                return ways.stopped(Kind.DROP, decider)
            case Verdict.REJECT:
                return ways.stopped(Kind.REJECT, decider)
            case Verdict.QUEUE:
                return ways.stopped(Kind.UNKNOWN, decider, Cause(Openness.OPEN, f"a program decides: {text}"))
            case Verdict.STOLEN:
                return ways.stopped(Kind.UNKNOWN, decider, Cause(Openness.OPEN, f"the packet is taken away: {text}"))
        return self._call(end, decider, scope)

    def _call(self, end: End, decider: RuleDecider, scope: Scope) -> Node:
        name, callers = end.chain, scope.callers
        if name is None or name not in scope.table.chains or name in callers or len(callers) >= MAX_DEPTH:
            is_missing = name is None or name not in scope.table.chains
            words = f"chain {name} is missing" if is_missing else "chains call each other too deep"
            return self.ways.stopped(Kind.UNKNOWN, decider, Cause(Openness.NOT_GIVEN, words))
        called = self._chain(scope, name)
        return self.ways.ending(called, {GOING: RETURNED}) if end.verdict is Verdict.GOTO else called
