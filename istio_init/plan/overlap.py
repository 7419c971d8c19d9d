"""Rules for the moment in which two stores hold a sidecar's TPROXY rules, when one takes them over from the other.

What one store has handed to the proxy and marked, the other would take for a packet of the proxy's, and keep its mark
with the connection: the answers would be routed back to this machine until it is closed. The proxy's own packets
come in via lo, so for the moment only those count. A rule that a killed run left so is known, and replaced by the next
run.
"""

from __future__ import annotations

from istio_init.dialects.iptables.matches import Interface
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.role import Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.iptables.rules import Entry
    from istio_init.dialects.nft.ruleset import Expression, Table
    from istio_init.mesh.policy.builder import Clause
    from istio_init.plan.make import Live

_LO = Interface("lo")
_FROM_LO: Expression = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}


def stores_that_save(live: Live, native: str) -> set[str]:
    """The stores in which live rules of a sidecar do so; ``native`` is the name of the one that is not iptables'."""
    found = {
        store
        for (store, _), rules in live.rules.items()
        if any(entry.role is Role.TPROXY_SAVE_MARK for *_, entry in rules.entries())
    }
    return found | {native} if any(map(_saving, live.native)) else found


def narrow_clauses(clauses: Iterable[Clause]) -> tuple[Clause, ...]:
    """The policy, for the moment."""
    return tuple([clause.replace(entries=tuple(map(_narrow, clause.entries))) for clause in clauses])


def narrow_rules(rules: RuleSet) -> RuleSet:
    """Live rules of iptables, for the moment."""
    tables = {
        table: {name: chain.replace(entries=tuple(map(_narrow, chain.entries))) for name, chain in chains.items()}
        for table, chains in rules.tables.items()
    }
    return RuleSet(rules.family, tables)


def narrow_tables(tables: Iterable[Table]) -> tuple[Table, ...]:
    """Live tables of native nftables, for the moment."""
    found = []
    for table in tables:
        saving = _saving(table)
        chains = []
        for chain in table.chains:
            rules = [
                rule.replace(expressions=(_FROM_LO, *[each for each in rule.expressions if each != _FROM_LO]))
                if (chain.name, number) in saving
                else rule
                for number, rule in enumerate(chain.rules, 1)
            ]
            chains.append(chain.replace(rules=tuple(rules)))
        found.append(table.replace(chains=tuple(chains)))
    return tuple(found)


def _narrow(entry: Entry) -> Entry:
    if entry.role is not Role.TPROXY_SAVE_MARK:
        return entry
    return entry.replace(rule=entry.rule.replace(in_interface=_LO), text=None)


def _saving(table: Table) -> set[tuple[str, int]]:
    """Chain and number of the rules that keep marks, in a sidecar's table."""
    from istio_init.dialects.nft.ruleset import Ruleset
    from istio_init.mesh.native import raised

    found = raised(Ruleset((table,)))
    if found is None:
        return set()
    roles = found.roles().items()
    return {(spot.chain, spot.number) for spot, role in roles if role is Role.TPROXY_SAVE_MARK}
