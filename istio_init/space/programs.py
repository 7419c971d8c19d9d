"""Rules and chains as programs: what becomes of every packet that is handed to them.

Rules in a row that do the same are one program, whose regions are put together before anything else is done; the
programs of a chain are joined two by two, so that thousands of rules take a dozen rounds.
"""

from __future__ import annotations

from istio_init.netfilter.intervals import union
from istio_init.netfilter.rules import (
    AnyOf,
    Cause,
    Dispatch,
    End,
    Hook,
    Lookup,
    Nat,
    NatKind,
    Never,
    Note,
    Openness,
    Test,
    Tproxy,
    Undecided,
    Unknowable,
    Verdict,
)
from istio_init.space.effects import Effects
from istio_init.space.truth import meeting
from istio_init.space.ways import ACCEPTED, GOING, RETURNED, RuleDecider
from istio_init.trace.result import Kind
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from istio_init.netfilter.rules import Chain, Condition, Rule, Statement, Table
    from istio_init.space.diagram import Node
    from istio_init.space.layout import Region
    from istio_init.space.truth import Truths
    from istio_init.space.ways import Ways

MAX_DEPTH = 16
"""So deep may chains call each other (NFT_JUMP_STACK_SIZE)."""

CONDITIONS = (Test, Lookup, AnyOf, Undecided, Never)
DECISIVE = frozenset([Verdict.ACCEPT, Verdict.DROP, Verdict.REJECT, Verdict.RETURN])


class Context(Value):
    """Where a chain is evaluated, and whether a rule that lets pass decides there: it may keep from a redirection.

    On the way back by lo it does so only where none has before. ``hook`` is None where it makes no difference.
    """

    hook: Hook | None
    lets_pass: bool = False
    has_returned: bool = False


class Programs:
    """Compiles chains, each once for each context."""

    def __init__(self, ways: Ways, truths: Truths, effects: Effects) -> None:
        self.ways = ways
        self.truths = truths
        self.effects = effects
        self._chains: dict[tuple[int, str, Context], Node] = {}
        self._dependent: dict[tuple[int, str], bool] = {}
        self._tables: list[Table] = []
        """Kept, so that no other table gets their identity."""

    def chain(self, table: Table, name: str, context: Context, callers: tuple[str, ...] = ()) -> Node:
        """What a chain does; what comes back from it is going on."""
        if context.hook is not None and not self._depends_on_hook(table, name):
            context = context.replace(hook=None)
        key = id(table), name, context
        found = self._chains.get(key)
        if found is None:
            self._tables.append(table)
            chain = table.chains[name]
            found = self._sequence([self._run(table, run, context, (*callers, name)) for run in runs(chain)])
            found = self._chains[key] = self.ways.ending(found, {RETURNED: GOING})
        return found

    def _depends_on_hook(self, table: Table, name: str) -> bool:
        """Whether a chain, or one that it calls, translates to an address of an interface."""
        key = id(table), name
        if key not in self._dependent:
            self._dependent[key] = False  # What calls itself is not followed.
            self._dependent[key] = any(
                self._decides_by_hook(table, statement)
                for rule in table.chains[name].rules
                for statement in rule.body
                if isinstance(statement, Nat | End | Dispatch)
            )
        return self._dependent[key]

    def _decides_by_hook(self, table: Table, statement: Nat | End | Dispatch) -> bool:
        if isinstance(statement, Nat):
            return statement.kind is NatKind.REDIRECT
        if isinstance(statement, Dispatch):
            return any(self._decides_by_hook(table, end) for _, end in statement.verdicts)
        name = statement.chain
        return name is not None and name in table.chains and self._depends_on_hook(table, name)

    def _sequence(self, programs: Sequence[Node]) -> Node:
        """Programs one after the other."""
        left = list(programs)
        while len(left) > 1:
            pairs = [self.ways.then(one, other) for one, other in zip(left[::2], left[1::2], strict=False)]
            left = pairs + left[2 * len(pairs) :]
        return left[0] if left else self.ways.going

    def _run(self, table: Table, run: Run, context: Context, callers: tuple[str, ...]) -> Node:
        """Rules that do the same."""
        decider = RuleDecider(run.rules[0], run.rules[-1].origin.number)
        done = self._body(table, run.tail, decider, context, callers)
        regions: list[Region] = []
        programs = []
        for rule in run.rules:
            conditions = _conditions(rule)
            region = self._region(conditions)
            if region is not None:
                regions.append(region)
            else:
                programs.append(self._where(conditions, done, RuleDecider(rule, rule.origin.number)))
        if done.children:
            inside = [self.ways.where(self.truths.within(region), done, self.ways.going) for region in joined(regions)]
        else:
            inside = [self.truths.choice(region, done, self.ways.going) for region in joined(regions)]
        return self._sequence([*inside, *programs])

    def _region(self, conditions: Sequence[Condition]) -> Region | None:
        """The one region where all conditions hold; None where it is none."""
        found: Region = {}
        for condition in conditions:
            region = self.truths.region(condition)
            if region is None:
                return None
            found = meeting(found, region) if found else region
        return found

    def _where(self, conditions: Sequence[Condition], program: Node, decider: RuleDecider) -> Node:
        """A program where conditions hold."""
        truth = self.truths.all_of([self.truths.node(each) for each in conditions])
        return self.ways.where(truth, program, self.ways.going, decider)

    def _body(
        self, table: Table, body: Sequence[Statement], decider: RuleDecider, context: Context, callers: tuple[str, ...]
    ) -> Node:
        """Statements one after the other, the last of them first."""
        done = self.ways.going
        for statement in reversed(body):
            match statement:
                case Test() | Lookup() | AnyOf() | Undecided() | Never():
                    done = self._where([statement], done, decider)
                case Note():
                    pass
                case End():
                    done = self._end(table, statement, decider, context, callers)
                case Dispatch(keys, verdicts, is_complete):
                    ends = [(box, self._end(table, end, decider, context, callers)) for box, end in verdicts]
                    done = self.effects.dispatched(keys, ends, done, decider, is_complete=is_complete)
                case Unknowable(cause):
                    done = self.ways.stopped(Kind.UNKNOWN, decider, cause)
                case _:
                    done = self.effects.effect(statement, done, decider, context.hook)
        return done

    def _end(self, table: Table, end: End, decider: RuleDecider, context: Context, callers: tuple[str, ...]) -> Node:
        match end.verdict:
            case Verdict.ACCEPT | Verdict.RETURN:
                flow = ACCEPTED if end.verdict is Verdict.ACCEPT else RETURNED
                if not context.lets_pass:
                    return self.ways.end(flow)
                return (
                    self.ways.end(flow, returned=decider)
                    if context.has_returned
                    else self.ways.end(flow, passed=decider)
                )
            case Verdict.DROP:
                return self.ways.stopped(Kind.DROP, decider)
            case Verdict.REJECT:
                return self.ways.stopped(Kind.REJECT, decider)
            case Verdict.QUEUE:
                cause = Cause(Openness.OPEN, f"a program decides: {decider.rule.origin.text}")
                return self.ways.stopped(Kind.UNKNOWN, decider, cause)
            case Verdict.STOLEN:
                cause = Cause(Openness.OPEN, f"the packet is taken away: {decider.rule.origin.text}")
                return self.ways.stopped(Kind.UNKNOWN, decider, cause)
        return self._call(table, end, decider, context, callers)

    def _call(self, table: Table, end: End, decider: RuleDecider, context: Context, callers: tuple[str, ...]) -> Node:
        name = end.chain
        if name is None or name not in table.chains or name in callers or len(callers) > MAX_DEPTH:
            cause = Cause(Openness.NOT_MODELLED, f"a chain {name} that can be called")
            return self.ways.stopped(Kind.UNKNOWN, decider, cause)
        called = self.chain(table, name, context, callers)
        return self.ways.ending(called, {GOING: RETURNED}) if end.verdict is Verdict.GOTO else called


class Run:
    """Rules in a row with the same statements behind their conditions."""

    __slots__ = ("rules", "tail")

    def __init__(self, tail: tuple[Statement, ...], rules: list[Rule]) -> None:
        self.tail = tail
        self.rules = rules


def runs(chain: Chain) -> list[Run]:
    """The rules of a chain, those in a row together that do the same, without those that do nothing."""
    found: list[Run] = []
    for rule in chain.rules:
        tail = _tail(rule)
        if not tail:
            continue
        if found and found[-1].tail == tail and _is_final(tail):
            found[-1].rules.append(rule)
        else:
            found.append(Run(tail, [rule]))
    return found


def _is_final(tail: tuple[Statement, ...]) -> bool:
    """Whether nothing but one decision follows the conditions: the order of such rules does not matter."""
    [first, *more] = tail
    return not more and (isinstance(first, Nat | Tproxy) or (isinstance(first, End) and first.verdict in DECISIVE))


def _conditions(rule: Rule) -> list[Condition]:
    """The conditions before anything that a rule does."""
    found: list[Condition] = []
    for statement in rule.body:
        if isinstance(statement, CONDITIONS):
            found.append(statement)
        elif not isinstance(statement, Note):
            break
    return found


def _tail(rule: Rule) -> tuple[Statement, ...]:
    """The statements behind the first conditions, without those that have no influence on the packet's way."""
    for place, statement in enumerate(rule.body):
        if not isinstance(statement, (*CONDITIONS, Note)):
            tail = [each for each in rule.body[place:] if not isinstance(each, Note)]
            while tail and isinstance(tail[-1], CONDITIONS):
                tail.pop()
            return tuple(tail)
    return ()


def joined(regions: list[Region]) -> list[Region]:
    """The same places in fewer regions: those that differ in one dimension alone are put together."""
    if len(regions) < 2:
        return regions
    shapes: dict[tuple[int, ...], list[Region]] = {}
    for region in regions:
        shapes.setdefault(tuple(sorted(region)), []).append(region)
    found: list[Region] = []
    for shape, alike in shapes.items():
        if len(alike) == 1 or not shape:
            found.append(alike[0])
            continue
        varying = max(shape, key=lambda dim: len({region[dim] for region in alike}))
        groups: dict[tuple[object, ...], list[Region]] = {}
        for region in alike:
            groups.setdefault(tuple([region[dim] for dim in shape if dim != varying]), []).append(region)
        found += [{**group[0], varying: union([region[varying] for region in group])} for group in groups.values()]
    return found
