"""A backend that keeps its rules in memory and refuses what the kernel refuses: for tests, and to try a plan out."""

from __future__ import annotations

from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.rules import Chain, Counters, Entry, RuleSet, is_builtin
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.dialects.iptables.targets import Goto, Jump
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import ToolError
from istio_init.netfilter.family import Family
from istio_init.plan.model import Append, Declare, Delete, Insert, Remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from istio_init.dialects.iptables.rules import Rule
    from istio_init.plan.model import Step, TableEdit


class Fake:
    """A stateful backend without a kernel.

    It holds to what the contract suite has the kernel's backends hold to: a table and its built-in chains exist once a
    step used them, a table is changed as a whole or not at all, and no rule ever leads to a chain that does not exist.
    Whether an extension may be used in a table is for the kernel alone to say.
    """

    means = "memory"

    def __init__(self, rules: Iterable[RuleSet] = (), *, name: RuleStore = RuleStore.NFT) -> None:
        """Begin with these rule sets, one a family at most; ``name`` is the backend that this one stands in for."""
        self.name = name
        self._tables: dict[Family, dict[Table, dict[str, Chain]]] = {family: {} for family in Family}
        for each in rules:
            for table, chains in each.tables.items():
                self._tables[each.family][table] = {**_new_table(table), **chains}

    def families(self) -> tuple[Family, ...]:
        return tuple(family for family in Family if self._tables[family])

    def read(self, family: Family, known: Mapping[str, Rule] | None = None, *, counters: bool = False) -> RuleSet:
        tables = self._tables[family]
        read = {table: dict(tables[table]) for table in Table if table in tables}
        if counters:
            read = {table: {name: _counted(chain) for name, chain in chains.items()} for table, chains in read.items()}
        return RuleSet(family, read)

    def admit(self, wanted: RuleSet) -> None:
        pass

    def commit(self, family: Family, edits: Sequence[TableEdit]) -> None:
        for edit in edits:
            if edit.steps:
                tables = self._tables[family]
                transaction = _Transaction(edit.table, tables.get(edit.table) or _new_table(edit.table))
                for step in edit.steps:
                    transaction.carry_out(step)
                tables[edit.table] = transaction.chains


def _counted(chain: Chain) -> Chain:
    """The chain with counters at every rule; no packet ever passes here."""
    return chain.replace(
        entries=tuple([each.replace(counters=each.counters or Counters(0, 0)) for each in chain.entries])
    )


def _new_table(table: Table) -> dict[str, Chain]:
    return {name: Chain(name, policy="ACCEPT") for name in BUILTIN_CHAINS[table]}


class _Transaction:
    """One table being changed, on a copy that takes the table's place when every step was possible."""

    def __init__(self, table: Table, chains: Mapping[str, Chain]) -> None:
        self.table = table
        self.chains = dict(chains)

    def carry_out(self, step: Step) -> None:
        """Do one step.

        Raises:
            ToolError: the kernel would refuse it.
        """
        match step:
            case Declare(chain):
                if is_builtin(self.table, chain):
                    raise self._refusal(step, "the kernel's own chains are never declared")
                self.chains[chain] = self.chains.get(chain, Chain(chain)).replace(entries=())
            case Append(chain, text):
                entries = self._entries(step)
                self._put(chain, [*entries, self._entry(step, text)])
            case Insert(chain, number, text):
                entries = self._entries(step)
                if not 1 <= number <= len(entries) + 1:
                    raise self._refusal(step, f"the chain has {len(entries)} rules")
                entries.insert(number - 1, self._entry(step, text))
                self._put(chain, entries)
            case Delete(chain, _, int(number)):
                entries = self._entries(step)
                if not 1 <= number <= len(entries):
                    raise self._refusal(step, f"the chain has {len(entries)} rules")
                del entries[number - 1]
                self._put(chain, entries)
            case Delete(chain, text):
                entries, unwanted = self._entries(step), parse_rule(text)
                index = next((index for index, entry in enumerate(entries) if entry.rule == unwanted), None)
                if index is None:
                    raise self._refusal(step, "the chain does not hold such a rule")
                del entries[index]
                self._put(chain, entries)
            case Remove(chain):
                self._remove(step, chain)

    def _remove(self, step: Step, name: str) -> None:
        if self._entries(step):
            raise self._refusal(step, "the chain is not empty")
        if is_builtin(self.table, name):
            raise self._refusal(step, "the kernel's own chains stay")
        callers = [
            chain.name for chain in self.chains.values() if any(rule.called_chain == name for rule in chain.rules)
        ]
        if callers:
            raise self._refusal(step, f"{callers[0]} jumps to it")
        del self.chains[name]

    def _entry(self, step: Step, text: str) -> Entry:
        """The rule as it would be read back. Where it leads to must exist by now."""
        rule = parse_rule(text)
        match rule.target:
            case Jump(called) | Goto(called) if called not in self.chains or is_builtin(self.table, called):
                raise self._refusal(step, f"there is no chain {called} to go on in")
            case _:
                return Entry(rule, text=text)

    def _entries(self, step: Step) -> list[Entry]:
        chain = self.chains.get(step.chain)
        if chain is None:
            raise self._refusal(step, "there is no such chain")
        return list(chain.entries)

    def _put(self, name: str, entries: list[Entry]) -> None:
        self.chains[name] = self.chains[name].replace(entries=tuple(entries))

    def _refusal(self, step: Step, why: str) -> ToolError:
        return ToolError(f"table {self.table.value}: {step} refused: {why}")
