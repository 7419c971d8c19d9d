"""What each store holds, table by table, and whose."""

from __future__ import annotations

from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.rows import store_of, unprinted
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from istio_init.inspector.rows import Row
    from istio_init.observe.snapshot import Snapshot


class TableHeld(Value):
    """A table: its number of chains, of rules, and of rules by whose they are, those with most first."""

    family: str
    name: str
    chains: int
    rules: int
    whose: Mapping[str, int]
    is_dormant: bool = False

    def __str__(self) -> str:
        of = ", ".join(self.whose if len(self.whose) == 1 else (f"{who} {count}" for who, count in self.whose.items()))
        counts = f"{_count(self.rules, 'rule')} in {_count(self.chains, 'chain')}"
        asleep = ", dormant" if self.is_dormant else ""
        return f"{self.family} {self.name}: {counts}{asleep}" + (f": {of}" if of else ", a policy that drops")


class StoreHeld(Value):
    """The tables of a store that hold a rule, or a policy that drops."""

    store: RuleStore
    tables: tuple[TableHeld, ...]


def stores(snapshot: Snapshot, rows: Iterable[Row]) -> tuple[StoreHeld, ...]:
    """What each store holds; ``rows`` are the rules, explained. Stores that hold nothing are left out."""
    owners: dict[tuple[RuleStore, str, str], dict[str, int]] = {}
    for row in rows:
        counts = owners.setdefault((row.backend, row.family, row.table), {})
        counts[row.whose] = counts.get(row.whose, 0) + 1
    found: dict[RuleStore, list[TableHeld]] = {store: [] for store in RuleStore}
    for store, table, drops in _tables(snapshot):
        whose = owners.get((store, table.family, table.name), {})
        ordered = dict(sorted(whose.items(), key=lambda each: -each[1]))
        if whose or drops:
            found[store].append(table.replace(rules=sum(whose.values()), whose=ordered))
    return tuple(StoreHeld(store, tuple(tables)) for store, tables in found.items() if tables)


def _tables(snapshot: Snapshot) -> Iterator[tuple[RuleStore, TableHeld, bool]]:
    """Each table without its rules, and whether a policy of its drops."""
    for (store, family), rules in snapshot.rules.items():
        if store is not RuleStore.NATIVE:
            for name, chains in rules.tables.items():
                drops = any(chain.policy == "DROP" for chain in chains.values())
                yield store, TableHeld(family.value, name.value, len(chains), 0, {}), drops
    for table in unprinted(snapshot):
        held = TableHeld(table.family, table.name, len(table.chains), 0, {}, bool(table.is_dormant))
        yield store_of(table), held, any(chain.policy == "drop" for chain in table.chains)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
