"""What matches of nft test, asked of packets."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.names import number_of
from istio_init.netfilter.rules import Cause, Lookup, Never, Openness, Undecided

from .evaluating import Facts, holds
from .nft_rules import Json, body, ct, header, match, meta, rules

FIB_BACK = {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}


def ip(text: str) -> int:
    return int(ip_address(text))


def tcp(**more: int) -> Facts:
    facts = {
        Field.NFPROTO: 2, Field.PROTOCOL: 6, Field.SOURCE: ip("10.1.2.3"), Field.DESTINATION: ip("10.1.0.1"),
        Field.SPORT: 21000, Field.DPORT: 80, Field.TCP_FLAGS: 2, Field.LENGTH: 60, Field.TTL: 64, Field.TOS: 0x28,
        Field.MARK: 0x539, Field.PRIORITY: 0, Field.PKTTYPE: 0, Field.CT_STATE: 8, Field.CT_STATUS: 8,
        Field.CT_MARK: 0x111, Field.CT_ZONE: 0, Field.CT_DIRECTION: 0, Field.CT_PROTOCOL: 6, Field.UID: 1337,
        Field.GID: 0, Field.IN_INTERFACE: 0, Field.OUT_INTERFACE: number_of("eth0"),
    }  # fmt: skip
    return facts | {Field[name]: value for name, value in more.items()}


def without(*fields: Field) -> Facts:
    return {field: value for field, value in tcp().items() if field not in fields}


SYN_ACK = {"|": ["syn", "ack"]}
CASES: list[tuple[Json, bool]] = [
    (match(header("tcp", "dport"), 80), True),
    (match(header("tcp", "dport"), 80, "!="), False),
    (match(header("tcp", "dport"), {"range": [80, 90]}), True),
    (match(header("tcp", "dport"), {"set": [22, {"range": [70, 79]}]}), False),
    (match(header("tcp", "dport"), {"set": [22, {"range": [70, 79]}]}, "!="), True),
    (match(header("tcp", "dport"), 80, ">"), False),
    (match(header("tcp", "dport"), 80, ">="), True),
    (match(header("tcp", "dport"), 80, "<"), False),
    (match(header("tcp", "dport"), 80, "<="), True),
    (match(header("tcp", "dport"), 0, ">="), True),
    (match(header("tcp", "dport"), 0, "<"), False),
    (match(header("udp", "dport"), 53, "!="), False),
    (match({"&": [header("tcp", "dport"), 0xF]}, 0), True),
    (match({"|": [header("tcp", "dport"), 1]}, 81), True),
    (match({"|": [header("tcp", "dport"), 1]}, 80), False),
    (match({"^": [header("tcp", "dport"), 0xFF]}, 0xAF), True),
    (match({">>": [header("tcp", "dport"), 4]}, 5), True),
    (match(header("ip", "daddr"), "10.1.0.1"), True),
    (match(header("ip", "daddr"), {"prefix": {"addr": "10.0.0.0", "len": 8}}), True),
    (match(header("ip", "daddr"), {"range": ["10.0.0.0", "10.1.0.0"]}), False),
    (match(header("ip", "saddr"), "10.0.0.0", ">"), True),
    (match({"&": [header("ip", "daddr"), "0.0.255.255"]}, "0.0.0.1"), True),
    (match(header("ip6", "daddr"), "::1", "!="), False),
    (match(header("ip", "protocol"), "st", ">"), True),
    (match(header("ip", "protocol"), 5, "<="), False),
    (match(header("ip", "dscp"), "af11"), True),
    (match(header("ip", "dscp"), 10), True),
    (match(header("ip", "ecn"), "not-ect"), True),
    (match(header("ip", "ttl"), 5, "<"), False),
    (match(header("ip", "version"), 4), True),
    (match(header("ip", "length"), 60), True),
    (match({"&": [header("ip", "frag-off"), 0x1FFF]}, 0, "!="), False),
    (match({"&": [header("ip", "frag-off"), 0x1FFF]}, 0), True),
    (match(header("tcp", "flags"), "syn", "in"), True),
    (match(header("tcp", "flags"), ["syn", "ack"], "in"), True),
    (match(header("tcp", "flags"), ["syn", "ack"]), False),
    (match(header("tcp", "flags"), "syn"), True),
    (match(header("tcp", "flags"), ["fin", "rst"], "!"), True),
    (match(header("tcp", "flags"), 0, "in"), False),
    (match({"&": [header("tcp", "flags"), ["syn", "ack"]]}, "syn"), True),
    (match({"&": [header("tcp", "flags"), SYN_ACK]}, {"set": ["ack", SYN_ACK]}), False),
    (match(meta("l4proto"), {"set": ["tcp", "udp"]}), True),
    (match(meta("nfproto"), "ipv6"), False),
    (match(meta("protocol"), "ip"), True),
    (match(meta("protocol"), 8), True),
    (match(meta("protocol"), "8021q"), False),
    (match(meta("protocol"), {"set": ["ip", "ip6"]}), True),
    (match(meta("mark"), 0x539), True),
    (match({"&": [0xFFF, meta("mark")]}, 0x539), True),
    (match({"&": [meta("mark"), 0xFF]}, 0x39, "!="), False),
    (match(meta("priority"), "0:0"), True),
    (match(meta("pkttype"), "host"), True),
    (match(meta("oifname"), "eth0"), True),
    (match(meta("oifname"), "eth*"), True),
    (match(meta("oifname"), "eth\\*"), False),
    (match(meta("oifname"), {"set": ["lo", "e*"]}, "!="), False),
    (match(meta("iifname"), "lo", "!="), True),
    (match(meta("iif"), 0), True),
    (match(meta("oif"), "77", "!="), True),
    (match(meta("oif"), "77"), False),
    (match(meta("skuid"), {"range": [1000, 2000]}), True),
    (match(meta("skgid"), "root"), True),
    (match(ct("state"), ["established", "new"], "in"), True),
    (match(ct("state"), {"set": ["established", "new"]}), True),
    (match(ct("state"), "invalid", "!="), True),
    (match(ct("state"), "new", "!"), False),
    (match(ct("state"), 8, "in"), True),
    (match(ct("status"), "dnat", "in"), False),
    (match({"&": [ct("mark"), 0xFFF]}, 0x111), True),
    (match(ct("direction"), "original"), True),
    (match(ct("l3proto"), "ipv4"), True),
    (match(ct("protocol"), "udp"), False),
    (match(ct("zone"), 0), True),
    (match({"payload": {"base": "th", "offset": 16, "len": 16}}, 80), True),
]


@pytest.mark.parametrize(("tested", "expected"), CASES)
def test_a_match_answers_as_the_kernel_does(tested: Json, expected: bool) -> None:
    assert holds(body(tested), tcp()) is expected


@pytest.mark.parametrize(
    ("tested", "facts"),
    [
        (match(meta("skuid"), 1337, "!="), without(Field.UID)),
        (match(meta("skgid"), 1337, "!="), without(Field.GID)),
        (match(ct("mark"), 5, "!="), without(Field.CT_MARK)),
        (match(ct("l3proto"), "ipv6", "!="), without(Field.CT_MARK)),
        (match(header("tcp", "dport"), 5, "!="), tcp(PROTOCOL=17)),
        (match(header("icmp", "type"), "echo-request", "!="), tcp()),
        (match(header("ip6", "saddr"), "::1", "!="), tcp()),
        (match(ct("ip6 saddr", "original"), "::1", "!="), tcp(CT_ORIG_SOURCE=5)),
    ],
)
def test_what_cannot_be_loaded_ends_the_rule_negated_or_not(tested: Json, facts: Facts) -> None:
    assert holds(body(tested), facts) is False


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [((8, 8), 0x28, True), ((72, 8), 6, True), ((96, 32), ip("10.1.2.3"), True), ((100, 20), 0x0A102, False)],
)
def test_bytes_by_their_place_are_fields_where_the_family_is_settled(
    place: tuple[int, int], value: int, expected: bool
) -> None:
    tested = match({"payload": {"base": "nh", "offset": place[0], "len": place[1]}}, value)
    assert holds(body(tested), tcp()) is None
    assert holds(body(tested, family="ip"), tcp()) is expected
    assert holds(body(match(meta("nfproto"), "ipv4"), tested), tcp()) is expected


def test_bits_that_are_masked_and_shifted_are_those_of_the_field() -> None:
    dscp = {">>": [{"&": [{"payload": {"base": "nh", "offset": 8, "len": 8}}, 0xFC]}, 2]}
    assert holds(body(match({"&": [dscp, 8]}, 8), family="ip"), tcp()) is True
    assert holds(body(match(dscp, {"range": [0, 9]}), family="ip"), tcp()) is False


def test_a_packet_without_a_connection_is_invalid() -> None:
    facts = without(Field.CT_STATE)
    assert holds(body(match(ct("state"), "invalid", "in")), facts) is True
    assert holds(body(match(ct("state"), "new", "!=")), facts) is True
    assert holds(body(match(ct("state"), {"set": ["new", "established"]})), facts) is False


@pytest.mark.parametrize(
    ("tested", "facts", "expected"),
    [
        (match(FIB_BACK, False), {Field.RETURN_INTERFACE_HERE: 0}, True),
        (match(FIB_BACK, True), {Field.RETURN_INTERFACE_HERE: number_of("eth0")}, True),
        (match(FIB_BACK, "0"), {Field.RETURN_INTERFACE_HERE: number_of("eth0")}, False),
        (match(FIB_BACK, "eth0"), {Field.RETURN_INTERFACE_HERE: number_of("eth0")}, True),
        (
            match({"fib": {"result": "type", "flags": ["daddr"]}}, {"set": ["local", "broadcast"]}),
            {Field.DESTINATION_TYPE: AddressType.LOCAL.value},
            True,
        ),
        (match({"socket": {"key": "transparent"}}, 0), {Field.SOCKET_FOUND_ANY: 0}, False),
        (
            match({"socket": {"key": "transparent"}}, 0),
            {Field.SOCKET_FOUND_ANY: 1, Field.SOCKET_TRANSPARENT_ANY: 0},
            True,
        ),
        (match({"socket": {"key": "wildcard"}}, 1), {Field.SOCKET_FOUND_ANY: 1, Field.SOCKET_FOUND: 0}, True),
        (match(header("ip6", "length"), 100), {Field.NFPROTO: 10, Field.LENGTH: 140}, True),
    ],
)
def test_routes_and_sockets_are_asked(tested: Json, facts: Facts, expected: bool) -> None:
    assert holds(body(tested), facts) is expected


@pytest.mark.parametrize(
    ("tested", "openness"),
    [
        (match({"numgen": {"mode": "random", "mod": 2}}, 0), Openness.OPEN),
        (match({"jhash": {"mod": 2, "expr": header("ip", "saddr")}}, 0), Openness.OPEN),
        (match(meta("hour"), {"range": ["10:00", "12:00"]}), Openness.OPEN),
        (match(meta("cgroup"), 5), Openness.OPEN),
        ({"limit": {"rate": 10, "per": "second"}}, Openness.OPEN),
        ({"quota": {"val": 25, "val_unit": "mbytes"}}, Openness.OPEN),
        ({"ct count": {"val": 5}}, Openness.OPEN),
        (match({"tcp option": {"name": "maxseg", "field": "size"}}, 5), Openness.NOT_GIVEN),
        (match({"rt": {"key": "nexthop", "family": "ip"}}, "1.2.3.4"), Openness.NOT_GIVEN),
        (match(meta("iifgroup"), "default"), Openness.NOT_GIVEN),
        (match(ct("label"), 5, "in"), Openness.NOT_MODELLED),
        (match(meta("mark"), "who knows"), Openness.NOT_MODELLED),
        (match(meta("mark"), 5, "~"), Openness.NOT_MODELLED),
        (match(meta("mark"), meta("priority")), Openness.NOT_MODELLED),
        (match(ct("status"), "snat"), Openness.NOT_MODELLED),
        (match(header("ip", "saddr"), "@nobody"), Openness.NOT_MODELLED),
        ({"xt": {"type": "match", "name": "multiport"}}, Openness.NOT_MODELLED),
    ],
)
def test_what_cannot_be_told_is_undecided_with_the_reason(tested: Json, openness: Openness) -> None:
    found = body(tested)[-1]
    assert isinstance(found, Undecided)
    assert found.cause.openness is openness
    assert found.cause.words


def test_ports_of_any_transport_are_ports_only_where_the_protocol_has_them() -> None:
    tested = match(header("th", "dport"), 80)
    assert holds(body(tested), tcp()) is True
    assert holds(body(tested), tcp(PROTOCOL=132, DPORT=5)) is False
    assert holds(body(tested), {Field.PROTOCOL: 1}) is None
    known = body(match(meta("l4proto"), {"set": ["tcp", "udp"]}), tested)
    assert holds(known, {Field.PROTOCOL: 1}) is False


def set_of(*elements: Json, kind: Json = "ipv4_addr", **more: Json) -> tuple[Json]:
    return ({"set": {"name": "s", "type": kind, "elem": elements, **more}},)


@pytest.mark.parametrize(
    ("left", "elements", "expected"),
    [
        (header("ip", "saddr"), ["1.2.3.4", {"prefix": {"addr": "10.1.0.0", "len": 16}}], True),
        (header("ip", "saddr"), [{"elem": {"val": "10.1.2.3", "comment": "x"}}], True),
        (header("ip", "saddr"), ["1.2.3.4", "*"], True),
        (header("ip", "saddr"), [], False),
        (meta("oifname"), ["lo", "eth*"], True),
        (meta("oif"), ["lo", "5"], False),
        (ct("state"), ["new", "established"], True),
        (meta("skuid"), [0, 1337], True),
        ({"concat": [header("ip", "saddr"), header("tcp", "dport")]}, [{"concat": ["10.1.2.3", 80]}], True),
        ({"concat": [header("ip", "saddr"), header("tcp", "dport")]}, [{"concat": ["10.1.2.3", 81]}], False),
        (
            {"concat": [meta("l4proto"), header("th", "dport"), header("ip", "saddr")]},
            [{"concat": ["tcp", {"range": [70, 90]}, {"prefix": {"addr": "10.0.0.0", "len": 8}}]}],
            True,
        ),
    ],
)
def test_named_sets_hold_elements_ranges_prefixes_and_concatenations(
    left: Json, elements: list[Json], expected: bool
) -> None:
    assert holds(body(match(left, "@s"), sets=set_of(*elements)), tcp()) is expected
    assert holds(body(match(left, "@s", "!="), sets=set_of(*elements)), tcp()) is not expected


def expiring(seconds: int) -> Json:
    return {"elem": {"val": f"10.0.0.{seconds & 255}", "timeout": 3600, "expires": seconds}}


@pytest.mark.parametrize(
    ("more", "changes", "expected"),
    [
        ({}, [], True),
        ({"flags": ["timeout"]}, [], False),
        ({"timeout": 60}, [], False),
        ({"timeout": 3600, "elem": [expiring(3000)]}, [], True),
        ({"timeout": 3600, "elem": [expiring(3000), expiring(9)]}, [], False),
        ({"flags": ["timeout", "dynamic"], "elem": [expiring(3000)]}, [], False),
        ({}, [True], False),
    ],
)
def test_a_set_whose_elements_come_and_go_is_not_complete(
    more: dict[str, Json], changes: list[bool], expected: bool
) -> None:
    add = [{"set": {"op": "add", "elem": header("ip", "saddr"), "set": "@s"}} for _ in changes]
    elements = more.pop("elem", ["1.2.3.4"])
    found = body(match(header("ip", "saddr"), "@s"), *add, sets=set_of(*elements, **more))
    [lookup] = [each for each in found if isinstance(each, Lookup)]
    assert lookup.elements.is_complete is expected


def test_what_no_packet_passes_is_said_so() -> None:
    assert body(match(meta("oif"), "77")) == (Never(),)


def test_a_test_that_was_made_before_is_not_repeated() -> None:
    tested = [match(meta("l4proto"), "tcp"), match(header("tcp", "sport"), 5), match(header("tcp", "dport"), 5)]
    assert len(body(*tested)) == 3


def test_looking_at_a_connection_makes_the_kernel_track_them() -> None:
    [looks] = rules(match({"concat": [ct("mark"), header("ip", "saddr")]}, {"set": [{"concat": [5, "1.2.3.4"]}]}))
    [does_not] = rules(match(meta("mark"), 5), {"notrack": None})
    assert looks.tracks
    assert not does_not.tracks


def test_a_cause_has_the_words_of_the_rule() -> None:
    [found] = body(match({"symhash": {"mod": 2}}, 0))
    assert found == Undecided(Cause(Openness.OPEN, "symhash mod 2 0"))


def test_bits_of_a_byte_in_a_concatenation_may_be_a_misprint() -> None:
    """nft 1.0.6 prints ``ip dscp . tcp dport`` with a shift that nobody wrote."""
    looked_at = {"concat": [{">>": [header("ip", "dscp"), 2]}, header("tcp", "dport")]}
    found = body(match(looked_at, {"set": [{"concat": ["ef", 80]}]}), family="ip")
    assert isinstance(found[-1], Undecided)
