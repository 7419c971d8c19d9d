"""What statements of nft do."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from istio_init.dialects.nft.lower import lower
from istio_init.dialects.nft.ruleset import parse
from istio_init.netfilter.chains import BaseChain, ChainType
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import (
    Assign,
    AssignFrom,
    Cause,
    End,
    Forget,
    Hook,
    Nat,
    NatKind,
    Note,
    Openness,
    Statement,
    Store,
    Test,
    Tproxy,
    Undecided,
    Unknowable,
    Untrack,
    Verdict,
    Zone,
)

from .evaluating import Facts, holds
from .nft_rules import (
    Json,
    body,
    chain,
    ct,
    document,
    header,
    in_chain,
    match,
    meta,
    rules,
    table,
    verdict,
)

ALL = 0xFFFFFFFF
MARK, CT_MARK = Field.MARK, Field.CT_MARK
ACCEPT, DROP = End(Verdict.ACCEPT), End(Verdict.DROP)


def ip(text: str) -> int:
    return int(ip_address(text))


def give(key: Json, value: Json) -> Json:
    return {"mangle": {"key": key, "value": value}}


def and_or(looked_at: Json, mask: int, bits: int) -> Json:
    return {"|": [{"&": [looked_at, mask]}, bits]}


@pytest.mark.parametrize(
    ("expression", "end"),
    [
        (verdict("accept"), ACCEPT),
        (verdict("drop"), DROP),
        (verdict("return"), End(Verdict.RETURN)),
        (verdict("jump", "other"), End(Verdict.JUMP, "other")),
        (verdict("goto", "other"), End(Verdict.GOTO, "other")),
        ({"reject": {"type": "icmpx", "expr": "port-unreachable"}}, End(Verdict.REJECT)),
        ({"queue": {"num": 1, "flags": "bypass"}}, End(Verdict.QUEUE)),
        ({"fwd": {"dev": "lo"}}, End(Verdict.STOLEN)),
        ({"notrack": None}, Untrack()),
        (give(ct("zone"), 5), Zone(5, even_untracked=True)),
        (give(meta("mark"), 0x539), Assign(MARK, (), 0x539)),
        (give(meta("mark"), and_or(meta("mark"), 0xFF05, 5)), Assign(MARK, ((MARK, 0xFF00),), 5)),
        (give(meta("mark"), {"^": [meta("mark"), 1]}), Assign(MARK, ((MARK, ALL),), 1)),
        (give(meta("mark"), {"&": [0xFF, meta("mark")]}), Assign(MARK, ((MARK, 0xFF),), 0)),
        (give(ct("mark"), meta("mark")), Assign(CT_MARK, ((MARK, ALL),), 0)),
        (give(ct("mark"), {"&": [meta("mark"), 0xFF]}), Assign(CT_MARK, ((MARK, 0xFF),), 0)),
        (give(meta("priority"), "1:2"), Assign(Field.PRIORITY, (), 0x10002)),
        (give(meta("pkttype"), "host"), Assign(Field.PKTTYPE, (), 0)),
        (give(header("ip", "dscp"), "cs1"), Assign(Field.TOS, ((Field.TOS, 3),), 32)),
        (give(header("ip", "ecn"), "ce"), Assign(Field.TOS, ((Field.TOS, 0xFC),), 3)),
        (give(header("ip", "ttl"), 5), Assign(Field.TTL, (), 5)),
        (give(header("tcp", "dport"), 80), Assign(Field.DPORT, (), 80)),
        (give(header("ip", "daddr"), "1.2.3.4"), Assign(Field.DESTINATION, (), 0x01020304)),
        (give(meta("nftrace"), 1), Note("meta nftrace set 1")),
        ({"log": None}, Note("log")),
        ({"counter": "seen"}, Note('counter name "seen"')),
        ({"set": {"op": "add", "elem": header("ip", "saddr"), "set": "@s"}}, Note("add @s { ip saddr }")),
        ({"redirect": None}, Nat(NatKind.REDIRECT)),
        ({"redirect": {"port": 15001}}, Nat(NatKind.REDIRECT, ports=(15001, 15001))),
        ({"masquerade": {"flags": ["random"]}}, Nat(NatKind.MASQUERADE, random=True)),
        ({"dnat": {"port": 80}}, Nat(NatKind.DNAT, ports=(80, 80))),
        (
            {"dnat": {"addr": "1.2.3.4", "port": {"range": [80, 90]}}},
            Nat(NatKind.DNAT, (ip("1.2.3.4"),) * 2, (80, 90)),
        ),
        (
            {"snat": {"addr": {"prefix": {"addr": "10.0.0.0", "len": 24}}, "flags": "netmap"}},
            Nat(NatKind.SNAT, (ip("10.0.0.0"), ip("10.0.0.255")), netmap=True),
        ),
        ({"tproxy": {"addr": "127.0.0.1", "port": 15001}}, Tproxy(ip("127.0.0.1"), 15001, drops=False)),
        ({"tproxy": {"port": 15001}}, Tproxy(None, 15001, drops=False)),
    ],
)
def test_a_statement_does_what_the_kernel_does(expression: Json, end: Statement) -> None:
    assert body(expression, family="ip")[-1] == end


@pytest.mark.parametrize(
    ("form", "rejected"), [("tcp reset", "ip tcp, ip6 tcp"), ("icmp", "ip tcp, ip udp"), ("icmpv6", "ip6 tcp, ip6 udp")]
)
def test_a_form_of_reject_is_for_the_packets_that_it_can_answer(form: str, rejected: str) -> None:
    """nft leaves the tests out where it prints the rule."""
    statements = body({"reject": {"type": form, "expr": "no-route"}})
    packets = {
        f"{family} {protocol}": {Field.NFPROTO: nfproto, Field.PROTOCOL: number}
        for family, nfproto in (("ip", 2), ("ip6", 10))
        for protocol, number in (("tcp", 6), ("udp", 17))
    }
    assert ", ".join(name for name, facts in packets.items() if holds(statements, facts)) == rejected


def test_bytes_that_leave_a_wrong_checksum_have_consequences_that_nobody_tells() -> None:
    by_place = {"payload": {"base": "nh", "offset": 128, "len": 32}}
    for expression in (give(by_place, 5), give(header("ip", "checksum"), 0)):
        assert isinstance(body(expression, family="ip")[-1], Unknowable)


def test_the_or_that_nft_prints_wrongly_as_text_keeps_what_its_json_says() -> None:
    changed = body(give(ct("mark"), and_or(ct("mark"), 0xFFFFF111, 0x111)))[-1]
    assert changed == Assign(CT_MARK, ((CT_MARK, 0xFFFFF000),), 0x111)


def test_a_mark_of_a_connection_is_read_only_where_there_is_one() -> None:
    read = body(give(meta("mark"), ct("mark")))
    assert read[-1] == Assign(MARK, ((CT_MARK, ALL),), 0)
    assert holds(read, {CT_MARK: 5}) is True
    assert holds(read, {}) is False


@pytest.mark.parametrize(
    ("expression", "field", "openness"),
    [
        (give(meta("mark"), {"<<": [meta("mark"), 2]}), MARK, Openness.NOT_MODELLED),
        (give(meta("mark"), {"|": [meta("mark"), ct("mark")]}), MARK, Openness.NOT_MODELLED),
        (give(meta("mark"), {"numgen": {"mode": "inc", "mod": 2}}), MARK, Openness.OPEN),
    ],
)
def test_a_value_that_cannot_be_told_is_forgotten(expression: Json, field: Field, openness: Openness) -> None:
    found = body(expression)[-1]
    assert isinstance(found, Forget)
    assert (found.field, found.cause.openness) == (field, openness)


def test_a_zone_of_one_direction_cannot_be_told() -> None:
    [zone] = body(give(ct("zone", "original"), 5))
    assert isinstance(zone, Zone) and zone.even_untracked
    assert isinstance(zone.zone, Cause) and zone.zone.openness is Openness.NOT_MODELLED


def test_a_header_of_the_other_family_is_one_that_no_packet_has() -> None:
    tests = body(match(meta("protocol"), "ip6"), match(header("ip", "daddr"), "8.8.8.9", "!="), family="inet")
    assert {each.within for each in tests if isinstance(each, Test) and each.field is Field.NFPROTO} == {
        ((2, 2),),
        ((10, 10),),
    }


def test_values_come_from_maps() -> None:
    data = {"set": [[80, 1], [{"range": [90, 99]}, 2]]}
    change = body(give(meta("mark"), {"map": {"key": header("tcp", "dport"), "data": data}}))[-1]
    assert isinstance(change, AssignFrom)
    assert change.values == (((((80, 80),),), 1), ((((90, 99),),), 2))


@pytest.mark.parametrize(
    ("expression", "facts", "expected"),
    [
        ({"tproxy": {"family": "ip", "port": 5}}, {Field.NFPROTO: 2, Field.PROTOCOL: 6}, True),
        ({"tproxy": {"family": "ip", "port": 5}}, {Field.NFPROTO: 10, Field.PROTOCOL: 6}, False),
        ({"tproxy": {"port": 5}}, {Field.NFPROTO: 10, Field.PROTOCOL: 1}, False),
        ({"dnat": {"family": "ip6", "addr": "::1"}}, {Field.NFPROTO: 2}, False),
        ({"dnat": {"family": "ip6", "addr": "::1"}}, {Field.NFPROTO: 10}, True),
        (give(header("udp", "dport"), 5), {Field.PROTOCOL: 6}, False),
    ],
)
def test_what_a_statement_cannot_be_done_to_leaves_the_rule(expression: Json, facts: Facts, expected: bool) -> None:
    assert holds(body(expression), facts) is expected


def test_nothing_is_behind_a_verdict_and_much_may_be_behind_a_proxy() -> None:
    found = body({"tproxy": {"port": 5}}, give(meta("mark"), 1), verdict("accept"), verdict("drop"), family="ip")
    assert found[-3:] == (Tproxy(None, 5, drops=False), Assign(MARK, (), 1), ACCEPT)


@pytest.mark.parametrize(
    "expression",
    [
        {"xt": {"type": "target", "name": "DNAT"}},
        {"xt": None},
        {"something new": {"a": 1}},
        give({"something": {"new": 1}}, 5),
        {"tproxy": {"port": {"map": {"key": meta("mark"), "data": "@m"}}}},
        {"vmap": {"key": meta("mark"), "data": "@nosuch"}},
    ],
)
def test_statements_that_are_not_known_could_do_anything(expression: Json) -> None:
    found = body(expression)[-1]
    assert isinstance(found, Unknowable)
    assert found.cause.openness is Openness.NOT_MODELLED


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({"redirect": None}, True),
        ({"ct helper": "ftp"}, True),
        ({"ct count": {"val": 5}}, True),
        ({"flow": {"op": "add", "flowtable": "@f"}}, True),
        (give(ct("zone"), 5), True),
        ({"vmap": {"key": ct("state"), "data": {"set": [["new", verdict("drop")]]}}}, True),
        ({"set": {"op": "add", "elem": ct("mark"), "set": "@s"}}, True),
        ({"notrack": None}, False),
        ({"tproxy": {"port": 5}}, False),
        (give(meta("mark"), 5), False),
    ],
)
def test_translating_and_setting_up_connections_makes_the_kernel_track_them(expression: Json, expected: bool) -> None:
    assert all(rule.tracks is expected for rule in rules(expression))


def test_rules_say_where_they_stand_how_they_look_and_what_they_counted() -> None:
    counted = {"counter": {"packets": 5, "bytes": 6}}
    found = table(chain(), in_chain(verdict("drop")), in_chain(counted, verdict("accept"), comment="why")).chains["c"]
    rule = found.rules[1]
    origin = rule.origin
    assert (origin.store, origin.family, origin.table, origin.chain) == (Store.NFT, "inet", "t", "c")
    assert (origin.number, origin.text) == (2, 'counter accept comment "why"')
    assert rule.counters == (5, 6)


@pytest.mark.parametrize(
    ("priority", "expected"), [(-150, -150), ("mangle", -150), ("filter + 5", 5), ("dstnat-10", -110), ("7", 7)]
)
def test_base_chains_have_hook_priority_type_and_policy(priority: int | str, expected: int) -> None:
    found = table(chain(type="route", hook="output", prio=priority, policy="drop")).chains["c"]
    assert found.base == BaseChain(Hook.OUTPUT, expected, ChainType.ROUTE, drops=True)


def test_a_dormant_table_is_dormant() -> None:
    assert table(chain(), flags="dormant").is_dormant
    assert not table(chain(), flags="owner").is_dormant


def test_chains_of_a_table_that_may_be_dormant_may_be_passed_over() -> None:
    text = document(chain(type="filter", hook="input", prio=0), in_chain(verdict("drop")), flags="??")
    [found] = lower(parse(text))
    first, second = found.chains["c"].rules
    assert first.origin.number == 0
    assert isinstance(first.body[0], Undecided)
    assert first.body[1] == ACCEPT
    assert second.body == (DROP,)
    [known] = lower(parse(text), dormant={("inet", "t"): True})
    assert known.is_dormant
    assert len(known.chains["c"].rules) == 1
