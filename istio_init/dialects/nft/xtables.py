"""iptables' own tables, which anybody may write to with nft: what to believe of them, rule by rule.

iptables-nft-save prints what it knows of a rule and leaves out the rest: ranges, comparisons, most of what nft wrote.
The expressions are what the kernel evaluates. But of extensions of x_tables nft knows the names alone.
"""

from __future__ import annotations

from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import AnyOf, Chain, Forget, Lookup, Nat, Never, Rule, Test, Undecided, Unknowable
from istio_init.netfilter.rules import Table as Lowered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.nft import ruleset
    from istio_init.dialects.nft.ruleset import Expression, Json
    from istio_init.netfilter.rules import Statement

TABLES = frozenset(["raw", "mangle", "nat", "filter", "security"])
FAMILIES = frozenset(["ip", "ip6"])

_WRITTEN = frozenset("counter xt accept drop return jump goto limit log queue".split())
_WRITTEN_META = frozenset("iifname oifname iif oif l4proto mark".split())
_WRITTEN_HEADERS = frozenset("ip ip6 tcp udp udplite sctp dccp th".split())
_WRITTEN_FIELDS = frozenset("saddr daddr protocol nexthdr frag-off sport dport flags".split())
_TRACE = {"meta": {"key": "nftrace"}}


def is_iptables(table: ruleset.Table) -> bool:
    """Whether it is a table that iptables-nft prints."""
    return table.family in FAMILIES and table.name in TABLES


def has_extension(expressions: Iterable[Expression]) -> bool:
    """Whether a rule has an extension of x_tables, of which nft knows no more than the name."""
    return any("xt" in expression for expression in expressions)


def is_written_by_iptables(expressions: Iterable[Expression]) -> bool:
    """Whether iptables-nft (1.8.9, nft-shared.c) writes such a rule: with one counter, before what it does at last."""
    listed = list(expressions)
    counters = [place for place, expression in enumerate(listed) if "counter" in expression]
    if has_extension(listed):
        return True
    if len(counters) != 1 or counters[0] < len(listed) - 2 or isinstance(listed[counters[0]]["counter"], str):
        return False
    return all(map(_is_written, listed))


def _is_written(expression: Expression) -> bool:
    if "mangle" in expression:
        change = expression["mangle"]
        return isinstance(change, dict) and change.get("key") == _TRACE  # The target TRACE.
    match = expression.get("match")
    if not isinstance(match, dict):
        return expression.keys() <= _WRITTEN
    left, right, operator = match.get("left"), match.get("right"), match.get("op")
    if operator not in ("==", "!=") or (isinstance(right, str) and right.startswith("@")):
        return False
    masked = left.get("&") if isinstance(left, dict) else None
    is_ported = _is_port(left)
    if isinstance(right, dict) and not (right.keys() == {"prefix"} or (right.keys() == {"range"} and is_ported)):
        return False
    return _is_written_load(masked[0] if isinstance(masked, list) and masked else left)


def _is_port(left: Json) -> bool:
    match left:
        case {"payload": {"field": "sport" | "dport"}}:
            return True
    return False


def _is_written_load(left: Json) -> bool:
    match left:
        case {"meta": {"key": str(key)}}:
            return key in _WRITTEN_META
        case {"payload": {"protocol": str(header), "field": str(field)}}:
            return header in _WRITTEN_HEADERS and field in _WRITTEN_FIELDS
    return False


def merge(from_text: Lowered | None, from_expressions: Lowered, table: ruleset.Table) -> Lowered:
    """One table of iptables', out of what iptables-nft-save printed and of the same table's expressions.

    Chains, their hooks and priorities, and whether the table is dormant are those of the expressions. Of a rule with an
    extension, and of one that iptables wrote and that the expressions do not tell, the text is taken, with what the
    expressions test besides; else the expressions, with the text to show where iptables wrote the rule.

    ``from_text`` is None where it printed nothing. Where a chain has more or fewer rules in the text, the rules changed
    in between, or are not all printed: nothing of the text is taken.
    """
    chains = dict(from_expressions.chains)
    for chain in table.chains:
        printed = None if from_text is None else from_text.chains.get(chain.name)
        if printed is None or len(printed.rules) != len(chain.rules) or chain.name not in chains:
            continue
        chains[chain.name] = _merged(printed, chains[chain.name], chain)
    is_dormant = from_expressions.is_dormant
    return Lowered(
        from_expressions.store, from_expressions.family, from_expressions.name, chains, is_dormant=is_dormant
    )


def _merged(printed: Chain, lowered: Chain, chain: ruleset.Chain) -> Chain:
    by_number: dict[int, list[Rule]] = {}
    for rule in lowered.rules:
        by_number.setdefault(rule.origin.number, []).append(rule)
    rules = list(by_number.get(0, ()))
    for number, (text, source) in enumerate(zip(printed.rules, chain.rules, strict=True), 1):
        rules += _chosen(text, by_number.get(number, []), source)
    return Chain(lowered.name, tuple(rules), lowered.base)


def _chosen(text: Rule, lowered: list[Rule], source: ruleset.Rule) -> list[Rule]:
    is_theirs = is_written_by_iptables(source.expressions)
    is_told = not has_extension(source.expressions) and all(is_exact(rule.body) for rule in lowered)
    if is_theirs and not is_told:
        return [_with_tests(text, lowered[0], source.expressions) if lowered else text]
    if not is_theirs:
        return lowered
    shown = text.origin.text
    return [rule.replace(origin=rule.origin.replace(text=shown)) for rule in lowered]


def _with_tests(text: Rule, lowered: Rule, expressions: Iterable[Expression]) -> Rule:
    """A rule of the text, with the tests that its expressions tell.

    Of several tests of a port 1.8.9 prints the last, negated where any is: they are left out unless an extension, which
    the expressions do not tell, could have made them.
    """
    tests = [each for each in lowered.body if isinstance(each, _TESTS)]
    body = text.body
    if not _may_test_ports(expressions):
        told = {each.field for each in tests if type(each) is Test and each.field in _PORTS}
        body = tuple([each for each in body if each in tests or type(each) is not Test or each.field not in told])
    missing = [each for each in tests if each not in body]
    counters = lowered.counters if text.counters is None else text.counters
    return text.replace(body=(*missing, *body), counters=counters)


def _may_test_ports(expressions: Iterable[Expression]) -> bool:
    for expression in expressions:
        if "xt" in expression:
            found = expression["xt"]
            name = found.get("name") if isinstance(found, dict) else None
            if not isinstance(name, str) or name in _PORT_EXTENSIONS:
                return True
    return False


_PORTS = frozenset([Field.SPORT, Field.DPORT])
_PORT_EXTENSIONS = frozenset(["multiport", "tcp", "udp", "udplite", "sctp", "dccp"])
_TESTS = (Test, Lookup, Never)


def is_exact(body: Iterable[Statement]) -> bool:
    """Whether statements leave nothing open."""
    for statement in body:
        if isinstance(statement, Undecided | Unknowable | Forget):
            return False
        if isinstance(statement, Nat) and statement.cause is not None:
            return False
        if isinstance(statement, AnyOf) and not all(map(is_exact, statement.options)):
            return False
    return True
