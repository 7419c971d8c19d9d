"""Compares a live rule set with the wanted one and says what to write.

Each table becomes one transaction. Chains of Istio's that differ are emptied and filled anew within it; in other
chains only single rules are removed and added, so that what others put there is never touched.
"""

from __future__ import annotations

from istio_init.dialects.iptables.matches import Comment
from istio_init.dialects.iptables.quoting import is_plain
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import Chain, Entry, Rule, RuleSet
from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.iptables.tables import Table
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours
from istio_init.mesh.roles.shapes import AMBIENT_CHAIN
from istio_init.plan.merge import merge
from istio_init.plan.model import (
    Append,
    Change,
    Declare,
    Delete,
    FamilyPlan,
    Insert,
    Kind,
    Remove,
    Step,
    TableEdit,
)
from istio_init.plan.sequence import common_pairs, is_subsequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def diff(live: RuleSet, wanted: RuleSet, *, rewrite: bool = False, also: tuple[str, ...] = ()) -> FamilyPlan:
    """Plan the way from a recognised live rule set to the wanted rules.

    ``wanted`` holds rules of ours alone. ``rewrite`` writes chains of Istio's even where they are as wanted.
    Chains whose names begin with one of ``also`` count as ours, too.
    """
    edits: list[TableEdit] = []
    changes: list[Change] = []
    only_adds = True
    for table in _order(live, wanted):
        chains, targets = live.tables.get(table, {}), wanted.tables.get(table, {})
        names = [*chains, *(name for name in targets if name not in chains)]
        for name in names:
            live_chain = chains.get(name, Chain(name))
            entries = targets[name].entries if name in targets else ()
            ours = [entry.rule for entry in live_chain.entries if is_ours(name, entry, also)]
            only_adds &= is_subsequence(ours, [entry.rule for entry in entries])
            only_adds &= name in targets or not is_istio_chain(name, also)
            changes += _changes(table, live_chain, entries, also)
        steps = _steps(chains, targets, rewrite=rewrite, also=also)
        if steps:
            edits.append(TableEdit(table, tuple(steps)))
    return FamilyPlan(live.family, tuple(edits), tuple(changes), only_adds)


def ours_alone(rules: RuleSet, also: tuple[str, ...] = ()) -> RuleSet:
    """A recognised rule set without what is foreign: what a table is put back to when a later one fails."""
    tables = {}
    for table, chains in rules.tables.items():
        kept = {
            name: chain.replace(entries=tuple([entry for entry in chain.entries if is_ours(name, entry, also)]))
            for name, chain in chains.items()
        }
        tables[table] = {name: chain for name, chain in kept.items() if chain.entries or is_istio_chain(name, also)}
    return RuleSet(rules.family, tables)


def writable(rules: RuleSet) -> tuple[RuleSet, tuple[str, ...]]:
    """The rules that iptables-restore can be given, and the texts of the others.

    What is of no consequence goes: a rule whose comment could be misread is written without it.
    """
    lost: list[str] = []

    def kept(chain: Chain) -> Chain:
        entries = []
        for entry in chain.entries:
            text = entry_text(entry)
            if not is_plain(text):
                bare = rule_text(
                    entry.rule.replace(matches=tuple(m for m in entry.rule.matches if not isinstance(m, Comment)))
                )
                if not is_plain(bare):
                    lost.append(text)
                    continue
                entry = entry.replace(text=bare)
            entries.append(entry)
        return chain.replace(entries=tuple(entries))

    tables = {table: {name: kept(chain) for name, chain in chains.items()} for table, chains in rules.tables.items()}
    return RuleSet(rules.family, tables), tuple(lost)


def _order(live: RuleSet, wanted: RuleSet) -> list[Table]:
    """Tables in the order of committing: what captures comes before the loss of what captured so far.

    The zones of DNS come before the redirection that needs them, and go after it. The table that is to hold inbound
    capture comes before the one that may hold it now. Connections that ztunnel opens to an ambient pod are remembered
    in mangle before any is redirected to it.
    """
    inbound_in_mangle = "PREROUTING" in wanted.tables.get(Table.MANGLE, {}) and "PREROUTING" not in wanted.tables.get(
        Table.NAT, {}
    )
    ambient = AMBIENT_CHAIN in wanted.tables.get(Table.NAT, {})
    capture = [Table.MANGLE, Table.NAT] if inbound_in_mangle or ambient else [Table.NAT, Table.MANGLE]
    order = [Table.RAW, *capture] if Table.RAW in wanted.tables else [*capture, Table.RAW]
    return [table for table in (*order, Table.FILTER, Table.SECURITY) if table in live.tables or table in wanted.tables]


def _steps(
    chains: Mapping[str, Chain], targets: Mapping[str, Chain], *, rewrite: bool, also: tuple[str, ...]
) -> list[Step]:
    declared: list[Step] = []
    deleted: list[Step] = []
    added: list[Step] = []
    removed: list[Step] = []
    for name in [*chains, *(name for name in targets if name not in chains)]:
        live, target = chains.get(name), targets.get(name)
        if not is_istio_chain(name, also):
            deletions, additions = _edit_shared(live or Chain(name), target.entries if target else (), also)
            deleted += deletions
            added += additions
        elif target is None:
            declared.append(Declare(name))
            removed.append(Remove(name))
        elif live is None or live.rules != target.rules or rewrite:
            declared.append(Declare(name))
            added += [Append(name, entry_text(entry)) for entry in target.entries]
    return [*declared, *deleted, *added, *removed]


def _edit_shared(live: Chain, wanted: tuple[Entry, ...], also: tuple[str, ...]) -> tuple[list[Step], list[Step]]:
    """Deletions and insertions for a chain that others use too."""
    if [entry.rule for entry in live.entries if is_ours(live.name, entry, also)] == [entry.rule for entry in wanted]:
        return [], []
    deletions: list[Step] = []
    remaining = live
    while leaving := _leaving(remaining, wanted, also):
        # Removal by text takes the first of equal rules, which may be another one than the one that was to go.
        left = list(remaining.entries)
        for going in leaving:
            text = entry_text(going)
            plain = is_plain(text)
            at = next(n for n, each in enumerate(left) if (entry_text(each) == text if plain else each is going))
            left.pop(at)
            deletions.append(Delete(live.name, text) if plain else Delete(live.name, text, at + 1))
        remaining = live.replace(entries=tuple(left))
    present = {id(entry) for entry in remaining.entries}
    additions: list[Step] = []
    merged = merge(remaining, wanted, also)
    for number, entry in enumerate(merged, 1):
        if id(entry) not in present:
            at_end = all(id(each) not in present for each in merged[number:])
            text = entry_text(entry)
            additions.append(Append(live.name, text) if at_end else Insert(live.name, number, text))
    return deletions, additions


def _leaving(live: Chain, wanted: tuple[Entry, ...], also: tuple[str, ...]) -> list[Entry]:
    """The rules that do not stay where they are."""
    kept = {id(entry) for entry in merge(live, wanted, also)}
    return [entry for entry in live.entries if id(entry) not in kept]


def _changes(table: Table, live: Chain, wanted: tuple[Entry, ...], also: tuple[str, ...]) -> list[Change]:
    """What happens to each rule of a chain, in the order of the wanted chain, removals where they stood."""
    ours = [entry for entry in live.entries if is_ours(live.name, entry, also)]
    pairs = common_pairs([entry.rule for entry in ours], [entry.rule for entry in wanted])
    kept_old, kept_new = {old for old, _ in pairs}, {new for _, new in pairs}
    leaving: dict[Rule, list[Entry]] = {}
    for index, entry in enumerate(ours):
        if index not in kept_old:
            leaving.setdefault(entry.rule, []).append(entry)
    changes = []
    for entry in live.entries:
        if not is_ours(live.name, entry, also):
            changes.append(Change(Kind.FOREIGN, table, live.name, entry_text(entry)))
    for index, entry in enumerate(wanted):
        kind = Kind.KEEP if index in kept_new else Kind.ADD
        if kind is Kind.ADD and leaving.get(entry.rule):
            leaving[entry.rule].pop(0)
            kind = Kind.MOVE
        changes.append(Change(kind, table, live.name, entry_text(entry), entry.role))
    gone = {id(entry) for entries in leaving.values() for entry in entries}
    for entry in ours:
        if id(entry) in gone:
            changes.append(Change(Kind.REMOVE, table, live.name, entry_text(entry), entry.role))
    return changes
