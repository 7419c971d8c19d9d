"""Istio's native tables among all of nf_tables, as rule sets beside those of iptables."""

from __future__ import annotations

from istio_init.dialects.nft.xtables import has_extension, is_iptables
from istio_init.dialects.rule_store import RuleStore
from istio_init.mesh.native import AMBIENT, SIDECAR, Raised, raised
from istio_init.mesh.roles.recognise import is_istio_chain
from istio_init.netfilter.family import Family
from istio_init.observe.unread import Part, Unread, Why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.dialects.nft.ruleset import Ruleset
    from istio_init.netfilter.stages import Netfilter


FAMILIES = {Family.IPV4: "ip", Family.IPV6: "ip6"}


def raised_from(ruleset: Ruleset | None, netfilter: Netfilter) -> tuple[Raised, ...]:
    """The native rules of a sidecar, and of an ambient pod, as far as tables of theirs are in force.

    ``netfilter`` is the model of the same rules: it knows from the kernel which tables are dormant.
    """
    if ruleset is None:
        return ()
    dormant = {(table.family, table.name): table.is_dormant for table in netfilter.tables}
    tables = tuple(
        table.replace(is_dormant=dormant.get((table.family, table.name), table.is_dormant))
        for table in ruleset.tables
        if table.name.startswith((SIDECAR, AMBIENT))
    )
    found = (raised(ruleset.replace(tables=tables), prefix) for prefix in (SIDECAR, AMBIENT))
    return tuple(each for each in found if each is not None)


def unsaved_istio_tables(ruleset: Ruleset, saved: Mapping[tuple[RuleStore, Family], RuleSet]) -> tuple[str, ...]:
    """The tables of iptables' that hold chains of Istio's and are in no rule set, as nft names them."""
    known = {
        (FAMILIES[family], table.value)
        for (store, family), rules in saved.items()
        if store is RuleStore.NFT
        for table in rules.tables
    }
    return tuple(
        f"{table.family} {table.name}"
        for table in ruleset.tables
        if is_iptables(table)
        and (table.family, table.name) not in known
        and any(is_istio_chain(chain.name) for chain in table.chains)
    )


def is_told(left: Unread, printed: Mapping[tuple[RuleStore, Family], RuleSet], ruleset: Ruleset) -> bool:
    """Whether nft tells all of what iptables-nft could not print.

    Of the tables that it left out, none may hold a chain of Istio's, as nobody recognises rules there, nor an extension
    of x_tables, of which nft knows no more than the name.
    """
    if left.part is not Part.RULES_NFT or left.why is Why.DENIED or left.family is None:
        return False
    found = printed.get((RuleStore.NFT, left.family))
    shown = {table.value for table in found.tables} if found is not None else set()
    refused = [
        table
        for table in ruleset.tables
        if table.family == FAMILIES[left.family] and is_iptables(table) and table.name not in shown
    ]
    return bool(refused) and not any(
        is_istio_chain(chain.name) or any(has_extension(rule.expressions) for rule in chain.rules)
        for table in refused
        for chain in table.chains
    )


def holders(
    iptables: Mapping[tuple[RuleStore, Family], RuleSet], natives: tuple[Raised, ...]
) -> dict[tuple[RuleStore, Family], RuleSet]:
    """All rule sets, by store and family: those of iptables, and the native ones; a sidecar's where both are there."""
    found = dict(iptables)
    for family, rules in natives[0].captured.items() if natives else ():
        found[RuleStore.NATIVE, family] = rules
    return found
