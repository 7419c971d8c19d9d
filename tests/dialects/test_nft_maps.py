"""What maps of nft do: verdicts and translations by key."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from istio_init.netfilter.fields import Field
from istio_init.netfilter.names import number_of
from istio_init.netfilter.rules import Dispatch, End, Lookup, Nat, NatKind, Openness, Undecided, Unknowable, Verdict

from .evaluating import holds
from .nft_rules import Json, body, header, match, meta, rules, verdict

ACCEPT, DROP = End(Verdict.ACCEPT), End(Verdict.DROP)


def ip(text: str) -> int:
    return int(ip_address(text))


def vmap(key: Json, *pairs: Json) -> Json:
    return {"vmap": {"key": key, "data": {"set": list(pairs)}}}


def test_a_verdict_map_groups_what_ends_alike() -> None:
    found = body(
        vmap(
            header("tcp", "dport"),
            [80, verdict("accept")],
            [22, verdict("drop")],
            [81, verdict("accept")],
            ["*", verdict("drop")],
        )
    )
    [dispatch] = [each for each in found if isinstance(each, Dispatch)]
    assert dispatch.verdicts == (((((80, 81),),), ACCEPT), ((((22, 22),),), DROP), ((((0, 65535),),), DROP))


def test_a_map_ends_the_rule_but_for_what_goes_on() -> None:
    tail = [{"counter": None}, verdict("drop")]
    assert isinstance(body(vmap(header("tcp", "dport"), [80, verdict("accept")]), *tail)[-1], Dispatch)
    key = header("tcp", "dport")
    *_, dispatch, goes_on, end = body(vmap(key, [80, verdict("continue")], ["*", verdict("accept")]), *tail)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.verdicts == (((((0, 79), (81, 65535)),), ACCEPT),)
    assert isinstance(goes_on, Lookup)
    assert goes_on.elements.boxes == ((((80, 80),),),)
    assert end == DROP


def test_named_verdict_maps_have_concatenations_and_wildcards() -> None:
    pairs = [
        [{"concat": ["tcp", 80, "eth*"]}, verdict("goto", "a")],
        [{"concat": ["udp", 53, "lo"]}, verdict("drop")],
    ]
    key = {"concat": [meta("l4proto"), header("th", "dport"), meta("iifname")]}
    named = {"map": {"name": "m", "type": "x", "map": "verdict", "elem": pairs}}
    [dispatch] = body({"vmap": {"key": key, "data": "@m"}}, sets=(named,))
    assert isinstance(dispatch, Dispatch)
    assert (dispatch.name, dispatch.is_complete) == ("m", True)
    [(first, end), (second, _)] = dispatch.verdicts
    assert first[:2] == (((6, 6),), ((80, 80),))
    assert second == (((17, 17),), ((53, 53),), ((number_of("lo"),) * 2,))
    assert end == End(Verdict.GOTO, "a")


def test_what_is_drawn_is_any_of_the_verdicts_and_the_last_if_no_other() -> None:
    key = {"numgen": {"mode": "random", "mod": 2, "offset": 0}}
    first, second = rules(
        match(meta("l4proto"), "tcp"), vmap(key, [0, verdict("goto", "a")], [1, verdict("goto", "b")])
    )
    assert isinstance(first.body[1], Undecided)
    assert first.body[1].cause.openness is Openness.OPEN
    assert first.body[2] == End(Verdict.GOTO, "a")
    assert second.body == (first.body[0], End(Verdict.GOTO, "b"))
    assert first.origin == second.origin
    last = rules(vmap(key, [0, verdict("accept")]))[-1]
    assert isinstance(last.body[0], Undecided)


def test_a_translation_by_a_map_is_one_for_each_element() -> None:
    data = {"set": [[80, "10.0.0.1"], [{"range": [90, 99]}, "10.0.0.2"]]}
    found = rules({"dnat": {"addr": {"map": {"key": header("tcp", "dport"), "data": data}}, "port": 5}}, family="ip")
    assert [rule.body[-1] for rule in found] == [
        Nat(NatKind.DNAT, (ip("10.0.0.1"),) * 2, (5, 5)),
        Nat(NatKind.DNAT, (ip("10.0.0.2"),) * 2, (5, 5)),
    ]
    assert [holds(rule.body, {Field.PROTOCOL: 6, Field.DPORT: 95}) for rule in found] == [False, True]
    assert {rule.origin.number for rule in found} == {1}


@pytest.mark.parametrize(
    ("key", "openness"),
    [({"numgen": {"mode": "inc", "mod": 2}}, Openness.OPEN), ({"rt": {"key": "mtu"}}, Openness.NOT_GIVEN)],
)
def test_a_translation_by_what_cannot_be_told_has_the_reason(key: Json, openness: Openness) -> None:
    data = {"set": [[0, "10.0.0.1"], [1, "10.0.0.2"]]}
    [found] = body({"dnat": {"addr": {"map": {"key": key, "data": data}}}}, family="ip")
    assert isinstance(found, Nat)
    assert found.cause is not None
    assert found.cause.openness is openness


def test_a_redirect_by_the_port_of_tcp_and_udp_is_one_for_each_element() -> None:
    ports = {"map": {"key": header("th", "dport"), "data": {"set": [[53, 15053], [80, 15001]]}}}
    found = rules(match(meta("l4proto"), {"set": ["tcp", "udp"]}), {"redirect": {"port": ports}})
    assert [rule.body[-1] for rule in found] == [
        Nat(NatKind.REDIRECT, ports=(15053, 15053)),
        Nat(NatKind.REDIRECT, ports=(15001, 15001)),
    ]


@pytest.mark.parametrize(
    "key", [{"numgen": {"mode": "inc", "mod": 2, "offset": 0}}, {"rt": {"key": "mtu"}}, header("th", "dport")]
)
def test_nothing_is_said_of_a_redirect_to_a_port_that_cannot_be_told(key: Json) -> None:
    ports = {"map": {"key": key, "data": {"set": [[0, 80], [1, 81]]}}}
    for translation in ({"redirect": {"port": ports}}, {"dnat": {"port": ports}}):
        assert isinstance(body(translation, family="ip")[-1], Unknowable)
    [masqueraded] = body({"masquerade": {"port": ports}}, family="ip")
    assert masqueraded == Nat(NatKind.MASQUERADE, ports=(1, 65535), random=True)


def test_nothing_is_said_of_a_redirect_by_a_map_behind_a_change() -> None:
    ports = {"map": {"key": header("tcp", "dport"), "data": {"set": [[53, 15053], [80, 15001]]}}}
    marks = {"mangle": {"key": meta("mark"), "value": 1}}
    assert isinstance(body(marks, {"redirect": {"port": ports}}, family="ip")[-1], Unknowable)
