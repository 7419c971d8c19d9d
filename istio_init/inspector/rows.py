"""Every rule of a namespace in a line: its place, its text in its dialect, its owner, and why it exists."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import Counters
from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.dialects.nft.text import rule_text
from istio_init.dialects.nft.xtables import is_iptables
from istio_init.dialects.role import Role
from istio_init.dialects.rule_store import RuleStore
from istio_init.mesh.native import AMBIENT, FAMILY, SIDECAR, Spot
from istio_init.mesh.neighbours import neighbour_of
from istio_init.mesh.roles.catalogue import CATALOGUE
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours, resembles
from istio_init.mesh.roles.shapes import AMBIENT_CHAIN
from istio_init.netfilter.family import Family
from istio_init.netfilter.rules import Origin, Store
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from istio_init.dialects.iptables.rules import Entry, RuleSet
    from istio_init.dialects.nft import ruleset as nft
    from istio_init.observe.snapshot import Snapshot

ISTIO_SIDECAR, ISTIO_AMBIENT = "istio sidecar", "istio ambient"
FOREIGN = "foreign"
"""The owner of a rule; foreign ones have the names of `istio_init.mesh.neighbours`."""

OF_FOREIGN = "Foreign: neither Istio nor a neighbour that is known made it."
OF_NO_KIND = "In a chain of Istio's, but of no kind that is known."

OF_UNPRINTED = "In a chain of Istio's, of a table that iptables cannot print."

_PREFIXES = {SIDECAR: ISTIO_SIDECAR, AMBIENT: ISTIO_AMBIENT}
_FAMILIES = {Family.IPV4: "ip", Family.IPV6: "ip6"}


class Row(Value):
    """One rule, explained. Family, table, chain, number and text are those of the dialect that it is written in."""

    backend: RuleStore
    family: str
    table: str
    chain: str
    number: int
    text: str
    role: Role | None
    """None for a foreign or unknown rule."""

    whose: str
    why: str
    """Why it exists, in one sentence."""

    counters: Counters | None = None

    @property
    def foreign(self) -> bool:
        """Whether it is foreign."""
        return self.whose not in (ISTIO_SIDECAR, ISTIO_AMBIENT)

    @property
    def options(self) -> tuple[str, ...]:
        """The options that cause it."""
        return CATALOGUE[self.role].options if self.role is not None else ()

    @property
    def where(self) -> str:
        """Its chain, as people name it."""
        store = "" if self.backend is RuleStore.NATIVE else f" ({self.backend.value})"
        return f"{self.family} {self.table} {self.chain}{store}"


def by_chain(explained: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each chain, by what people name it."""
    found: dict[str, list[Row]] = {}
    for row in explained:
        found.setdefault(row.where, []).append(row)
    return found


def rows(snapshot: Snapshot) -> Iterator[Row]:
    """All rules: those of iptables' stores by family and table, then those that nft alone prints."""
    written = {(_FAMILIES[each.family], each.table, each.chain, each.number): each.text for each in snapshot.nft_rules}
    for (backend, _), rules in snapshot.rules.items():
        if backend is not RuleStore.NATIVE:
            yield from _of_iptables(backend, rules, written if backend is RuleStore.NFT else {})
    roles = {spot: role for raised in snapshot.raised for spot, role in raised.roles().items()}
    for table in unprinted(snapshot):
        yield from _of_nft(table, roles)


def unprinted(snapshot: Snapshot) -> tuple[nft.Table, ...]:
    """The tables that nft alone prints; whether they are dormant is as the kernel has it."""
    if snapshot.ruleset is None:
        return ()
    asleep = {(table.family, table.name): table.is_dormant for table in snapshot.netfilter.tables}
    return tuple(
        table.replace(is_dormant=asleep.get((table.family, table.name), table.is_dormant))
        for table in snapshot.ruleset.tables
        if not is_printed(snapshot, table)
    )


def is_printed(snapshot: Snapshot, table: nft.Table) -> bool:
    """Whether it is a table of iptables', and iptables-nft-save printed it."""
    family = next((family for family, name in _FAMILIES.items() if name == table.family), None)
    rules = None if family is None else snapshot.rules.get((RuleStore.NFT, family))
    return rules is not None and is_iptables(table) and Table(table.name) in rules.tables


def store_of(table: nft.Table) -> RuleStore:
    """Who wrote a table that nft prints: iptables-nft has built-in chains of its own names."""
    is_theirs = is_iptables(table) and any(
        chain.hook is not None and chain.name in BUILTIN_CHAINS[Table(table.name)] for chain in table.chains
    )
    return RuleStore.NFT if is_theirs else RuleStore.NATIVE


def _of_iptables(backend: RuleStore, rules: RuleSet, written: Mapping[tuple[str, str, str, int], str]) -> Iterator[Row]:
    ours = {table for table, chain in rules.chains() if is_istio_chain(chain.name)}
    ambient = {table for table, chain in rules.chains() if chain.name == AMBIENT_CHAIN}
    store = Store.LEGACY if backend is RuleStore.LEGACY else Store.NFT
    for table, chain, number, entry in rules.entries():
        text = written.get((_FAMILIES[rules.family], table.value, chain.name, number)) or entry_text(entry)
        if is_ours(chain.name, entry):
            whose, why = _mode_of(entry, is_ambient=table in ambient), _why(entry.role)
        else:
            whose, why = _whose(Origin(store, _FAMILIES[rules.family], table.value, chain.name, number, text))
            older = resembles(table, chain.name, entry.rule) if ours and table not in ours else None
            if older is not None:
                why = f"Foreign, as its table has no chain of Istio's; but: {CATALOGUE[older].why}"
        family = rules.family.value
        yield Row(backend, family, table.value, chain.name, number, text, entry.role, whose, why, entry.counters)


def _mode_of(entry: Entry, *, is_ambient: bool) -> str:
    if entry.role is not None:
        is_ambient = entry.role.value.startswith("ambient-")
    return ISTIO_AMBIENT if is_ambient else ISTIO_SIDECAR


def _of_nft(table: nft.Table, roles: Mapping[Spot, Role | None]) -> Iterator[Row]:
    backend = store_of(table)
    owner = next((whose for prefix, whose in _PREFIXES.items() if table.name.startswith(prefix)), None)
    owner = owner if table.family == FAMILY else None
    is_ambient = any(chain.name == AMBIENT_CHAIN for chain in table.chains)
    for chain in table.chains:
        for number, rule in enumerate(chain.rules, 1):
            text = rule_text(rule.expressions, rule.comment)
            role = roles.get(Spot(table.family, table.name, chain.name, number))
            if owner is not None:
                whose, why = owner, _why(role)
            elif is_istio_chain(chain.name) and is_iptables(table):
                whose, why = (ISTIO_AMBIENT if is_ambient else ISTIO_SIDECAR), OF_UNPRINTED
            else:
                whose, why = _whose(Origin(Store.NFT, table.family, table.name, chain.name, number, text))
            counters = _counters(rule)
            yield Row(backend, table.family, table.name, chain.name, number, text, role, whose, why, counters)


def _why(role: Role | None) -> str:
    return OF_NO_KIND if role is None else CATALOGUE[role].why


def _whose(origin: Origin) -> tuple[str, str]:
    """The owner of a foreign rule, and why it exists."""
    neighbour = neighbour_of(origin)
    return (FOREIGN, OF_FOREIGN) if neighbour is None else (neighbour.name, f"Of {neighbour.name}: {neighbour.does}")


def _counters(rule: nft.Rule) -> Counters | None:
    for expression in rule.expressions:
        counter = expression.get("counter")
        if isinstance(counter, dict):
            packets, size = counter.get("packets"), counter.get("bytes")
            if isinstance(packets, int) and isinstance(size, int):
                return Counters(packets, size)
    return None
