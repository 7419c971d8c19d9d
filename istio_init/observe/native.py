"""Istio's native tables among all of nf_tables, as rule sets beside those of iptables."""

from __future__ import annotations

from istio_init.dialects.rule_store import RuleStore
from istio_init.mesh.native import AMBIENT, SIDECAR, Raised, raised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.dialects.nft.ruleset import Ruleset
    from istio_init.netfilter.family import Family
    from istio_init.netfilter.stages import Netfilter


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


def holders(
    iptables: Mapping[tuple[RuleStore, Family], RuleSet], natives: tuple[Raised, ...]
) -> dict[tuple[RuleStore, Family], RuleSet]:
    """All rule sets, by store and family: those of iptables, and the native ones; a sidecar's where both are there."""
    found = dict(iptables)
    for family, rules in natives[0].captured.items() if natives else ():
        found[RuleStore.NATIVE, family] = rules
    return found
