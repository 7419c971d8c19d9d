"""Routing: rules and tables, what is asked again on the way out, and what is believed of what comes in."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from istio_init.netfilter.chains import ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.host import Host, RoutingRule
from istio_init.netfilter.packet import Packet
from istio_init.netfilter.rules import Assign, End, Hook, Statement, Test, Verdict
from istio_init.trace.describe import filled
from istio_init.trace.facts import Facts
from istio_init.trace.result import Kind, ReversePathDecider, RoutingDecider
from istio_init.trace.routing import Query, Tables

from .walking import address, base, host, inbound, packet, route, save, table, trace

OTHER_TABLE = ("default dev net1 table 100", "throw 10.7.0.0/16 table 100", "blackhole 10.8.0.0/16 table 100")

RULES: dict[str, tuple[RoutingRule, Query, str | None]] = {
    "a mark": (RoutingRule(100, 100, mark=1), Query(address("8.8.8.8"), mark=1), "net1"),
    "some bits of a mark": (RoutingRule(100, 100, mark=1, mask=0xF), Query(address("8.8.8.8"), mark=0x21), "net1"),
    "another mark": (RoutingRule(100, 100, mark=1), Query(address("8.8.8.8"), mark=2), "eth0"),
    "a negated mark": (RoutingRule(100, 100, mark=1, negated=True), Query(address("8.8.8.8"), mark=2), "net1"),
    "a source": (
        RoutingRule(100, 100, source=ip_network("10.1.2.3")),
        Query(address("8.8.8.8"), address("10.1.2.3")),
        "net1",
    ),
    "a destination": (RoutingRule(100, 100, destination=ip_network("8.0.0.0/8")), Query(address("8.8.8.8")), "net1"),
    "what this machine sends": (RoutingRule(100, 100, in_interface="lo"), Query(address("8.8.8.8")), "net1"),
    "what comes in elsewhere": (RoutingRule(100, 100, in_interface="eth0"), Query(address("8.8.8.8")), "eth0"),
    "a user": (RoutingRule(100, 100, uids=(1000, 1337)), Query(address("8.8.8.8"), uid=1337), "net1"),
    "a protocol": (RoutingRule(100, 100, protocol=17), Query(address("8.8.8.8"), protocol=6), "eth0"),
    "a port": (RoutingRule(100, 100, dports=(80, 90)), Query(address("8.8.8.8"), dport=81), "net1"),
    "a throw goes on with the next rule": (RoutingRule(100, 100), Query(address("10.7.1.1")), "eth0"),
    "a blackhole does not": (RoutingRule(100, 100), Query(address("10.8.1.1")), None),
    "a rule that leads nowhere": (RoutingRule(100, None, AddressType.PROHIBIT), Query(address("8.8.8.8")), None),
    "a rule that is passed over": (RoutingRule(100, None, AddressType.THROW), Query(address("8.8.8.8")), "eth0"),
    "a default route that does not count": (
        RoutingRule(100, 100, suppressed_prefix_length=0),
        Query(address("8.8.8.8")),
        "eth0",
    ),
    "an address of this machine comes first": (RoutingRule(100, 100), Query(address("10.9.0.3")), "lo"),
    "a bound socket": (RoutingRule(100, 100, mark=9), Query(address("8.8.8.8"), out_interface="eth0"), "eth0"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_routing_rule_selects_what_it_asks_for(name: str) -> None:
    rule, query, device = RULES[name]
    found, causes = Tables(host(*OTHER_TABLE, rules=(rule,)), Family.IPV4).look_up(query)
    assert ([each.device for each in found], causes) == ([device], ())


def test_a_routing_rule_that_is_not_known_may_or_may_not_select() -> None:
    on = host(*OTHER_TABLE, rules=(RoutingRule(100, 100, is_known=False),))
    found, causes = Tables(on, Family.IPV4).look_up(Query(address("8.8.8.8")))
    assert [each.device for each in found] == ["net1", "eth0"]
    assert "priority 100" in causes[0].words


def test_the_kernel_may_choose_any_of_several_next_hops() -> None:
    hops = [route(f"default dev {each} table 100").replace(is_one_of_several=True) for each in ("eth0", "net1")]
    on = host(rules=(RoutingRule(100, 100),))
    assert on.routes is not None
    on = on.replace(routes={Family.IPV4: (*hops, *on.routes[Family.IPV4])})
    found, causes = Tables(on, Family.IPV4).look_up(Query(address("8.8.8.8")))
    assert ([each.device for each in found], len(causes)) == (["eth0", "net1"], 1)


MARKS = (Assign(Field.MARK, (), 1),)
LEAVES_BY_NET1 = (Test(Field.OUT_INTERFACE, ((int.from_bytes(b"net1".ljust(16, b"\0")),) * 2,)), End(Verdict.DROP))
TO_NET1 = host(*OTHER_TABLE, rules=(RoutingRule(100, 100, mark=1),))


@pytest.mark.parametrize(
    ("kind", "hook", "dropped"),
    [
        (ChainType.ROUTE, Hook.POSTROUTING, True),
        (ChainType.ROUTE, Hook.OUTPUT, False),
        (ChainType.FILTER, Hook.POSTROUTING, False),
    ],
)
def test_a_route_chain_has_the_route_asked_again_and_postrouting_sees_it(
    kind: ChainType, hook: Hook, dropped: bool
) -> None:
    tables = table(base(Hook.OUTPUT, MARKS, priority=-150, type=kind)), table(base(hook, LEAVES_BY_NET1), name="later")
    found = trace(packet("8.8.8.8"), *tables, on=TO_NET1)
    assert (found.delivered.kind is Kind.DROP) is dropped


def test_the_route_is_asked_again_for_nobody_in_ipv4_and_for_the_user_in_ipv6() -> None:
    for uid, family, destination, device in (
        (1000, Family.IPV4, "8.8.8.8", "eth0"),
        (0, Family.IPV4, "8.8.8.8", "net1"),
        (1000, Family.IPV6, "2001:db8::1", "net1"),
        (0, Family.IPV6, "2001:db8::1", "eth0"),
    ):
        default = "default6" if family is Family.IPV6 else "default"
        on = host(f"{default} dev net1 table 100", rules=(RoutingRule(100, 100, mark=1, uids=(uid, uid)),))
        rules = table(base(Hook.OUTPUT, MARKS, type=ChainType.ROUTE))
        assert trace(packet(destination), rules, on=on).state.via == (device,)


DNATS: dict[str, tuple[str, Host, Kind, str | None]] = {
    "to another machine": ("10.9.0.77:81", host(), Kind.DNAT, "net1"),
    "to this machine": ("10.1.2.4:81", host(), Kind.DNAT, None),
    "to where nothing leads": ("10.7.0.1:81", host("unreachable 10.7.0.0/16"), Kind.DROP, None),
}


@pytest.mark.parametrize("name", DNATS)
def test_the_route_is_asked_again_for_a_new_destination(name: str) -> None:
    to, on, kind, device = DNATS[name]
    found = trace(packet("8.8.8.8"), *save(f"*nat\n-A OUTPUT -p tcp -j DNAT --to-destination {to}"), on=on)
    assert found.delivered.kind is kind
    if kind is Kind.DNAT:
        host_part, port = to.split(":")
        assert (found.delivered.address, found.delivered.port) == (address(host_part), int(port))
        assert found.state.via == (device,)


def test_a_source_of_the_loopback_network_does_not_leave() -> None:
    rules = save("*nat\n-A OUTPUT -p tcp -j DNAT --to-destination 10.9.0.77")
    sent = packet("127.0.0.1", source="127.0.0.1", interface="lo")
    assert trace(sent, *rules).delivered.kind is Kind.DROP
    allowed = host(route_localnet={"net1": True})
    assert trace(sent, *rules, on=allowed).delivered.kind is Kind.DNAT


FORWARDING: dict[str, Any] = {"forwards": dict.fromkeys(Family, True)}
ARRIVALS: dict[str, tuple[Packet, Host, Kind, type | None]] = {
    "for this machine": (inbound("10.1.2.3"), host(), Kind.DIRECT, None),
    "to its broadcast address": (inbound("10.1.255.255"), host(), Kind.DIRECT, None),
    "for another machine": (inbound("10.9.0.77"), host(), Kind.DROP, RoutingDecider),
    "for another machine, which is forwarded": (inbound("10.9.0.77"), host(**FORWARDING), Kind.FORWARD, RoutingDecider),
    "via an interface that forwards": (
        inbound("10.9.0.77"),
        host(forwards_from={"eth0": True}),
        Kind.FORWARD,
        RoutingDecider,
    ),
    "at the end of its TTL": (inbound("10.9.0.77", ttl=1), host(**FORWARDING), Kind.DROP, RoutingDecider),
    "sent to all, for another machine": (
        inbound("10.9.0.77", pkttype=1),
        host(**FORWARDING),
        Kind.DROP,
        RoutingDecider,
    ),
    "with another host's link-layer address": (inbound("10.1.2.3", pkttype=3), host(), Kind.DROP, RoutingDecider),
    "to the loopback network": (inbound("127.0.0.1"), host(), Kind.DROP, RoutingDecider),
    "to the loopback network, which is routed": (
        inbound("127.0.0.1"),
        host(route_localnet={"eth0": True}),
        Kind.DIRECT,
        None,
    ),
    "from the loopback network": (inbound("10.1.2.3", source="127.0.0.1"), host(), Kind.DROP, RoutingDecider),
    "to ::1": (inbound("::1"), host(), Kind.DROP, RoutingDecider),
    "from an address of this machine": (
        inbound("10.1.2.3", source="10.9.0.3"),
        host(),
        Kind.DROP,
        ReversePathDecider,
    ),
    "from an address of this machine, which is accepted": (
        inbound("10.1.2.3", source="10.9.0.3"),
        host(accept_local={"eth0": True}),
        Kind.DIRECT,
        None,
    ),
    "via another interface than the answer's": (inbound("10.1.2.3", source="10.9.0.7"), host(), Kind.DIRECT, None),
    "via another interface than the answer's, strictly": (
        inbound("10.1.2.3", source="10.9.0.7"),
        host(reverse_path_filter={"eth0": 1}),
        Kind.DROP,
        ReversePathDecider,
    ),
    "via another interface than the answer's, loosely": (
        inbound("10.1.2.3", source="10.9.0.7"),
        host(reverse_path_filter={"eth0": 2}),
        Kind.DIRECT,
        None,
    ),
    "from the network of nobody's address": (inbound("10.1.2.3", source="0.1.2.3"), host(), Kind.DIRECT, None),
    "from nobody's address": (inbound("10.1.2.3", source="0.0.0.0"), host(), Kind.DROP, RoutingDecider),
    "from nobody's address to a group": (inbound("224.1.0.1", source="0.0.0.0"), host(), Kind.DROP, RoutingDecider),
    "from a group": (inbound("fd00:1::3", source="ff02::1"), host(), Kind.DROP, RoutingDecider),
    "by a route to any of several hosts": (
        inbound("8.8.8.8"),
        host("anycast 8.8.8.8/32 dev eth0", **FORWARDING),
        Kind.DROP,
        RoutingDecider,
    ),
    "by a route to lo that is not a local one": (
        inbound("8.8.8.8"),
        host("8.8.8.8/32 dev lo", **FORWARDING),
        Kind.DROP,
        RoutingDecider,
    ),
    "from an address of the link, to another link": (
        inbound("fd00:9::77", source="fe80::3"),
        host(**FORWARDING),
        Kind.DROP,
        RoutingDecider,
    ),
    "from an address of the link, to the same": (
        inbound("2001:db8::1", source="fe80::3"),
        host(**FORWARDING),
        Kind.FORWARD,
        RoutingDecider,
    ),
    "from an address that a route makes one of this machine": (
        inbound("10.1.2.3", source="8.8.8.8"),
        host("local 8.8.8.8/32 dev lo"),
        Kind.DROP,
        ReversePathDecider,
    ),
    "from where no route leads, loosely": (
        inbound("10.1.2.3", source="10.7.0.1"),
        host("unreachable 10.7.0.0/16", reverse_path_filter={"eth0": 2}),
        Kind.DROP,
        ReversePathDecider,
    ),
}


@pytest.mark.parametrize("name", ARRIVALS)
def test_what_comes_in_goes_where_routing_says(name: str) -> None:
    sent, on, kind, decider = ARRIVALS[name]
    found = trace(sent, on=on)
    assert (found.delivered.kind, found.causes) == (kind, ())
    assert found.delivered_by is None if decider is None else isinstance(found.delivered_by, decider)


def test_nothing_comes_in_by_an_interface_that_is_down() -> None:
    links = tuple(each.replace(is_up=each.name != "eth0") for each in host().links)
    assert trace(inbound("10.1.2.3"), on=host().replace(links=links)).delivered.kind is Kind.DROP


UNKNOWN: dict[str, tuple[Packet, Host, str]] = {
    "whether it forwards": (inbound("10.9.0.77"), host(forwards=None), "whether the host forwards"),
    "rp_filter": (
        inbound("10.1.2.3", source="10.9.0.7"),
        host(reverse_path_filter=None),
        "rp_filter of eth0",
    ),
    "accept_local": (inbound("10.1.2.3", source="10.9.0.3"), host(accept_local=None), "accept_local of eth0"),
    "membership": (inbound("239.0.0.1"), host(), "member of the group"),
    "route_localnet": (inbound("127.0.0.1"), host(route_localnet=None), "route_localnet of eth0"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_setting_that_is_not_known_is_named_where_it_matters(name: str) -> None:
    sent, on, words = UNKNOWN[name]
    found = trace(sent, on=on)
    assert found.delivered.kind is Kind.UNKNOWN
    assert words in found.causes[0].words
    assert trace(inbound("10.1.2.3"), on=on).causes == ()


FILE = Host(local_marks={Family.IPV4: frozenset([1337])})
FROM_A_FILE: dict[str, tuple[Packet, str, Kind, str | None]] = {
    "what comes in is for this machine": (inbound("10.9.0.77"), "*filter\n-A FORWARD -j DROP", Kind.DIRECT, None),
    "what leaves keeps its interface": (
        packet("8.8.8.8"),
        "*mangle\n-A OUTPUT -j MARK --set-mark 1",
        Kind.DIRECT,
        "eth0",
    ),
    "a mark of TPROXY leads to lo": (
        packet("8.8.8.8"),
        "*mangle\n-A OUTPUT -j MARK --set-mark 1337",
        Kind.DIRECT,
        None,
    ),
    "a redirect leads to lo": (
        packet("8.8.8.8"),
        "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 9",
        Kind.REDIRECT,
        None,
    ),
}


@pytest.mark.parametrize("name", FROM_A_FILE)
def test_little_is_assumed_of_routing_where_rules_are_from_a_file(name: str) -> None:
    sent, rules, kind, device = FROM_A_FILE[name]
    found = trace(sent, *save(rules), on=FILE)
    assert (found.delivered.kind, found.state.via, found.causes) == (kind, (device,), ())


def test_where_a_redirect_leads_in_a_file_is_asked_for_where_a_rule_looks() -> None:
    rules = "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\n*filter\n-A INPUT -d 10.1.2.3 -j DROP"
    found = trace(inbound("10.1.2.3"), *save(rules), on=FILE)
    assert [each.words for each in found.causes] == ["the addresses of the incoming interface"]
    assert {way.delivered.kind for way in found.ways} == {Kind.REDIRECT, Kind.DROP}


TYPES = {
    "10.1.2.3": AddressType.LOCAL,
    "127.1.2.3": AddressType.LOCAL,
    "8.8.8.8": AddressType.UNICAST,
    "10.1.255.255": AddressType.BROADCAST,
    "255.255.255.255": AddressType.BROADCAST,
    "224.0.0.1": AddressType.MULTICAST,
    "fd00:1::3": AddressType.LOCAL,
    "2001:db8::1": AddressType.UNICAST,
    "ff02::1": AddressType.MULTICAST,
}


@pytest.mark.parametrize("text", TYPES)
def test_the_type_of_an_address_is_what_the_local_table_says(text: str) -> None:
    facts = Facts(host(), Family.IPV6 if ":" in text else Family.IPV4)
    assert facts.type_of(address(text)) is TYPES[text]


def test_the_type_of_an_address_is_known_of_interfaces_alone() -> None:
    facts = Facts(Host(host().links), Family.IPV4)
    assert facts.type_of(address("10.1.2.3")) is AddressType.LOCAL
    assert facts.type_of(address("8.8.8.8")) is AddressType.UNICAST
    assert Facts(Host(), Family.IPV4).type_of(address("8.8.8.8")) is None


BACK: dict[str, tuple[Field, dict[str, Any], bool]] = {
    "an answer has a way": (Field.RETURN_INTERFACE, {}, True),
    "an answer leaves by the same interface": (Field.RETURN_INTERFACE_HERE, {}, True),
    "an answer leaves via another interface": (Field.RETURN_INTERFACE_HERE, {"source": "10.9.0.7"}, False),
    "an answer to this machine itself": (Field.RETURN_INTERFACE, {"source": "10.9.0.3"}, False),
}


@pytest.mark.parametrize("name", BACK)
def test_the_way_back_is_asked_of_routing(name: str) -> None:
    field, facts, exists = BACK[name]
    body: tuple[Statement, ...] = (Test(field, ((1, (1 << 128) - 1),)), End(Verdict.DROP))
    tables: Table = table(base(Hook.PREROUTING, body))
    sent = inbound("10.1.2.3", **facts)
    assert (trace(sent, tables, on=host(accept_local={"eth0": True})).delivered.kind is Kind.DROP) is exists


TO_MANY: dict[str, tuple[Packet, Kind]] = {
    "TCP to a group": (packet("224.0.0.251"), Kind.DROP),
    "TCP to a group of IPv6": (packet("ff02::fb"), Kind.DROP),
    "TCP to all": (packet("255.255.255.255"), Kind.DROP),
    "TCP to all of a network": (packet("10.1.255.255"), Kind.DROP),
    "UDP to a group": (packet("224.0.0.251", protocol=17), Kind.DIRECT),
    "UDP to all of a network": (packet("10.1.255.255", protocol=17), Kind.DIRECT),
    "TCP that no socket sends": (packet("224.0.0.251", uid=None, gid=None), Kind.DIRECT),
}


@pytest.mark.parametrize("name", TO_MANY)
def test_no_socket_sends_tcp_to_many_hosts(name: str) -> None:
    sent, kind = TO_MANY[name]
    assert trace(sent, on=host()).delivered.kind is kind


def test_what_is_translated_to_nobodys_address_stays_here() -> None:
    rules = save("*nat\n-A OUTPUT -j DNAT --to-destination 0.0.0.0")
    assert trace(packet("8.8.8.8"), *rules, on=host()).state.via == (None,)


@pytest.mark.parametrize(
    ("rule", "ends"), [("TTL --ttl-dec 1", {Kind.DROP, Kind.FORWARD}), ("DSCP --set-dscp 1", {Kind.FORWARD})]
)
def test_a_ttl_that_a_rule_has_changed_may_end(rule: str, ends: set[Kind]) -> None:
    found = trace(inbound("10.9.0.77"), *save(f"*mangle\n-A PREROUTING -j {rule}"), on=host(**FORWARDING))
    assert {way.delivered.kind for way in found.ways} == ends
    assert found.delivered.kind is (Kind.UNKNOWN if len(ends) > 1 else Kind.FORWARD)


GOTOS: dict[str, tuple[tuple[RoutingRule, ...], str]] = {
    "passes over rules": ((RoutingRule(5, None, AddressType.THROW, mark=1, goes_to=7),), "eth0"),
    "is for what it selects": ((RoutingRule(5, None, AddressType.THROW, mark=2, goes_to=7),), "net1"),
    "leads to no rule": ((RoutingRule(5, None, AddressType.THROW, mark=1, goes_to=8),), "net1"),
    "may be one": ((RoutingRule(5, None, AddressType.THROW, mark=1, goes_to=7, is_known=False),), "eth0 net1"),
}


@pytest.mark.parametrize("name", GOTOS)
def test_a_goto_among_routing_rules(name: str) -> None:
    rules, via = GOTOS[name]
    others = (RoutingRule(6, 70, mark=1), RoutingRule(7, 71, mark=1))
    on = host("default dev net1 table 70", "default dev eth0 table 71", rules=(*rules, *others))
    found, _ = Tables(on, Family.IPV4).look_up(Query(address("8.8.8.8"), mark=1))
    assert " ".join(sorted(each.device or "" for each in found)) == via


def test_a_socket_does_not_send_from_an_address_that_a_mark_makes_its_own() -> None:
    """By ``local default dev lo`` in the table of a mark, the source would be the destination."""
    on = host("local default dev lo table 133", rules=(RoutingRule(100, 133, mark=0x539),))
    sent = packet("8.8.8.8", source="8.8.8.8", interface="lo", mark=0x539, leaves_source=True)
    assert isinstance(trace(sent, on=on).delivered_by, RoutingDecider)
    assert trace(sent.replace(leaves_source=False), on=on).delivered.kind is Kind.DIRECT
    datagram = trace(sent.replace(protocol=17), on=on)  # connect() refuses, sendto() does not ask.
    assert {way.delivered.kind for way in datagram.ways} == {Kind.DIRECT, Kind.DROP}
    assert datagram.delivered.kind is Kind.UNKNOWN


def test_what_is_said_to_be_sent_has_the_source_of_its_first_route_though_the_second_one_is_refused() -> None:
    on = host("blackhole default table 100", rules=(RoutingRule(100, 100, source=ip_network("10.9.0.3/32")),))
    sent, _ = filled({"direction": "outbound", "proto": "udp", "dst": "10.9.0.77", "dport": 53}, on)
    assert str(sent.source) == "10.9.0.3"
    assert trace(sent, on=on).delivered.kind is Kind.DROP


def test_a_group_of_the_link_takes_packets_from_nobodys_address() -> None:
    sent = inbound("224.0.0.1", source="0.0.0.0", pkttype=2)
    assert trace(sent, on=host()).delivered.kind is Kind.DIRECT
