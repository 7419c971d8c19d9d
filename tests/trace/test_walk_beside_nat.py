"""What rules change beside nat and routing, and what a socket asks for before them: each was seen in the kernel."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from istio_init.netfilter.chains import Chain, ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, CtState, Field
from istio_init.netfilter.host import RoutingRule
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.rules import (
    Assign,
    Cause,
    End,
    Forget,
    Hook,
    Nat,
    NatKind,
    Openness,
    Statement,
    Test,
    Untrack,
    Verdict,
    Zone,
)
from istio_init.netfilter.stages import Netfilter
from istio_init.space.map import classes
from istio_init.trace.facts import Facts
from istio_init.trace.result import Kind, Outcome, Trace

from .walking import address, base, host, packet, save, table, trace

DROP = End(Verdict.DROP)
PEER, OURS = address("10.9.0.77"), address("10.1.2.3")
MARK_OF_CPU = Forget(Field.MARK, Cause(Openness.OPEN, "which CPU it is"))


def is_port(number: int) -> Test:
    """A test of the destination port."""
    return Test(Field.DPORT, ((number, number),))


def tables(*chains: Chain) -> tuple[Table, ...]:
    """A table for each base chain."""
    return tuple(table(each, name=f"t{number}") for number, each in enumerate(chains))


def translated(nat: Nat, *, hook: Hook = Hook.OUTPUT, change: Statement) -> tuple[Table, ...]:
    """A rule that changes the header behind connection tracking, and one that translates the connection."""
    return tables(
        base(Hook.OUTPUT, (change,), priority=-150),
        base(hook, (Test(Field.PROTOCOL, ((6, 6),)), nat), type=ChainType.NAT, priority=-100),
    )


PORT = Assign(Field.DPORT, (), 15053)
ELSEWHERE = Assign(Field.DESTINATION, (), PEER)
TRANSLATED: dict[str, tuple[Statement, Nat, tuple[int, int]]] = {
    "an address alone writes the connection's port": (PORT, Nat(NatKind.DNAT, (OURS, OURS)), (OURS, 80)),
    "a port alone writes the connection's address": (
        ELSEWHERE,
        Nat(NatKind.DNAT, None, (81, 81)),
        (address("8.8.8.8"), 81),
    ),
    "an address and a port are what is written": (PORT, Nat(NatKind.DNAT, (OURS, OURS), (81, 81)), (OURS, 81)),
    "what the connection has is not written": (
        PORT,
        Nat(NatKind.DNAT, (address("8.8.8.8"), address("8.8.8.8")), (80, 80)),
        (address("8.8.8.8"), 15053),
    ),
    "a range that holds the connection's port keeps it": (
        PORT,
        Nat(NatKind.DNAT, (OURS, OURS), (79, 90)),
        (OURS, 80),
    ),
}


@pytest.mark.parametrize("name", TRANSLATED)
def test_nat_starts_from_what_the_connection_has(name: str) -> None:
    change, nat, end = TRANSLATED[name]
    rules = translated(nat, change=change)
    found = trace(packet("8.8.8.8"), *rules, tracks=True)
    assert (found.state.destination, found.state.destination_port) == end
    assert maps_alike(found, *rules)


def test_a_source_that_a_rule_changed_is_written_with_the_port_of_the_connection() -> None:
    own = Nat(NatKind.SNAT, (OURS, OURS))
    rules = translated(own, hook=Hook.POSTROUTING, change=Assign(Field.SPORT, (), 9))
    found = trace(packet("8.8.8.8", source="10.1.2.4"), *rules, tracks=True)
    assert (found.state.source, found.state.source_port) == (OURS, 21000)


UNTRACKED: dict[str, tuple[Zone, CtState]] = {
    "iptables leaves it untracked": (Zone(1), CtState.UNTRACKED),
    "nft has it tracked after all": (Zone(1, even_untracked=True), CtState.NEW),
}


@pytest.mark.parametrize("name", UNTRACKED)
def test_a_zone_for_what_is_not_to_be_tracked(name: str) -> None:
    zone, state = UNTRACKED[name]
    is_so = Test(Field.CT_STATE, ((int(state), int(state)),))
    rules = tables(
        base(Hook.OUTPUT, (Untrack(),), priority=-300),
        base(Hook.OUTPUT, (zone,)),
        base(Hook.INPUT, (is_so, DROP)),
    )
    found = trace(packet("10.1.2.3", interface="lo"), *rules, tracks=True)
    assert found.delivered.kind is Kind.DROP
    assert maps_alike(found, *rules)


def test_netmap_leaves_an_address_of_its_network_though_other_packets_get_another_address() -> None:
    netmap = Nat(NatKind.DNAT, (address("8.8.8.0"), address("8.8.8.255")), netmap=True)
    rules = tables(
        base(Hook.OUTPUT, (is_port(81), ELSEWHERE), priority=-150),
        base(Hook.OUTPUT, (netmap,), type=ChainType.NAT, priority=-100),
    )
    found = trace(packet("8.8.8.8"), *rules, tracks=True)
    assert found.delivered.kind is Kind.DIRECT
    assert maps_alike(found, *rules)


def test_what_came_back_via_lo_gets_the_source_of_its_connection_once_more() -> None:
    rules = tables(
        base(Hook.POSTROUTING, (Nat(NatKind.SNAT, (OURS, OURS), (53, 53)),), type=ChainType.NAT, priority=100),
        base(Hook.PREROUTING, (Assign(Field.SOURCE, (), PEER),), priority=-150),
        base(Hook.INPUT, (is_port(79),), type=ChainType.NAT, priority=100),
        base(Hook.INPUT, (Test(Field.SOURCE, ((PEER, PEER),)), DROP), priority=101),
    )
    found = trace(packet("10.1.2.3", interface="lo"), *rules, tracks=True)
    assert (found.state.source, found.state.source_port) == (OURS, 53)
    assert found.delivered.kind is Kind.DIRECT
    assert maps_alike(found, *rules)


def test_a_template_is_not_translated() -> None:
    rules = tables(
        base(Hook.OUTPUT, (Untrack(),), priority=-300),
        base(Hook.OUTPUT, (Zone(1, even_untracked=True),), priority=-150),
        base(Hook.OUTPUT, (is_port(80), Nat(NatKind.REDIRECT, None, (19, 19))), type=ChainType.NAT, priority=-100),
    )
    found = trace(packet("10.1.2.3", interface="lo"), *rules, tracks=True)
    assert (found.delivered, found.state.destination_port) == (Outcome(Kind.DIRECT), 80)


def test_a_mark_that_may_be_what_it_was_may_not_be_routed_again() -> None:
    rules = table(base(Hook.OUTPUT, (MARK_OF_CPU,), type=ChainType.ROUTE))
    as_root = RoutingRule(100, 100, uids=(0, 0))
    found = trace(packet("8.8.8.8"), rules, on=host("default dev net1 table 100", rules=(as_root,)))
    assert (found.delivered, set(found.state.via)) == (Outcome(Kind.DIRECT), {"eth0", "net1"})


def test_where_a_packet_with_an_unknown_mark_goes_is_either() -> None:
    rules = table(base(Hook.OUTPUT, (MARK_OF_CPU,), type=ChainType.ROUTE))
    on = host("local default dev lo table 100", rules=(RoutingRule(100, 100, mark=1),))
    assert set(trace(packet("8.8.8.8"), rules, on=on).state.via) == {None, "eth0"}


def test_what_is_sent_to_one_of_several_addresses_may_be_forwarded() -> None:
    nat = Nat(NatKind.DNAT, cause=Cause(Openness.OPEN, "which address it is"))
    rules = tables(base(Hook.PREROUTING, (nat,), type=ChainType.NAT, priority=-100), base(Hook.INPUT, (DROP,)))
    ends = {
        forwards: {
            way.delivered.kind
            for way in trace(
                packet("10.1.2.3", to="inbound"), *rules, on=host(forwards=dict.fromkeys(Family, forwards)), tracks=True
            ).ways
        }
        for forwards in (True, False)
    }
    assert ends == {True: {Kind.DROP, Kind.DNAT}, False: {Kind.DROP}}


FROM_US = RoutingRule(100, None, AddressType.UNREACHABLE, source=ip_network("fd00:1::3"))
BY_PORT = RoutingRule(100, None, AddressType.UNREACHABLE, dports=(80, 80))
ASKED: dict[str, tuple[Packet, RoutingRule, Kind]] = {
    "a bound source is asked with": (packet("2001:db8::8"), FROM_US, Kind.DROP),
    "one that is left to the kernel is not": (packet("2001:db8::8", leaves_source=True), FROM_US, Kind.DIRECT),
    "in IPv4 it is, as soon as it is chosen": (
        packet("8.8.8.8", leaves_source=True),
        FROM_US.replace(source=ip_network("10.1.2.3")),
        Kind.DROP,
    ),
    "a socket of a protocol asks with its ports": (packet("8.8.8.8"), BY_PORT, Kind.DROP),
    "a raw socket asks without": (packet("8.8.8.8", is_raw=True), BY_PORT, Kind.DIRECT),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_first_route_is_asked_for_with_what_the_socket_knows(name: str) -> None:
    sent, rule, kind = ASKED[name]
    assert trace(sent, on=host(rules=(rule,))).delivered.kind is kind


def test_a_bound_socket_of_ipv6_passes_over_a_throw_route() -> None:
    on = host("throw fd00:9::77")
    assert trace(packet("fd00:9::77", bound="eth0"), on=on).delivered.kind is Kind.DIRECT


def test_the_type_of_an_ipv6_address_is_asked_for_as_what_this_machine_sends() -> None:
    rule = RoutingRule(100, 100, in_interface="lo")
    on = host("local default6 dev lo table 100", rules=(rule,))
    drop = save("*filter\n-A FORWARD -m addrtype --dst-type LOCAL -j DROP", family=Family.IPV6)
    assert Facts(on, Family.IPV6).type_of(address("2001:db8::8")) is AddressType.LOCAL
    assert trace(packet("2001:db8::8", to="inbound"), *drop, on=on).delivered.kind is Kind.DROP


def test_the_type_of_an_ipv6_address_is_undecidable_where_nft_and_iptables_ask_differently() -> None:
    rule = RoutingRule(100, 100, source=ip_network("fd00:1::1"))
    facts = Facts(host("local default6 dev lo table 100", rules=(rule,)), Family.IPV6)
    assert (facts.type_of(address("2001:db8::8")), facts.type_of(address("fd00:1::3"))) == (None, AddressType.LOCAL)


def maps_alike(found: Trace, *rules: Table) -> bool:
    """Whether the map has the packet in a class of the same outcome."""
    sent = found.packet
    of_all = classes(Netfilter(rules, None, dict.fromkeys(Family, True)), host(), sent.family, Direction.OUTBOUND)
    mapped = of_all.class_of(sent).outcome
    return mapped.kind is found.delivered.kind and mapped.port in (None, found.delivered.port)
