"""Reading the JSON of nft."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from istio_init.dialects.nft.lower import lower, present
from istio_init.dialects.nft.ruleset import RulesetError, Set, parse

from .nft_rules import chain, document, in_chain

CORPUS = json.loads(Path(__file__).with_name("nft_corpus.json").read_text())
"""Rules as nft 1.0.6 prints them, as text and as JSON."""


def test_tables_hold_their_chains_sets_and_rules_in_order() -> None:
    text = document(
        {"counter": {"name": "seen", "packets": 5, "bytes": 6}},
        {"set": {"name": "s", "type": "ipv4_addr", "flags": ["timeout"], "timeout": 60, "elem": ["1.2.3.4"]}},
        {"map": {"name": "m", "type": "mark", "map": "mark", "elem": [[1, 2]]}},
        chain("c", type="filter", hook="input", prio=-5, policy="drop", handle=3),
        in_chain({"accept": None}, handle=7, comment="why"),
        in_chain({"drop": None}),
    )
    [table] = parse(text).tables
    [found] = table.chains
    assert (found.hook, found.priority, found.policy, found.handle) == ("input", -5, "drop", 3)
    assert [(rule.handle, rule.comment, rule.expressions) for rule in found.rules] == [
        (7, "why", ({"accept": None},)),
        (None, None, ({"drop": None},)),
    ]
    assert table.sets["s"] == Set("s", "ipv4_addr", ("1.2.3.4",), None, frozenset(["timeout"]), 60)
    assert table.sets["m"].data == "mark"
    assert [(named.kind, named.name) for named in table.objects] == [("counter", "seen")]


@pytest.mark.parametrize(
    ("flags", "is_dormant"),
    [
        ({}, False),
        ({"flags": "dormant"}, True),
        ({"flags": ["owner", "dormant"]}, True),
        ({"flags": "owner"}, False),
        ({"flags": "Lester Gooch #5"}, None),
    ],
)
def test_a_table_is_dormant_where_it_says_so_and_unclear_where_nft_printed_other_memory(
    flags: dict[str, Any], is_dormant: bool | None
) -> None:
    [table] = parse(document(**flags)).tables
    assert table.is_dormant is is_dormant


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"nftables": ' + "9" * 9999 + "}", "no JSON"),
        ("[]", "no list 'nftables'"),
        ('{"nftables": 1}', "no list 'nftables'"),
        ('{"nftables": [1]}', "item 0: not an object of one key"),
        ('{"nftables": [{"table": 1}]}', "item 0: 'table' is no object"),
        ('{"nftables": [{"table": {"family": "ipx", "name": "t"}}]}', "no family 'ipx'"),
        ('{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "c"}}]}', "table 't' of family ip"),
        (document({"rule": {"chain": "c", "expr": []}}), "item 1: chain 'c' of table 't' was not listed before"),
        (document(chain(), {"rule": {"chain": "c", "expr": 1}}), "item 2: 'expr' of a rule is no list"),
        (document(chain(hook="input")), "base chain 'c' has no type"),
        (document(chain(prio=True)), "the priority of chain 'c'"),
        (document({"set": {"name": "s", "elem": 1}}), "the elements of 's' are no list"),
    ],
)
def test_what_is_no_ruleset_is_refused_with_what_and_where(text: str, says: str) -> None:
    with pytest.raises(RulesetError, match="^.*" + says):
        parse(text)


def _deep(depth: int) -> object:
    found: object = {"meta": {"key": "mark"}}
    for _ in range(depth):
        found = {"&": [found, 1]}
    return found


JUNK: list[Any] = [
    None, True, -1, 10**300, 1.5, "", "@", "@none", "*", "\ud800", "²", [], {}, [1], {"set": 3}, {"range": [1]},
    {"prefix": {"addr": "x", "len": 8}}, {"prefix": {"addr": "1.2.3.4", "len": -3}}, {"concat": []}, {"elem": 3},
    {"|": 3}, {"&": [1, 2]}, {">>": [{"meta": {"key": "mark"}}, 10**30]}, {"map": {}}, {"ct": {"key": []}},
    {"payload": {"protocol": [], "field": {}}}, {"payload": {"base": "nh", "offset": True, "len": 10**20}},
    {"fib": {"flags": [[]], "result": []}}, {"jump": {"target": []}}, _deep(60), {"xt": None},
]  # fmt: skip


def _places(value: object, place: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [place] if place else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*place, key))
    return found


def test_odd_expressions_are_never_a_traceback() -> None:
    draw = random.Random(7)
    for _ in range(1500):
        _, expressions = draw.choice(CORPUS)
        expressions = json.loads(json.dumps(expressions))
        *way, last = draw.choice(_places(expressions))
        target = expressions
        for key in way:
            target = target[key]
        target[last] = draw.choice(JUNK)
        lower(parse(document(chain(), in_chain(*expressions), family=draw.choice(["ip", "ip6", "inet"]))))


def test_what_is_registered_elsewhere_is_listed_and_not_lowered() -> None:
    hook: dict[str, Any] = {"type": "filter", "hook": "ingress", "prio": -5, "dev": "eth0"}
    ruleset = parse(document(chain(**hook, policy="drop"), in_chain({"drop": None}), family="netdev"))
    [found] = present(ruleset)
    assert (found.family, found.table, found.chain, found.hook, found.devices, found.rules, found.drops) == (
        "netdev", "t", "c", "ingress", ("eth0",), 1, True
    )  # fmt: skip
    assert lower(ruleset) == ()
    [inside] = present(parse(document(chain(**hook))))
    assert inside.family == "inet"
    assert present(parse(document(chain(**hook), flags="dormant"))) == ()
