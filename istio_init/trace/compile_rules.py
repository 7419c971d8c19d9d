"""Rules and chains, compiled when they are first evaluated."""

from __future__ import annotations

from istio_init.netfilter.chains import ChainType
from istio_init.netfilter.rules import Hook, Note
from istio_init.netfilter.stages import CONNTRACK_PRIORITY, Call, Core, NatCalls
from istio_init.trace.evaluate import CONDITIONS
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.chains import Chain, Table
    from istio_init.netfilter.rules import Rule, Statement
    from istio_init.netfilter.stages import Stage
    from istio_init.trace.evaluate import Evaluate, Evaluator

    Tested = tuple[Evaluate, Statement]
    Rest = tuple[Statement, Evaluate | None]

BEFORE_ROUTING = frozenset([Hook.PREROUTING, Hook.OUTPUT])


class CompiledRule:
    """The conditions that a rule begins with, and the rest of its statements.

    It ``is_idle`` where it makes no difference whether it matches.
    """

    __slots__ = ("is_idle", "rest", "rule", "tests")

    def __init__(self, rule: Rule, evaluator: Evaluator) -> None:
        self.rule = rule
        body = [statement for statement in rule.body if not isinstance(statement, Note)]
        first = next((at for at, each in enumerate(body) if not isinstance(each, CONDITIONS)), len(body))
        self.tests: tuple[Tested, ...] = tuple([(evaluator.compile(each), each) for each in body[:first]])  # type: ignore[arg-type]
        self.rest: tuple[Rest, ...] = tuple(
            [(each, evaluator.compile(each) if isinstance(each, CONDITIONS) else None) for each in body[first:]]
        )
        self.is_idle = not self.rest


class CompiledChain:
    """A chain whose rules are compiled when they are asked for."""

    __slots__ = ("_evaluator", "_rules", "chain", "name", "table")

    def __init__(self, table: CompiledTable, chain: Chain, evaluator: Evaluator) -> None:
        self.table = table
        self.name = chain.name
        self.chain = chain
        self._evaluator = evaluator
        self._rules: tuple[CompiledRule, ...] | None = None

    @property
    def rules(self) -> tuple[CompiledRule, ...]:
        """The rules in order."""
        if self._rules is None:
            self._rules = tuple([CompiledRule(rule, self._evaluator) for rule in self.chain.rules])
        return self._rules


class CompiledTable:
    """The chains of a table."""

    __slots__ = ("_chains", "_evaluator", "table")

    def __init__(self, table: Table, evaluator: Evaluator) -> None:
        self.table = table
        self._evaluator = evaluator
        self._chains: dict[str, CompiledChain] = {}

    def chain(self, name: str | None) -> CompiledChain | None:
        """A chain by its name."""
        if name is None or name not in self.table.chains:
            return None
        found = self._chains.get(name)
        if found is None:
            found = self._chains[name] = CompiledChain(self, self.table.chains[name], self._evaluator)
        return found


class CompiledCall:
    """A base chain as a hook calls it.

    ``lets_pass``: what an accept or return of it lets pass, it may have kept from being redirected.
    """

    __slots__ = ("chain", "drops", "hook", "is_route", "lets_pass", "table")

    def __init__(self, call: Call, hook: Hook, table: CompiledTable) -> None:
        base, chain = call.chain.base, table.chain(call.chain.name)
        assert base is not None and chain is not None
        self.hook = hook
        self.table = call.table
        self.chain = chain
        self.drops = base.drops
        self.is_route = base.type is ChainType.ROUTE and hook is Hook.OUTPUT
        follows_lookup = hook is Hook.PREROUTING and base.priority > CONNTRACK_PRIORITY
        self.lets_pass = hook in BEFORE_ROUTING and (base.type is not ChainType.FILTER or follows_lookup)


class CompiledNat(Value):
    """All nat base chains of a hook."""

    calls: tuple[CompiledCall, ...]


CompiledStage = CompiledCall | CompiledNat | Core


class Compiler:
    """Compiles the stages of one family's hooks."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._tables: dict[int, CompiledTable] = {}

    def stages(self, stages: tuple[Stage, ...], hook: Hook, *, tracks: bool) -> tuple[CompiledStage, ...]:
        """The stages of a hook in one order; without those that change nothing, as nat where nothing is tracked."""
        found: list[CompiledStage] = []
        for stage in stages:
            if isinstance(stage, Core):
                if tracks:
                    found.append(stage)
            elif isinstance(stage, NatCalls):
                calls = [self._call(call, hook) for call in stage.calls if _does_something(call)]
                if tracks and calls:
                    found.append(CompiledNat(tuple(calls)))
            elif _does_something(stage):
                found.append(self._call(stage, hook))
        return tuple(found)

    def _call(self, call: Call, hook: Hook) -> CompiledCall:
        table = self._tables.get(id(call.table))
        if table is None:
            table = self._tables[id(call.table)] = CompiledTable(call.table, self.evaluator)
        return CompiledCall(call, hook, table)


def _does_something(call: Call) -> bool:
    return bool(call.chain.rules) or (call.chain.base is not None and call.chain.base.drops)
