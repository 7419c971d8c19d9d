"""The policies as we write native nftables, raised (`istio_init.mesh.native`): what iptables has, with lists merged."""

from __future__ import annotations

from ipaddress import collapse_addresses

from istio_init.dialects.iptables.matches import IdRange, Owner, PortMatch, PortRange
from istio_init.dialects.iptables.rules import Chain, RuleSet
from istio_init.mesh.policy import ambient, sidecar
from istio_init.mesh.policy.builder import Kind
from istio_init.mesh.policy.iptables import spread
from istio_init.mesh.raising import in_order
from istio_init.netfilter.intervals import union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from istio_init.config.ambient import AmbientConfig
    from istio_init.config.model import Config, Surroundings
    from istio_init.dialects.iptables.rules import Entry, Rule
    from istio_init.dialects.iptables.tables import Table
    from istio_init.mesh.policy.builder import Clause, OneOf
    from istio_init.netfilter.family import Family


def sidecar_rules(config: Config, around: Surroundings) -> dict[Family, RuleSet]:
    """The rules of a sidecar as we write them, raised: what iptables has, with lists merged."""
    return _merged(sidecar.clauses(config, around), around.families)


def ambient_rules(config: AmbientConfig) -> dict[Family, RuleSet]:
    """The same of a pod in an ambient mesh."""
    return _merged(ambient.clauses(config), config.families)


def _merged(clauses: tuple[Clause, ...], families: tuple[Family, ...]) -> dict[Family, RuleSet]:
    found = {}
    for family in families:
        tables: dict[Table, dict[str, list[list[Entry]]]] = {}
        for clause in clauses:
            lists = tuple([_merged_list(each) for each in clause.lists])
            apart = [clause.replace(entries=(entry,), lists=lists) for entry in clause.entries]
            entries = [entry.replace(rule=_plain(entry.rule)) for each in apart for entry in spread(each, family)]
            if entries or not clause.entries:
                parts = tables.setdefault(clause.table, {}).setdefault(clause.chain, [])
                parts.insert(len(parts) if clause.number is None else clause.number - 1, entries)
        made = {
            table: {
                name: Chain(name, tuple([entry for each in parts for entry in each])) for name, parts in chains.items()
            }
            for table, chains in tables.items()
        }
        found[family] = RuleSet(family, made)
    return found


def _merged_list(test: OneOf) -> OneOf:
    """The list with its values merged, in the order in which sets are read."""
    values: tuple[Any, ...] = test.values
    match test.kind:
        case Kind.SOURCE | Kind.DESTINATION:
            apart = [[each for each in values if each.version == version] for version in (4, 6)]
            merged = tuple([each for networks in apart for each in collapse_addresses(networks)])
        case Kind.DPORT:
            merged = tuple([PortRange(*each) for each in union([((ports.first, ports.last),) for ports in values])])
        case Kind.OWNER:
            merged = (*_merged_owners(values, "uid"), *_merged_owners(values, "gid"))
        case _:
            exact = sorted({name for name in values if not name.endswith("+")})
            merged = (*exact, *dict.fromkeys(name for name in values if name.endswith("+")))
    return test.replace(values=merged)


def _merged_owners(owners: Iterable[Owner], key: str, *, negated: bool = False) -> tuple[Owner, ...]:
    ids = [getattr(each, key) for each in owners if getattr(each, key) is not None]
    ranges = [IdRange(*each) for each in union([((each.first, each.last),) for each in ids])]
    if key == "uid":
        return tuple([Owner(uid=each, uid_negated=negated) for each in ranges])
    return tuple([Owner(gid=each, gid_negated=negated) for each in ranges])


def _plain(rule: Rule) -> Rule:
    """The rule without matches that test nothing, and with those of no member of groups merged."""
    matches = [each for each in rule.matches if each != PortMatch(getattr(each, "protocol", ""))]
    strangers = [each for each in matches if isinstance(each, Owner) and each.gid_negated]
    if len(strangers) > 1:
        matches = [each for each in matches if each not in strangers]
        matches += _merged_owners(strangers, "gid", negated=True)
    return in_order(rule.replace(matches=tuple(matches)))
