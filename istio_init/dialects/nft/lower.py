"""Rules of nft as the kernel evaluates them: tables of the model.

Families ip, ip6 and inet, hooks from prerouting to postrouting. What else is registered is listed by `present`.
"""

from __future__ import annotations

from istio_init.dialects.nft import statements
from istio_init.dialects.nft.misprints import Misprint, may_be_another
from istio_init.dialects.nft.names import PRIORITIES
from istio_init.dialects.nft.ruleset import Uncollected
from istio_init.dialects.nft.scope import Body, Scope
from istio_init.dialects.nft.text import rule_text
from istio_init.dialects.nft.xtables import is_written_by_iptables
from istio_init.netfilter import chains as kernel
from istio_init.netfilter import rules as model
from istio_init.netfilter.chains import ChainType
from istio_init.netfilter.rules import Cause, End, Hook, Openness, Origin, Store, Undecided, Verdict
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.nft.ruleset import Chain, Expression, Json, Rule, Ruleset, Table
    from istio_init.netfilter.host import Link

FAMILIES = frozenset(["ip", "ip6", "inet"])
HOOKS = {hook.value: hook for hook in Hook}
TYPES = {kind.value: kind for kind in ChainType}


class Present(Value):
    """A chain that the kernel calls where this package does not follow it: at a device, on a bridge, for ARP."""

    family: str
    table: str
    chain: str
    hook: str
    priority: int | str | None
    devices: tuple[str, ...]
    rules: int
    drops: bool
    """Its policy."""


def present(ruleset: Ruleset) -> tuple[Present, ...]:
    """The base chains that `lower` does not give; those of dormant tables are not there."""
    return tuple(
        [
            Present(
                table.family,
                table.name,
                chain.name,
                chain.hook,
                chain.priority,
                chain.devices,
                len(chain.rules),
                chain.policy == "drop",
            )
            for table in ruleset.tables
            if table.is_dormant is not True
            for chain in table.chains
            if chain.hook is not None and (table.family not in FAMILIES or chain.hook not in HOOKS)
        ]
    )


def lower(
    ruleset: Ruleset,
    links: Mapping[int, Link] | None = None,
    *,
    dormant: Mapping[tuple[str, str], bool] | None = None,
    misprinted: Mapping[tuple[str, str, str, int], Misprint] | None = None,
    texts: Mapping[tuple[str, str, str], tuple[str, ...]] | None = None,
) -> tuple[kernel.Table, ...]:
    """The tables that see IP packets.

    ``links`` are the interfaces by index: nft prints the index of one that was not there when it was asked, and rules
    test their types, groups and kinds.
    ``dormant`` tells by family and name of tables whether they are (netlink knows), for those where the JSON does not
    (`ruleset.Table.is_dormant`). ``misprinted`` are rules that nft does not print as they are (`misprints`). ``texts``
    are what iptables prints of all rules of a chain, by family, table and chain: what is shown of those that it wrote.
    """
    with Uncollected():
        return tuple(
            [
                _table(
                    Scope(table, links or {}, _changing(table), misprinted, texts),
                    table,
                    (dormant or {}).get((table.family, table.name), table.is_dormant),
                )
                for table in ruleset.tables
                if table.family in FAMILIES
            ]
        )


def _table(scope: Scope, table: Table, is_dormant: bool | None) -> kernel.Table:
    chains = {chain.name: _chain(scope, chain, is_certain=is_dormant is not None) for chain in table.chains}
    return kernel.Table(Store.NFT, table.family, table.name, chains, is_dormant=is_dormant is True)


def _changing(table: Table) -> frozenset[str]:
    """The sets that rules add elements to, or delete them from. Not every flag of such a set is in the JSON."""
    return frozenset(
        [
            expression[kind][kind].removeprefix("@")
            for chain in table.chains
            for rule in chain.rules
            for expression in rule.expressions
            for kind in ("set", "map")
            if isinstance(expression.get(kind), dict) and isinstance(expression[kind].get(kind), str)
        ]
    )


def _chain(scope: Scope, chain: Chain, *, is_certain: bool) -> kernel.Chain:
    base = _base(chain)
    printed = scope.texts.get((scope.family, scope.table, chain.name), ())
    texts = printed if len(printed) == len(chain.rules) else [""] * len(chain.rules)
    rules = [
        lowered
        for number, (rule, text) in enumerate(zip(chain.rules, texts, strict=True), 1)
        for lowered in _rule(scope, chain, number, rule, text)
    ]
    if base is not None and not is_certain:
        rules.insert(0, _maybe_dormant(scope, chain))
    return kernel.Chain(chain.name, tuple(rules), base)


def _base(chain: Chain) -> kernel.BaseChain | None:
    if chain.hook not in HOOKS or chain.type not in TYPES:
        return None
    return kernel.BaseChain(HOOKS[chain.hook], _priority(chain.priority), TYPES[chain.type], chain.policy == "drop")


def _priority(value: int | str | None) -> int:
    """The number; nft prints numbers in JSON, and takes names and sums of them."""
    if not isinstance(value, str):
        return value or 0
    name, sign, rest = value.replace("-", "+-").partition("+")
    first = name.strip()
    start = PRIORITIES.get(first, int(first) if first.isdecimal() else 0)
    offset = rest.replace(" ", "")
    return start + (int(offset) if sign and offset.lstrip("-").isdecimal() else 0)


def _maybe_dormant(scope: Scope, chain: Chain) -> model.Rule:
    """A rule before all others: where the table is dormant its chains are not called, and the packet goes on."""
    words = f"whether table {scope.family} {scope.table} is dormant"
    body = Undecided(Cause(Openness.NOT_GIVEN, words)), End(Verdict.ACCEPT)
    return model.Rule(body, Origin(Store.NFT, scope.family, scope.table, chain.name, 0, words))


def _rule(scope: Scope, chain: Chain, number: int, rule: Rule, printed: str) -> list[model.Rule]:
    """A rule; several of the same number where it does one of several things, by an element or by chance."""
    body, tested = Body(scope), rule.expressions
    misprint = scope.misprinted.get((scope.family, scope.table, chain.name, rule.handle or 0))
    if misprint is not None:
        cause = Cause(Openness.NOT_MODELLED, misprint.value)
        body.add(Undecided(cause))
        tested = tuple([each for each in tested if not may_be_another(each)])
    if misprint is Misprint.ODD:
        ways: list[list[model.Statement]] = [[model.Unknowable(cause)]]
        body.tracks = True
    else:
        ways = statements.lower(body, tested) or [[]]
    is_theirs = printed and is_written_by_iptables(rule.expressions)
    text = printed if is_theirs else rule_text(rule.expressions, rule.comment)
    origin = Origin(Store.NFT, scope.family, scope.table, chain.name, number, text)
    counters = _counters(rule.expressions)
    only = None if body.tracks else body.tracks_only
    tracks = body.tracks or only is not None
    return [model.Rule((*body.statements, *way), origin, counters, tracks, only) for way in ways]


def _counters(expressions: tuple[Expression, ...]) -> tuple[int, int] | None:
    for expression in expressions:
        counter: Json = expression.get("counter")
        if isinstance(counter, dict):
            packets, octets = counter.get("packets"), counter.get("bytes")
            if isinstance(packets, int) and isinstance(octets, int):
                return packets, octets
    return None
