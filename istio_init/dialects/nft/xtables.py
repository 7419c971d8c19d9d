"""iptables' own tables, which anybody may write to with nft: what to believe of them, rule by rule.

iptables-nft-save prints what it knows of a rule and leaves out the rest: ranges, comparisons, most of what nft wrote.
The expressions are what the kernel evaluates. But of extensions of x_tables nft knows the names alone.
"""

from __future__ import annotations

from istio_init.dialects.nft.misprints import Misprint
from istio_init.netfilter.chains import Chain
from istio_init.netfilter.chains import Table as Lowered
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import (
    AnyOf,
    Forget,
    Hook,
    Lookup,
    Nat,
    NatKind,
    Never,
    Rule,
    Test,
    Undecided,
    Unknowable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from istio_init.dialects.nft import ruleset
    from istio_init.dialects.nft.ruleset import Expression, Json
    from istio_init.netfilter.chains import BaseChain
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


def extension_chain(handle: int) -> str:
    """The chain that stands for the extensions of one rule, by its handle."""
    return f"x{handle}"


def lacks_extensions(printed: Mapping[str, int], table: ruleset.Table) -> bool:
    """Whether a rule has extensions, and nothing of its chain's text is taken; ``printed`` counts rules by chain."""
    return any(
        printed.get(chain.name) != len(chain.rules) and any(has_extension(rule.expressions) for rule in chain.rules)
        for chain in table.chains
    )


def _is_whole(from_text: Lowered, chain: ruleset.Chain) -> bool:
    """Whether a chain has as many rules in the text."""
    printed = from_text.chains.get(chain.name)
    return printed is not None and len(printed.rules) == len(chain.rules)


def merge(
    from_text: Lowered | None, from_expressions: Lowered, table: ruleset.Table, extensions: Lowered | None = None
) -> Lowered:
    """One table of iptables', out of what iptables-nft-save printed and of the same table's expressions.

    Chains, their hooks and priorities, and whether the table is dormant are those of the expressions. Of a rule with an
    extension, and of one that iptables wrote and that the expressions do not tell, the text is taken, with what the
    expressions test besides; else the expressions, with the text to show where iptables wrote the rule.

    ``from_text`` is None where it printed nothing. Where a chain has more or fewer rules in the text, the rules changed
    in between, or are not all printed: nothing of the text is taken, and ``extensions`` tell of the rules' extensions,
    by `extension_chain`.
    """
    chains = dict(from_expressions.chains)
    for chain in table.chains:
        if chain.name in chains and from_text is not None and _is_whole(from_text, chain):
            chains[chain.name] = _merged(from_text.chains[chain.name], chains[chain.name], chain)
        elif chain.name in chains and extensions is not None:
            chains[chain.name] = _extended(chains[chain.name], chain, extensions)
    is_dormant = from_expressions.is_dormant
    return Lowered(
        from_expressions.store, from_expressions.family, from_expressions.name, chains, is_dormant=is_dormant
    )


def _extended(lowered: Chain, chain: ruleset.Chain, extensions: Lowered) -> Chain:
    """A chain with what its rules' extensions are."""
    handles = {number: rule.handle for number, rule in enumerate(chain.rules, 1)}
    rules = []
    for rule in lowered.rules:
        handle = handles.get(rule.origin.number)
        told = extensions.chains.get(extension_chain(handle)) if handle is not None else None
        rules.append(
            rule if told is None or len(told.rules) != 1 else _with_extensions(rule, told.rules[0], lowered.base)
        )
    return Chain(lowered.name, tuple(rules), lowered.base)


def _with_extensions(rule: Rule, told: Rule, base: BaseChain | None) -> Rule:
    """A rule whose extensions are told: iptables wrote it, matches first, and what it does last.

    NETMAP translates by the hook, which is not known of a chain that is called.
    """
    if any(isinstance(each, Nat) and each.netmap for each in told.body):
        if base is None:
            return rule
        kind = NatKind.DNAT if base.hook in (Hook.PREROUTING, Hook.OUTPUT) else NatKind.SNAT
        told = told.replace(
            body=tuple([each.replace(kind=kind) if isinstance(each, Nat) else each for each in told.body])
        )
    first = next((at for at, each in enumerate(rule.body) if not isinstance(each, _CONDITIONS)), len(rule.body))
    if not any(map(_is_untold, rule.body[first:])):  # Matches alone, which may change something, as socket the mark.
        first = next((at for at, each in enumerate(rule.body) if _is_untold(each)), first)
    tests = [each for each in rule.body[:first] if not _is_untold(each)]
    ends = [each for each in rule.body[first:] if not _is_untold(each)]
    return rule.replace(body=(*tests, *told.body, *ends), tracks=rule.tracks or told.tracks)


def _is_untold(statement: Statement) -> bool:
    return isinstance(statement, Undecided | Unknowable) and statement.cause.words.startswith(_EXTENSION_WORDS)


def _merged(printed: Chain, lowered: Chain, chain: ruleset.Chain) -> Chain:
    by_number: dict[int, list[Rule]] = {}
    for rule in lowered.rules:
        by_number.setdefault(rule.origin.number, []).append(rule)
    rules = list(by_number.get(0, ()))
    for number, (text, source) in enumerate(zip(printed.rules, chain.rules, strict=True), 1):
        rules += _chosen(text, by_number.get(number, []), source)
    return Chain(lowered.name, tuple(rules), lowered.base)


def _chosen(text: Rule, lowered: list[Rule], source: ruleset.Rule) -> list[Rule]:
    # What iptables wrote has its text already, if it was lowered with that.
    is_shown = bool(lowered) and lowered[0].origin.text == text.origin.text
    if any(map(_is_misprinted, lowered)):
        return lowered  # What iptables prints of such a rule is no better.
    is_theirs = is_shown or is_written_by_iptables(source.expressions)
    is_told = not has_extension(source.expressions) and all(is_exact(rule.body) for rule in lowered)
    if is_theirs and not is_told:
        return [_with_tests(text, lowered[0], source.expressions) if lowered else text]
    if not is_theirs:
        return lowered
    shown = text.origin.text
    return [
        rule if rule.origin.text == shown else rule.replace(origin=rule.origin.replace(text=shown)) for rule in lowered
    ]


def _is_misprinted(rule: Rule) -> bool:
    first = rule.body[0] if rule.body else None
    return isinstance(first, Undecided) and first.cause.words in _MISPRINTS


def _with_tests(text: Rule, lowered: Rule, expressions: Iterable[Expression]) -> Rule:
    """A rule of the text, with the tests that its expressions tell.

    Of several tests of a port, or of TCP's flags, 1.8.9 prints the last, negated where any is: they are left out unless
    an extension, which the expressions do not tell, could have made them.
    """
    tests = [each for each in lowered.body if isinstance(each, _TESTS)]
    body = text.body
    if not _may_test_ports(expressions):
        told = {each.field for each in tests if type(each) is Test and each.field in _REPEATED}
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


_REPEATED = frozenset([Field.SPORT, Field.DPORT, Field.TCP_FLAGS])
_PORT_EXTENSIONS = frozenset(["multiport", "tcp", "udp", "udplite", "sctp", "dccp"])
_CONDITIONS = (Test, Lookup, AnyOf, Undecided, Never)
_MISPRINTS = frozenset([each.value for each in Misprint])
_EXTENSION_WORDS = ("xt match ", "xt target ")
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
