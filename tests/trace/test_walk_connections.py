"""Connection tracking and nat: what a packet's connection is at each hook, and what translates it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from istio_init.netfilter.chains import ChainType
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import BITS, CtState, Field
from istio_init.netfilter.packet import first_state
from istio_init.netfilter.rules import Assign, End, Hook, Nat, NatKind, Statement, Test, Untrack, Verdict, Zone
from istio_init.trace.result import Kind, Outcome

from .walking import address, base, host, inbound, matched, packet, save, table, trace

DROP = (End(Verdict.DROP),)
STATES = 0x4F


def state(bits: int) -> Test:
    return Test(Field.CT_STATE, ((1, STATES),), bits)


SEEN: dict[str, tuple[tuple[Statement, ...], int, dict[str, Any], bool, int]] = {
    "nothing is looked up before -200": ((), -250, {}, True, CtState.INVALID),
    "a first packet is new": ((), -150, {}, True, CtState.NEW),
    "nothing is looked up where nothing is tracked": ((), -150, {}, False, CtState.INVALID),
    "a packet of a connection": ((), -150, {"state": CtState.ESTABLISHED}, True, CtState.ESTABLISHED),
    "a packet of none": ((), -150, {"state": CtState.INVALID}, True, CtState.INVALID),
    "notrack": ((Untrack(),), -150, {}, True, CtState.UNTRACKED),
    "a zone makes it new before it is looked up": ((Zone(1),), -250, {}, True, CtState.NEW),
    "a zone is no state": ((Zone(1),), -150, {"state": CtState.ESTABLISHED}, True, CtState.ESTABLISHED),
    "notrack comes too late behind a zone": ((Zone(1), Untrack()), -150, {}, True, CtState.NEW),
}


@pytest.mark.parametrize("name", SEEN)
def test_rules_see_the_state_of_the_connection(name: str) -> None:
    first, priority, facts, tracks, bits = SEEN[name]
    sent = packet("8.8.8.8").replace(**facts)
    raw = table(base(Hook.OUTPUT, first, priority=-300), name="raw")
    for wanted in (CtState.INVALID, CtState.ESTABLISHED, CtState.NEW, CtState.UNTRACKED):
        rule = table(base(Hook.OUTPUT, (state(wanted), *DROP), priority=priority))
        found = trace(sent, raw, rule, tracks=tracks)
        assert (found.delivered.kind is Kind.DROP) is (wanted == bits), wanted


@pytest.mark.parametrize("field", [Field.CT_MARK, Field.CT_ZONE, Field.CT_DIRECTION])
def test_what_rules_see_of_a_connection_before_it_is_looked_up_is_not_known(field: Field) -> None:
    first = (Zone(7),), (Assign(Field.CT_MARK, (), 5),)
    most = (1 << BITS[field]) - 1
    for rule in (Test(field, ((0, most),)), Test(field, ((1, 1),))):
        found = trace(packet("8.8.8.8"), table(base(Hook.OUTPUT, *first, (rule, *DROP), priority=-300)), tracks=True)
        assert found.delivered.kind is Kind.UNKNOWN


def test_a_zone_is_that_of_the_connection() -> None:
    raw = table(base(Hook.OUTPUT, (Zone(7),), priority=-300), name="raw")
    rule = table(base(Hook.OUTPUT, (Test(Field.CT_ZONE, ((7, 7),)), *DROP)))
    assert trace(packet("8.8.8.8"), raw, rule, tracks=True).delivered.kind is Kind.DROP


@pytest.mark.parametrize("tracks", [False, True])
def test_a_mark_is_only_kept_with_a_connection(tracks: bool) -> None:
    marks = table(base(Hook.OUTPUT, (Assign(Field.CT_MARK, (), 5),), priority=-150), name="marks")
    rule = table(base(Hook.OUTPUT, (Test(Field.CT_MARK, ((5, 5),)), *DROP)))
    found = trace(packet("8.8.8.8"), marks, rule, tracks=tracks)
    assert (found.delivered.kind is Kind.DROP) is tracks


OLD = packet("8.8.8.8").replace(state=CtState.ESTABLISHED)


@pytest.mark.parametrize("field", [Field.CT_MARK, Field.CT_STATUS, Field.CT_DIRECTION, Field.CT_ORIG_DPORT])
def test_of_a_connection_that_is_no_longer_new_little_is_known(field: Field) -> None:
    found = trace(OLD, table(base(Hook.OUTPUT, (Test(field, ((1, 1),)), *DROP))), tracks=True)
    assert found.delivered.kind is Kind.UNKNOWN
    assert "connection" in found.causes[0].words


def test_a_connection_that_is_no_longer_new_is_translated_as_its_first_packet_was() -> None:
    """By these rules, or before them; nat itself is not asked again."""
    rules = save("*nat\n-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001")
    found = trace(OLD, *rules)
    assert (found.delivered.kind, matched(found)) == (Kind.UNKNOWN, [[]])
    assert {(way.delivered.kind, way.delivered.port) for way in found.ways} == {
        (Kind.DIRECT, None),
        (Kind.REDIRECT, 15001),
    }
    assert trace(OLD.replace(destination_port=81), *rules).delivered.kind is Kind.DIRECT


def test_a_connection_may_be_translated_as_rules_may_have_it() -> None:
    rules = save("*nat\n-A OUTPUT -m limit --limit 1/sec -p tcp -j REDIRECT --to-ports 15001\n-A OUTPUT -j NFQUEUE")
    found = trace(OLD, *rules)
    assert found.delivered.kind is Kind.UNKNOWN
    assert any("translated" in cause.words for cause in found.causes)


def test_what_later_rules_see_of_a_connection_that_may_be_translated_is_both() -> None:
    rules = save("*nat\n-A OUTPUT -p tcp -j DNAT --to-destination 9.9.9.9\n*filter\n-A OUTPUT -d 9.9.9.9/32 -j DROP")
    assert {way.delivered.kind for way in trace(OLD, *rules).ways} == {Kind.DIRECT, Kind.DROP}


REDIRECT = (Nat(NatKind.REDIRECT, None, (15001, 15001)),)
RETURN = (End(Verdict.RETURN),)


def nat(name: str, *bodies: tuple[Statement, ...], priority: int, drops: bool = False) -> Any:
    return table(base(Hook.OUTPUT, *bodies, priority=priority, type=ChainType.NAT, drops=drops), name=name)


def test_nat_chains_of_all_tables_are_asked_in_order_until_one_translates() -> None:
    first = nat("first", RETURN, priority=-200)
    second = nat("second", REDIRECT, priority=-90)
    third = nat("third", DROP, priority=50)
    found = trace(packet("8.8.8.8"), third, second, first, tracks=True)
    assert matched(found) == [["first output 1", "second output 1"], []]
    assert found.outcome == Outcome(Kind.REDIRECT, 15001, address("127.0.0.1"))
    dropping = nat("second", priority=-90, drops=True)
    assert trace(packet("8.8.8.8"), dropping, first, tracks=True).delivered.kind is Kind.DROP


def test_nat_lies_at_its_own_priority_whatever_that_of_its_chains() -> None:
    late = nat("late", REDIRECT, priority=50)
    filters = table(base(Hook.OUTPUT, (Test(Field.DPORT, ((15001, 15001),)), *DROP)), name="filter")
    assert trace(packet("8.8.8.8"), late, filters, tracks=True).delivered.kind is Kind.DROP


def test_what_comes_back_by_lo_meets_raw_and_mangle_but_not_nat() -> None:
    rules = save(
        "*raw\n-A PREROUTING -p tcp\n*mangle\n-A PREROUTING -p tcp\n-A INPUT -p tcp\n"
        "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\n"
        "-A INPUT -p tcp -j SNAT --to-source 10.9.0.3\n-A POSTROUTING -p tcp -j ACCEPT"
    )
    found = trace(packet("8.8.8.8"), *rules)
    assert matched(found) == [
        ["nat OUTPUT 1", "nat POSTROUTING 1"],
        ["raw PREROUTING 1", "mangle PREROUTING 1", "mangle INPUT 1"],
    ]
    assert (found.delivered.port, found.state.source) == (15001, address("10.1.2.3"))


def test_marks_and_the_connection_come_back_by_lo_and_the_socket_does_not() -> None:
    rules = save(
        "*mangle\n-A OUTPUT -j MARK --set-mark 7\n-A PREROUTING -m mark --mark 7 -m conntrack --ctstate NEW,DNAT\n"
        "-A INPUT -m conntrack --ctstate DNAT\n"
        "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\n*filter\n-A INPUT -m owner --uid-owner 1000 -j DROP"
    )
    found = trace(packet("8.8.8.8"), *rules)
    assert matched(found)[1] == ["mangle PREROUTING 1", "mangle INPUT 1"]
    assert found.delivered.kind is Kind.REDIRECT


PORTS: dict[str, tuple[str, int, int]] = {
    "one": ("REDIRECT --to-ports 15001", 80, 15001),
    "none": ("REDIRECT", 80, 80),
    "the present one, within a range": ("REDIRECT --to-ports 79-90", 80, 80),
    "the first of a range": ("REDIRECT --to-ports 100-200", 80, 100),
    "of another machine": ("DNAT --to-destination 10.9.0.77:81", 80, 81),
    "the same of another machine": ("DNAT --to-destination 10.9.0.77", 80, 80),
}


@pytest.mark.parametrize("name", PORTS)
def test_the_port_is_the_one_of_the_range_or_stays(name: str) -> None:
    target, port, new = PORTS[name]
    found = trace(packet("8.8.8.8", port), *save(f"*nat\n-A OUTPUT -p tcp -j {target}"))
    assert (found.delivered.port, found.state.destination_port, found.causes) == (new, new, ())


def test_one_of_several_addresses_cannot_be_told() -> None:
    found = trace(packet("8.8.8.8"), *save("*nat\n-A OUTPUT -p tcp -j DNAT --to-destination 10.9.0.77-10.9.0.78"))
    assert found.delivered.kind is Kind.UNKNOWN
    assert {way.delivered.address for way in found.ways} == {address("10.9.0.77"), address("10.9.0.78")}


def test_netmap_keeps_the_host() -> None:
    found = trace(packet("8.8.8.8"), *save("*nat\n-A OUTPUT -d 8.8.8.0/24 -j NETMAP --to 10.9.0.0/24"))
    assert found.delivered == Outcome(Kind.DNAT, 80, address("10.9.0.8"))


SOURCES = {
    "SNAT --to-source 10.9.0.9": address("10.9.0.9"),
    "MASQUERADE": None,
    "SNAT --to-source 10.9.0.9 --random": address("10.9.0.9"),
}


@pytest.mark.parametrize("target", SOURCES)
def test_a_new_source_changes_nothing_else(target: str) -> None:
    found = trace(packet("8.8.8.8"), *save(f"*nat\n-A POSTROUTING -p tcp -j {target}"))
    assert (found.delivered, found.state.source) == (Outcome(Kind.DIRECT), SOURCES[target])


def test_masquerade_takes_the_one_address_of_the_interface() -> None:
    found = trace(packet("10.9.0.77", interface="net1"), *save("*nat\n-A POSTROUTING -p tcp -j MASQUERADE"))
    assert found.state.source == address("10.9.0.3")


def test_masquerade_to_an_address_of_ours_may_take_any_of_ours() -> None:
    rules = save("*nat\n-A POSTROUTING -j MASQUERADE\n*filter\n-A INPUT -s ::1 -j DROP", family=Family.IPV6)
    found = trace(packet("::1", interface="lo"), *rules)
    assert found.delivered.kind is Kind.UNKNOWN


def test_a_redirect_by_an_interface_without_addresses_drops() -> None:
    bare = host().replace(links=tuple(each.replace(addresses=()) for each in host().links))
    rules = save("*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006")
    assert trace(inbound("10.1.2.3"), *rules, on=bare).delivered.kind is Kind.DROP


SCOPES = {"fe80::2": "fe80::2", "ff02::1": "fe80::2", "fd00:1::3": "fd00:1::4", "2001:db8::1": "fd00:1::4"}


@pytest.mark.parametrize("destination", SCOPES)
def test_a_redirect_of_ipv6_takes_the_first_address_of_a_scope_that_fits(destination: str) -> None:
    rules = save("*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006", family=Family.IPV6)
    found = trace(inbound(destination), *rules)
    assert found.state.destination == address(SCOPES[destination])


TUPLES = {
    Field.CT_ORIG_DESTINATION: "8.8.8.8",
    Field.CT_REPLY_SOURCE: "127.0.0.1",
    Field.CT_ORIG_SOURCE: "10.1.2.3",
    Field.CT_REPLY_DESTINATION: "10.1.2.3",
}


@pytest.mark.parametrize("field", TUPLES)
def test_a_translated_connection_has_both_its_tuples(field: Field) -> None:
    number = address(TUPLES[field])
    rule = table(base(Hook.OUTPUT, (Test(field, ((number, number),)), *DROP)), name="filter")
    assert trace(packet("8.8.8.8"), nat("nat", REDIRECT, priority=-100), rule, tracks=True).delivered.kind is Kind.DROP


BEGINNINGS = {
    2: CtState.NEW,
    2 | 64 | 128: CtState.NEW,
    16: CtState.NEW,
    1: CtState.INVALID,
    1 | 16: CtState.INVALID,
    4: CtState.INVALID,
    0: CtState.INVALID,
}


@pytest.mark.parametrize("flags", BEGINNINGS)
def test_tcp_begins_with_syn_or_is_picked_up_with_ack(flags: int) -> None:
    sent = packet("8.8.8.8", tcp_flags=flags)
    assert first_state(sent) is BEGINNINGS[flags]
    assert first_state(sent, picks_up=False) is (CtState.INVALID if flags == 16 else BEGINNINGS[flags])


def test_icmp_begins_with_a_request() -> None:
    ping = packet("8.8.8.8", 0, protocol=1, icmp_type=8)
    assert first_state(ping) is CtState.NEW
    assert first_state(ping.replace(icmp_type=0)) is CtState.INVALID
    assert first_state(packet("fd00:1::1", 0, protocol=58, icmp_type=135)) is CtState.UNTRACKED


def test_masquerade_takes_an_address_of_lo_whose_scope_is_global() -> None:
    links = tuple(
        each.replace(addresses=(*each.addresses, ip_address("::6"))) if each.name == "lo" else each
        for each in host().links
    )
    on = host("local fd00:9::99 dev lo").replace(links=links)
    rules = save("*nat\n-A POSTROUTING -j MASQUERADE", family=Family.IPV6)
    assert trace(packet("fd00:9::99", interface="lo"), *rules, on=on).state.source == 6


def test_a_segment_size_that_a_rule_sets_may_make_the_packet_longer() -> None:
    rules = save(
        "*mangle\n-A POSTROUTING -p tcp -j TCPMSS --set-mss 1000\n-A POSTROUTING -m length --length 64 -j DROP"
    )
    assert trace(packet("10.9.0.77"), *rules).delivered.kind is Kind.UNKNOWN


def test_what_came_back_without_a_connection_has_none_behind_a_zone_either() -> None:
    rules = save(
        "*raw\n-A PREROUTING -p icmp -j CT --zone-orig 2\n*filter\n-A INPUT -m conntrack --ctstate INVALID -j DROP"
    )
    sent = packet(
        "10.9.0.3", interface="lo", protocol=1, source_port=0, state=CtState.INVALID, icmp_type=3, icmp_code=0
    )
    assert trace(sent, *rules, tracks=True).delivered.kind is Kind.DROP


def test_nat_is_asked_of_a_template_that_a_packet_without_a_connection_was_given() -> None:
    zone, none = Zone(1, even_untracked=True), End(Verdict.ACCEPT)
    rules = (
        table(base(Hook.OUTPUT, (zone,), priority=100), name="zones"),
        table(base(Hook.POSTROUTING, (none,), type=ChainType.NAT, priority=100), name="nat"),
    )
    icmp: dict[str, Any] = {"protocol": 1, "source_port": 0, "icmp_type": 0, "icmp_code": 0}
    found = trace(packet("8.8.8.8", state=CtState.INVALID, **icmp), *rules, tracks=True)
    assert [hop.hook for leg in found.legs for hop in leg.hops if hop.matched] == [Hook.OUTPUT, Hook.POSTROUTING]
