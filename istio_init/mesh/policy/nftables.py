"""A policy's clauses as native nftables has them: tables for both families, lists as sets.

They mean what iptables' rules mean. Where not both families are captured, base chains test which one a packet is of.
A list of more than one value is a named set whose elements count, its intervals merged.
"""

from __future__ import annotations

from itertools import product

from istio_init.dialects.iptables.matches import Owner
from istio_init.dialects.iptables.rules import Entry, Rule
from istio_init.dialects.iptables.targets import ACCEPT, DROP, RETURN, Jump, Tproxy
from istio_init.dialects.nft.element_ranges import is_everything, of_networks, of_numbers
from istio_init.dialects.nft.from_iptables import (
    COUNTER,
    NAMES,
    compared,
    expressions,
    header,
    meta,
    name_of,
    of_family,
)
from istio_init.dialects.nft.ruleset import Chain, Set, Table
from istio_init.dialects.nft.ruleset import Rule as NftRule
from istio_init.dialects.role import Role
from istio_init.mesh.native_names import BASE_CHAINS, FAMILY, GROUPS, native_name
from istio_init.mesh.policy.builder import Clause, Kind, OneOf
from istio_init.mesh.policy.iptables import of_family as values_of
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.dialects.iptables.tables import Table as IptablesTable
    from istio_init.dialects.nft.ruleset import Expression, Json

FIELDS = {Kind.SOURCE: "saddr", Kind.DESTINATION: "daddr", Kind.IN_INTERFACE: "iifname", Kind.OUT_INTERFACE: "oifname"}
UNCOUNTED = frozenset([Role.AMBIENT_JUMP])
"""Rules that would count every packet there is, and that Istio has not count either."""

COUNTING = "counter"
"""The flag, among a set's, that stands for a counter at each of its elements."""


def tables(clauses: Iterable[Clause], families: tuple[Family, ...], prefix: str) -> tuple[Table, ...]:
    """The tables, whose names begin with the prefix, that hold the rules of these families."""
    making: dict[IptablesTable, _Making] = {}
    for clause in _in_order(clauses):
        of_table = making.get(clause.table) or _Making(clause.table, families)
        if of_table.add(clause):
            making[clause.table] = of_table
    return tuple([each.made(f"{prefix}{table.value}") for table, each in making.items()])


def _in_order(clauses: Iterable[Clause]) -> Iterator[Clause]:
    """The clauses without tests of who is not the sender: nft's match no packet that has no socket.

    What returns for others than an owner stands before what returns for this owner. The other way round, the test is
    of no use. What returns for members of none of the groups becomes a chain that returns for members, and ends here.
    """
    left = list(clauses)
    for index, clause in enumerate(left):
        owners = [each for entry in clause.entries for each in entry.rule.matches if isinstance(each, Owner)]
        if not any(each.uid_negated or each.gid_negated for each in owners):
            yield clause
            continue
        [entry] = clause.entries
        rest = entry.rule.replace(matches=tuple([each for each in entry.rule.matches if each not in owners]))
        following = left[index + 1] if index + 1 < len(left) else clause
        if [each.rule for each in following.entries] == [Rule(matches=_affirmed(owners), target=RETURN)]:
            left[index + 1] = clause.replace(entries=(entry.replace(rule=rest),))
            yield following
        else:
            assert rest == Rule(target=RETURN), rest
            members = (OneOf(Kind.OWNER, _affirmed(owners)),)
            yield clause.replace(entries=(entry.replace(rule=Rule(target=Jump(GROUPS))),))
            yield Clause(clause.table, GROUPS, (entry.replace(rule=rest),), members)
            yield Clause(clause.table, GROUPS, (entry.replace(rule=Rule(target=ACCEPT)),))


def _affirmed(owners: list[Owner]) -> tuple[Owner, ...]:
    return tuple([each.replace(uid_negated=False, gid_negated=False) for each in owners])


class _Case(Value):
    """What a list becomes in one rule: a comparison with a value, or with a set by its name; None: no test at all."""

    kind: Kind
    right: Json = None
    negated: bool = False
    key: str = ""


class _Making:
    """A table in the making."""

    def __init__(self, table: IptablesTable, families: tuple[Family, ...]) -> None:
        self.table = table
        self.families = families
        self.chains: dict[str, list[list[NftRule]]] = {}
        self.sets: dict[str, Set] = {}

    def add(self, clause: Clause) -> bool:
        """Add the rules of a clause to its chain; False where it has none, and the chain need not exist for it."""
        rules = list(self._rules(clause))
        if not rules and clause.entries:
            return False
        chain = self.chains.setdefault(clause.chain, [])
        chain.insert(len(chain) if clause.number is None else clause.number - 1, rules)
        return True

    def made(self, name: str) -> Table:
        """The table as it stands."""
        found = []
        for chain, clauses in self.chains.items():
            rules = tuple([rule for each in clauses for rule in each])
            kind, priority = BASE_CHAINS.get((self.table, chain), (None, None))
            native = native_name(chain)
            hook, policy = (None, None) if kind is None else (native, "accept")
            found.append(Chain(native, rules, None, kind, hook, priority, policy))
        return Table(FAMILY, name, tuple(found), self.sets)

    def _rules(self, clause: Clause) -> Iterator[NftRule]:
        apart = any(each.kind in (Kind.SOURCE, Kind.DESTINATION) for each in clause.lists) or any(
            isinstance(entry.rule.target, Tproxy) for entry in clause.entries
        )
        families = tuple([family for family in self.families if family in clause.families])
        for group in [(family,) for family in families] if apart else [families] if families else []:
            lists = [list(self._cases(each, group[0], clause)) for each in clause.lists]
            for entry in clause.entries:
                for cases in product(*lists):
                    yield from self._rule(entry, clause.chain, group, cases)

    def _rule(
        self, entry: Entry, chain: str, families: tuple[Family, ...], cases: tuple[_Case, ...]
    ) -> Iterator[NftRule]:
        rule, family = entry.rule, families[0]
        tests = [_test(case, rule, family) for case in cases if case.right is not None]
        is_told = any(case.kind in (Kind.SOURCE, Kind.DESTINATION) and case.right is not None for case in cases)
        reached_by_all = families == tuple(Family) if (self.table, chain) in BASE_CHAINS else families == self.families
        if not is_told and not reached_by_all:
            tests.insert(0, of_family(family))
        comment = None if entry.role is None else entry.role.value
        if isinstance(rule.target, Jump):
            rule = rule.replace(target=Jump(native_name(rule.target.chain)))
        found = expressions(rule, family, tuple(tests))
        if entry.role in UNCOUNTED:
            found = tuple([each for each in found if each != COUNTER])
        yield NftRule(None, found, comment)
        if isinstance(rule.target, Tproxy):
            yield NftRule(None, expressions(rule.replace(target=DROP), family, tuple(tests)), comment)

    def _cases(self, test: OneOf, family: Family, clause: Clause) -> Iterator[_Case]:
        """What a list becomes in each of the rules that it takes; none where no value is of the family."""
        if test.kind is Kind.OWNER:
            for key in ("uid", "gid"):
                ids = [getattr(each, key) for each in test.values if getattr(each, key) is not None]
                if ids:
                    yield _Case(test.kind, self._right(of_numbers(ids), key, f"{key}s", clause), key=f"sk{key}")
        elif test.kind in (Kind.IN_INTERFACE, Kind.OUT_INTERFACE):
            names = [name_of(str(each)) for each in dict.fromkeys(test.values)]
            patterns = [name for name in names if name.endswith("*")]
            exact = tuple([name for name in names if name not in patterns])
            rights = [self._right(exact, "ifname", "interfaces", clause)] if exact else []
            for right in (*rights, *patterns):
                yield _Case(test.kind, right, test.negated)
        elif values := values_of(test, family):
            is_port = test.kind is Kind.DPORT
            elements = of_numbers(values) if is_port else of_networks(values)
            if is_everything(elements[0]) and not test.negated:
                yield _Case(test.kind)
                return
            kind = "inet_service" if is_port else f"{family.value}_addr"
            suffix = "" if is_port else family.value
            yield _Case(test.kind, self._right(elements, kind, suffix, clause), test.negated)

    def _right(self, elements: tuple[Json, ...], kind: str, suffix: str, clause: Clause) -> Json:
        """A single element itself, or the name of a set of all of them."""
        if len(elements) == 1:
            return elements[0]
        role = clause.entries[-1].role
        base = "-".join([each for each in ("list" if role is None else role.value, suffix) if each])
        flags = frozenset([COUNTING] if kind == "ifname" else [COUNTING, "interval"])
        number, name = 1, base
        while name in self.sets and self.sets[name].elements != elements:
            number += 1
            name = f"{base}-{number}"
        self.sets[name] = Set(name, kind, elements, flags=flags)
        return f"@{name}"


def _test(case: _Case, rule: Rule, family: Family) -> Expression:
    match case.kind:
        case Kind.SOURCE | Kind.DESTINATION:
            left = header(NAMES[family], FIELDS[case.kind])
        case Kind.DPORT:
            assert rule.protocol is not None
            left = header(rule.protocol.name, "dport")
        case Kind.OWNER:
            left = meta(case.key)
        case _:
            left = meta(FIELDS[case.kind])
    return compared(left, case.right, negated=case.negated)
