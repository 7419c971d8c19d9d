"""Tables of iptables, of which iptables-nft-save and nft tell different parts."""

from __future__ import annotations

import json

import pytest

from istio_init.dialects.iptables.lower import lower as lower_text
from istio_init.dialects.iptables.save import parse_save
from istio_init.dialects.nft.lower import lower
from istio_init.dialects.nft.ruleset import parse
from istio_init.dialects.nft.xtables import is_iptables, is_written_by_iptables, merge
from istio_init.netfilter.chains import Chain, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import End, Nat, NatKind, Rule, Store, Test, Undecided, Verdict

from .evaluating import holds
from .nft_rules import Json, header, match, meta, verdict

COUNTER = {"counter": {"packets": 3, "bytes": 4}}
ACCEPT, DROP = verdict("accept"), verdict("drop")
TCP = match(meta("l4proto"), "tcp")


def extension(kind: str, name: str) -> Json:
    return {"xt": {"type": kind, "name": name}}


def merged(*rules: tuple[list[Json], str | None], dormant: bool = False) -> Table:
    """The table filter with rules in OUTPUT, each as nft and as iptables-nft-save has it."""
    base = {"family": "ip", "table": "filter"}
    flags = {"flags": "dormant"} if dormant else {}
    items = [
        {"table": {"family": "ip", "name": "filter", **flags}},
        {"chain": {**base, "name": "OUTPUT", "type": "filter", "hook": "output", "prio": 0, "policy": "accept"}},
        {"chain": {**base, "name": "own", "type": "filter", "hook": "output", "prio": -7, "policy": "drop"}},
        *[{"rule": {**base, "chain": "OUTPUT", "expr": expressions}} for expressions, _ in rules],
        {"rule": {**base, "chain": "own", "expr": [DROP]}},
    ]
    ruleset = parse(json.dumps({"nftables": items}))
    lines = [f"-A OUTPUT {line}" for _, line in rules if line is not None]
    text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", *lines, "COMMIT", ""])
    [printed] = lower_text(parse_save(text, Family.IPV4).rules, Store.NFT)
    [lowered] = lower(ruleset)
    return merge(printed, lowered, ruleset.tables[0])


def output(table: Table) -> tuple[Rule, ...]:
    return table.chains["OUTPUT"].rules


@pytest.mark.parametrize(
    ("expressions", "printed", "facts", "expected"),
    [
        (
            [match(header("ip", "daddr"), {"range": ["10.0.0.0", "10.200.0.0"]}), COUNTER, DROP],
            "-d 10.200.0.0/32 -j DROP",
            {Field.DESTINATION: 0x0A010001},
            True,
        ),
        ([match(header("ip", "protocol"), "st", ">"), COUNTER, DROP], "-p st -j DROP", {Field.PROTOCOL: 6}, True),
        ([match(header("tcp", "doff"), 14, ">"), COUNTER, DROP], "-p tcp -j DROP", {Field.PROTOCOL: 6}, None),
        (
            [match(header("ip", "saddr"), "10.0.0.0", ">"), COUNTER, DROP],
            "-s 10.0.0.0/32 -j DROP",
            {Field.SOURCE: 0x0A010203},
            True,
        ),
    ],
)
def test_rules_that_nft_wrote_are_those_of_their_expressions(
    expressions: list[Json], printed: str, facts: dict[Field, int], expected: bool | None
) -> None:
    [rule] = output(merged((expressions, printed)))
    assert holds(rule.body, facts) is expected
    assert not rule.origin.text.startswith("-")


def test_rules_that_iptables_wrote_keep_its_text_and_have_the_kernel_s_expressions() -> None:
    [rule] = output(
        merged(([match(header("tcp", "dport"), 80), COUNTER, ACCEPT], "-p tcp -m tcp --dport 80 -j ACCEPT"))
    )
    assert rule.origin.text == "-p tcp -m tcp --dport 80 -j ACCEPT"
    assert rule.counters == (3, 4)
    assert holds(rule.body, {Field.PROTOCOL: 6, Field.DPORT: 80})


def test_extensions_are_told_by_the_text_alone() -> None:
    [rule] = output(merged(([TCP, COUNTER, extension("target", "REDIRECT")], "-p tcp -j REDIRECT --to-ports 15001")))
    assert rule.body[-1] == Nat(NatKind.REDIRECT, ports=(15001, 15001))
    assert rule.counters == (3, 4)
    [limited] = output(merged(([{"limit": {"rate": 5}}, COUNTER, ACCEPT], "-m limit --limit 5/sec -j ACCEPT")))
    [undecided] = [each for each in limited.body if isinstance(each, Undecided)]
    assert undecided.cause.words.startswith("-m limit")


@pytest.mark.parametrize(("port", "expected"), [(444, True), (443, False), (80, False)])
def test_of_two_tests_of_a_port_none_is_lost_and_no_negation_strays(port: int, expected: bool) -> None:
    twice = [match(header("udp", "sport"), 444), match(header("udp", "sport"), 443, "!=")]
    target = [COUNTER, extension("target", "MARK")]
    [rule] = output(merged(([*twice, *target], "-p udp -m udp ! --sport 443 -j MARK --set-xmark 0x1/0xffffffff")))
    assert holds(rule.body, {Field.PROTOCOL: 17, Field.SPORT: port}) is expected
    [other] = output(
        merged(([*reversed(twice), *target], "-p udp -m udp ! --sport 444 -j MARK --set-xmark 0x1/0xffffffff"))
    )
    assert holds(other.body, {Field.PROTOCOL: 17, Field.SPORT: port}) is expected


@pytest.mark.parametrize(("flags", "expected"), [(0x02, True), (0x12, True), (0x06, False), (0x00, False)])
def test_of_two_tests_of_tcp_flags_the_expressions_alone_tell(flags: int, expected: bool) -> None:
    some = {"match": {"op": "in", "left": header("tcp", "flags"), "right": ["syn", "rst", "ack"]}}
    syn = match({"&": [header("tcp", "flags"), ["syn", "rst"]]}, "syn")
    target = [COUNTER, extension("target", "TCPMSS")]
    printed = "-p tcp -m tcp ! --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000"
    [rule] = output(merged(([some, syn, *target], printed)))
    assert holds(rule.body, {Field.PROTOCOL: 6, Field.TCP_FLAGS: flags}) is expected


def test_ports_that_an_extension_tests_stay() -> None:
    expressions = [match(header("tcp", "sport"), 5), extension("match", "multiport"), COUNTER, ACCEPT]
    [rule] = output(merged((expressions, "-p tcp -m multiport --dports 1,2 -m tcp --sport 5 -j ACCEPT")))
    facts = {Field.PROTOCOL: 6, Field.SPORT: 5}
    assert holds(rule.body, {**facts, Field.DPORT: 2}) is True
    assert holds(rule.body, {**facts, Field.DPORT: 3}) is False


def test_chains_of_one_s_own_are_there_with_their_priority() -> None:
    own = merged().chains["own"]
    assert isinstance(own, Chain)
    assert own.base is not None
    assert (own.base.priority, own.base.drops) == (-7, True)
    assert own.rules[0].body == (End(Verdict.DROP),)


def test_the_table_is_dormant_as_nft_says() -> None:
    assert merged(dormant=True).is_dormant


def test_a_chain_that_changed_in_between_is_not_mixed() -> None:
    [first, second] = output(merged(([TCP, COUNTER, ACCEPT], "-p udp -j DROP"), ([COUNTER, DROP], None)))
    assert first.origin.text == "meta l4proto tcp counter accept"
    assert second.body == (End(Verdict.DROP),)


def test_marks_under_a_mask_that_cannot_hold_never_do() -> None:
    odd = match(meta("mark"), {"prefix": {"addr": 2, "len": 16}})
    [rule] = output(merged(([odd, COUNTER, DROP], "-m mark --mark 0x2/0xffff0000 -j DROP")))
    assert holds(rule.body, {Field.MARK: 2}) is False
    assert not any(isinstance(each, Test) for each in rule.body)


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        ([TCP, COUNTER, ACCEPT], True),
        ([COUNTER], True),
        ([{"counter": None}, verdict("jump", "x")], True),
        ([match({"&": [meta("mark"), 255]}, 1), COUNTER, DROP], True),
        ([match(header("tcp", "dport"), {"range": [1, 5]}, "!="), COUNTER, DROP], True),
        ([COUNTER, {"mangle": {"key": meta("nftrace"), "value": 1}}], True),
        ([extension("match", "socket"), COUNTER, DROP], True),
        ([TCP, ACCEPT], False),
        ([COUNTER, TCP, ACCEPT], False),
        ([{"counter": "named"}, ACCEPT], False),
        ([match(header("tcp", "dport"), {"set": [1, 2]}), COUNTER, DROP], False),
        ([match(header("ip", "saddr"), "@s"), COUNTER, DROP], False),
        ([match(header("ip", "saddr"), {"range": ["1.1.1.1", "1.1.1.5"]}), COUNTER, DROP], False),
        ([match(header("tcp", "window"), 5), COUNTER, DROP], False),
        ([match({"ct": {"key": "state"}}, "new", "in"), COUNTER, DROP], False),
        ([COUNTER, {"mangle": {"key": meta("mark"), "value": 1}}], False),
    ],
)
def test_who_wrote_a_rule_shows_in_its_expressions(expressions: list[Json], expected: bool) -> None:
    assert is_written_by_iptables(expressions) is expected


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [("ip", "nat", True), ("ip6", "raw", True), ("inet", "nat", False), ("ip", "x", False)],
)
def test_iptables_has_five_tables_of_two_families(family: str, name: str, expected: bool) -> None:
    [table] = parse(f'{{"nftables": [{{"table": {{"family": "{family}", "name": "{name}"}}}}]}}').tables
    assert is_iptables(table) is expected
