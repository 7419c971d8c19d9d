"""Rules that nft prints otherwise than the kernel has them, and extensions that it does not print at all."""

from __future__ import annotations

import json

import pytest

from istio_init.dialects.iptables.lower import lower as lower_text
from istio_init.dialects.iptables.save import parse_save
from istio_init.dialects.nft.lower import lower
from istio_init.dialects.nft.misprints import Misprint, Told, misprinted
from istio_init.dialects.nft.ruleset import Ruleset, parse
from istio_init.dialects.nft.xtables import extension_chain, lacks_extensions, merge
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import Assign, Cause, End, Forget, Nat, NatKind, Openness, Rule, Store, Test, Undecided

from .nft_rules import Json, header, match, meta, verdict

DROP = verdict("drop")
HANDLE = 7


def ruleset(*expressions: Json, family: str = "inet", table: str = "t", hook: str = "output") -> Ruleset:
    """A table with one base chain and one rule."""
    place = {"family": family, "table": table}
    kind = "nat" if table == "nat" else "filter"
    items = [
        {"table": {"family": family, "name": table}},
        {"chain": {**place, "name": "c", "type": kind, "hook": hook, "prio": 0, "policy": "accept"}},
        {"rule": {**place, "chain": "c", "handle": HANDLE, "expr": list(expressions)}},
    ]
    return parse(json.dumps({"nftables": items}))


USERS = match(meta("skuid"), {"range": [1000, 1000]}, "!=")
DESTINATION = match(header("ip", "daddr"), "10.1.2.3", "!=")
PORT = match(header("tcp", "dport"), 80, "!=")
PORTS = match(header("tcp", "dport"), {"range": [10, 500]})
ETHER = match(header("ether", "saddr"), "02:00:00:00:00:01")
TYPE = match(meta("iiftype"), "ether")
CONNECTION = match({"ct": {"key": "protocol", "dir": "original"}}, "udp")


@pytest.mark.parametrize(
    ("expressions", "told", "expected"),
    [
        ((USERS, DROP), Told(negated_ranges=1), False),
        ((USERS, DROP), Told(), True),
        ((DESTINATION, DROP), Told(negated_values=1), False),
        ((DESTINATION, PORT, DROP), Told(negated_values=1), True),
        ((DESTINATION, PORT, DROP), Told(negated_values=2), False),
        ((DESTINATION, DROP), Told(asks_for_type=True, negated_values=1), True),
        ((TYPE, DROP), Told(asks_for_type=True), False),
        ((ETHER, DROP), Told(asks_for_type=True), False),
        ((ETHER, DROP), Told(connection=frozenset(["protocol"])), True),
        ((CONNECTION, DROP), Told(connection=frozenset(["protocol"])), False),
        ((PORTS, DROP), Told(crosses=True), True),
        ((PORTS, DROP), Told(), False),
        ((PORT, DROP), Told(crosses=True, negated_values=1), False),
    ],
    ids=[
        "a range",
        "two comparisons",
        "an address",
        "two fields in one comparison",
        "a comparison of each",
        "a type that is left out",
        "a type",
        "a type that is implied",
        "a connection's protocol that is left out",
        "a connection's protocol",
        "bounds of two fields",
        "bounds of one field",
        "bounds that are printed as they are",
    ],
)
def test_a_rule_is_misprinted_where_the_kernel_has_more(
    expressions: tuple[Json, ...], told: Told, expected: bool
) -> None:
    place = ("inet", "t", "c", HANDLE)
    found = ruleset(*expressions)
    assert misprinted(found, {place: told}) == ({place: Misprint.LESS} if expected else {})


def test_nobody_can_tell_whether_a_misprinted_rule_matches() -> None:
    [table] = lower(ruleset(DESTINATION, DROP), misprinted={("inet", "t", "c", HANDLE): Misprint.LESS})
    [rule] = table.chains["c"].rules
    assert rule.body[0] == Undecided(Cause(Openness.NOT_MODELLED, "a test that nft does not print"))


def test_what_may_stand_for_other_tests_is_left_out_of_a_misprinted_rule() -> None:
    [table] = lower(ruleset(PORTS, DROP), misprinted={("inet", "t", "c", HANDLE): Misprint.LESS})
    [rule] = table.chains["c"].rules
    assert [type(each) for each in rule.body] == [Undecided, End]


def extended(*expressions: Json, told: str, table: str = "mangle", hook: str = "output") -> Rule:
    """A rule of which nft prints the names of extensions, and the kernel told them."""
    found = ruleset(*expressions, family="ip", table=table, hook=hook)
    chain = extension_chain(HANDLE)
    text = f"*{table}\n:{chain} - [0:0]\n-A {chain} {told}\nCOMMIT\n"
    [extensions] = lower_text(parse_save(text, Family.IPV4).rules, Store.NFT)
    [lowered] = lower(found)
    assert lacks_extensions({}, found.tables[0])
    [rule] = merge(None, lowered, found.tables[0], extensions).chains["c"].rules
    return rule


def xt(kind: str, name: str) -> Json:
    return {"xt": {"type": kind, "name": name}}


def test_what_an_extension_changes_it_changes_before_the_tests_behind_it() -> None:
    rule = extended(
        xt("match", "socket"),
        match(meta("mark"), 5),
        {"counter": {"packets": 0, "bytes": 0}},
        DROP,
        told="-m socket --restore-skmark",
    )
    assert [type(each) for each in rule.body] == [Test, Forget, Test, End]


def test_what_extensions_do_is_put_where_nft_prints_their_names() -> None:
    rule = extended(
        match(meta("l4proto"), "tcp"),
        xt("match", "connmark"),
        {"counter": {"packets": 0, "bytes": 0}},
        xt("target", "MARK"),
        told="-m connmark --mark 0x1 -j MARK --set-xmark 0x2/0xffffffff",
    )
    assert rule.body == (
        Test(Field.PROTOCOL, ((6, 6),)),
        Test(Field.CT_MARK, ((1, 1),)),
        Assign(Field.MARK, (), 2),
    )
    assert rule.tracks


@pytest.mark.parametrize(("hook", "kind"), [("prerouting", NatKind.DNAT), ("postrouting", NatKind.SNAT)])
def test_netmap_translates_by_the_hook_of_its_chain(hook: str, kind: NatKind) -> None:
    rule = extended(xt("target", "NETMAP"), told="-j NETMAP --to 8.8.8.0/24", table="nat", hook=hook)
    [nat] = rule.body
    assert isinstance(nat, Nat) and nat.netmap and nat.kind is kind
