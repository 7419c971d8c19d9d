"""A policy's clauses as iptables has them: a rule for each value of a list, in each family."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import product

from istio_init.dialects.iptables.matches import Address, Interface
from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet
from istio_init.dialects.iptables.targets import Tproxy
from istio_init.mesh.policy.builder import Kind, dport
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from istio_init.dialects.iptables.rules import Rule
    from istio_init.dialects.iptables.tables import Table
    from istio_init.mesh.policy.builder import Clause, OneOf

ANY_ADDRESS: dict[Family, IPv4Address | IPv6Address] = {
    Family.IPV4: IPv4Address("0.0.0.0"),
    Family.IPV6: IPv6Address("::"),
}
VERSION = {Family.IPV4: 4, Family.IPV6: 6}


def rule_set(clauses: Iterable[Clause], family: Family) -> RuleSet:
    """The rules of one family. Chains stand in the order in which they are first used."""
    tables: dict[Table, dict[str, list[Entry]]] = {}
    for clause in clauses:
        entries = list(spread(clause, family))
        if not entries and clause.entries:
            continue
        chain = tables.setdefault(clause.table, {}).setdefault(clause.chain, [])
        if clause.number is None:
            chain += entries
            continue
        for entry in entries:
            chain.insert(clause.number - 1, entry)
    made = {
        table: {name: Chain(name, tuple(entries)) for name, entries in chains.items()}
        for table, chains in tables.items()
    }
    return RuleSet(family, made)


def spread(clause: Clause, family: Family) -> Iterator[Entry]:
    """The rules of a clause in a family; none where it does not hold there, or a list has no value of the family."""
    if family not in clause.families:
        return
    for values in product(*[of_family(each, family) for each in clause.lists]):
        for entry in clause.entries:
            rule = entry.rule
            for test, value in zip(clause.lists, values, strict=True):
                rule = _with(rule, test, value)
            if isinstance(rule.target, Tproxy):
                rule = rule.replace(target=rule.target.replace(address=ANY_ADDRESS[family]))
            yield Entry(rule, entry.role, first=entry.first)


def of_family(test: OneOf, family: Family) -> tuple[Any, ...]:
    """The values that can be compared with a packet of the family."""
    if test.kind not in (Kind.SOURCE, Kind.DESTINATION):
        return test.values
    return tuple([each for each in test.values if each.version == VERSION[family]])  # type: ignore[union-attr]


def _with(rule: Rule, test: OneOf, value: Any) -> Rule:
    """The rule with one more test. Every address, and every port, is no test at all, as iptables prints it."""
    match test.kind:
        case Kind.SOURCE | Kind.DESTINATION:
            is_test = value.prefixlen or test.negated
            return rule.replace(**{test.kind.value: Address(value, test.negated) if is_test else None})
        case Kind.IN_INTERFACE | Kind.OUT_INTERFACE:
            return rule.replace(**{test.kind.value: Interface(value, test.negated)})
        case Kind.DPORT:
            assert rule.protocol is not None
            ports = dport(rule.protocol.name, value, negated=test.negated)
            return rule.replace(matches=(ports, *rule.matches))
        case Kind.OWNER:
            return rule.replace(matches=(*rule.matches, value))
