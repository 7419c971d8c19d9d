"""Rules that take numbers apart, facts that are not said, and missing routes: the map agrees with the tracer."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from trace.walking import host

import pytest

from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.save import parse_save
from istio_init.netfilter.chains import BaseChain, Chain, ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.host import Host, Listener, Route
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.rules import Cause, End, Hook, Openness, Origin, Rule, Store, Test, Tproxy, Verdict
from istio_init.netfilter.stages import Netfilter
from istio_init.space.bits import apart, edges_of, spread, together
from istio_init.space.map import classes
from istio_init.space.traffic import TrafficClass
from istio_init.trace.result import Kind
from istio_init.trace.tracer import Tracer

HOST = host().replace(forwards=dict.fromkeys(Family, True))
MINE, OTHER = "10.1.2.3", "10.1.2.4"


def netfilter(rules: str) -> Netfilter:
    return Netfilter(lower(parse_save(rules, Family.IPV4).rules, Store.NFT))


def nat(*rules: str) -> str:
    head = "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n"
    return head + "".join(f"-A {rule}\n" for rule in rules) + "COMMIT\n"


def filtered(*rules: str, table: str = "filter", hooks: str = "INPUT FORWARD OUTPUT") -> str:
    return (
        f"*{table}\n"
        + "".join(f":{hook} ACCEPT\n" for hook in hooks.split())
        + "".join(f"-A {rule}\n" for rule in rules)
        + "COMMIT\n"
    )


def inbound(to: str, dport: int = 80, source: str = "10.1.0.1", protocol: int = 6) -> Packet:
    return Packet(Direction.INBOUND, protocol, ip_address(source), ip_address(to), 21000, dport, tos=0, priority=0)


def outbound(to: str, dport: int = 80, source: str = MINE) -> Packet:
    end = ip_address(source), ip_address(to)
    return Packet(Direction.OUTBOUND, 6, *end, 21000, dport, 1000, 1000, tos=0, priority=0, tcp_flags=2)


def told(rules: str, packet: Packet, on: Host = HOST) -> TrafficClass:
    """The packet's class, which has to be what the tracer says."""
    model = netfilter(rules)
    found = classes(model, on, Family.IPV4, packet.direction).class_of(packet)
    traced = Tracer(model, on).trace(packet).delivered
    assert (found.outcome.kind, traced.kind) == (traced.kind, found.outcome.kind), packet
    assert found.outcome.port in (None, traced.port) and found.outcome.address in (None, traced.address)
    return found


DROPPED_AFTERWARDS = filtered("INPUT -d 10.1.2.3/32 -j DROP")

NETMAP: dict[str, tuple[str, dict[str, Kind]]] = {
    "of everything": (
        nat("PREROUTING -j NETMAP --to 10.1.2.0/24") + DROPPED_AFTERWARDS,
        {"8.8.8.3": Kind.DROP, "8.8.8.4": Kind.DNAT, "10.1.2.3": Kind.DROP, "10.1.2.4": Kind.DIRECT},
    ),
    "of one network": (
        nat("PREROUTING -d 192.168.7.0/24 -j NETMAP --to 10.1.2.0/24") + DROPPED_AFTERWARDS,
        {"192.168.7.3": Kind.DROP, "192.168.7.4": Kind.DNAT, "10.1.2.4": Kind.DIRECT},
    ),
    "of two, rule by rule": (
        nat(*(f"PREROUTING -d 192.168.{each}.0/24 -j NETMAP --to 10.1.2.0/24" for each in (7, 8))) + DROPPED_AFTERWARDS,
        {"192.168.7.3": Kind.DROP, "192.168.8.3": Kind.DROP, "192.168.8.4": Kind.DNAT},
    ),
    "of a network that is larger": (
        nat("PREROUTING -d 192.168.0.0/16 -j NETMAP --to 10.1.2.0/24") + DROPPED_AFTERWARDS,
        {"192.168.7.3": Kind.DROP, "192.168.9.3": Kind.DROP, "192.168.9.4": Kind.DNAT},
    ),
    "of two lengths": (
        nat(*(f"PREROUTING {each}" for each in ("-p tcp -j NETMAP --to 10.1.2.0/24", "-j NETMAP --to 10.1.2.0/28")))
        + DROPPED_AFTERWARDS,
        {"8.8.8.3": Kind.DROP, "8.8.8.19": Kind.DNAT},
    ),
}


@pytest.mark.parametrize("name", NETMAP)
def test_netmap_keeps_the_last_bits_and_later_rules_see_the_new_address(name: str) -> None:
    rules, ends = NETMAP[name]
    assert {to: told(rules, inbound(to)).outcome.kind for to in ends} == ends


def test_conditions_name_whole_addresses_where_the_map_takes_them_apart() -> None:
    model = netfilter(nat("PREROUTING -j NETMAP --to 10.1.2.0/24") + filtered("INPUT -s 10.7.0.0/16 -j DROP"))
    found = classes(model, HOST, Family.IPV4, Direction.INBOUND, only_expected=True)
    tests = [each for one in found.classes for region in one.regions.simplest(50) for each in region]
    sources = [each for each in tests if isinstance(each, Test) and each.field is Field.SOURCE]
    assert sources and all(each.mask is None for each in sources)


@pytest.mark.parametrize("to", ["10.9.9.3", "10.9.9.4", "11.9.9.3"])
def test_a_mask_with_gaps_is_told_of_every_address(to: str) -> None:
    mask = "10.0.0.3/255.0.0.255"
    rules = filtered(
        f"INPUT -d {mask} -j DROP", f"FORWARD -d {mask} -j DROP", "FORWARD ! -s 10.1.0.1/255.255.0.255 -j DROP"
    )
    assert (told(rules, inbound(to)).outcome.kind is Kind.DROP) is (to == "10.9.9.3")


@pytest.mark.parametrize("mask", [0xFF, 0xFF00FF, 0xFFFFFFFF, 0xF0F0, 1, 0x80000000])
def test_masks_end_where_their_bits_do(mask: int) -> None:
    whole = 0xFFFFFFFF
    known = {whole: 1} | dict.fromkeys(edges_of(mask, whole), 1)
    parts, last = [], 0
    for edge in sorted(known):
        parts.append(edge & ~last)
        last |= edge
    assert all(part & mask in (0, part) for part in parts)
    assert sum(parts) == whole


def test_bits_under_a_mask_never_have_a_value_that_has_others() -> None:
    assert spread(((80, 80),), 1, 0xFFFF) == ()
    assert spread(((1, 1),), 0x8001, 0xFFFF) is None
    assert apart(together(0xABCD, 0xF0F0), 0xF0F0) == 0xA0C0


def test_two_tests_of_what_is_not_said_agree() -> None:
    twice = filtered("INPUT -m length --length 0:100 -j ACCEPT", "INPUT -m length --length 50:60 -j DROP")
    assert told(twice, inbound(MINE)).outcome.kind is Kind.DIRECT
    once = told(filtered("INPUT -m length --length 0:100 -j DROP"), inbound(MINE))
    assert once.causes == (Cause(Openness.NOT_GIVEN, "the packet's length"),)


@pytest.mark.parametrize(("ttl", "kind"), [(1, Kind.DROP), (2, Kind.FORWARD)])
def test_what_a_rule_leaves_with_too_short_a_life_is_not_forwarded(ttl: int, kind: Kind) -> None:
    rules = filtered(f"PREROUTING -j TTL --ttl-set {ttl}", table="mangle", hooks="PREROUTING")
    assert told(rules, inbound("8.8.8.8")).outcome.kind is kind


def test_a_port_that_is_set_is_the_one_that_a_packet_has_already() -> None:
    rules = nat(
        "PREROUTING -p tcp -m statistic --mode random --probability 0.5 -j REDIRECT",
        "PREROUTING -p tcp -j REDIRECT --to-ports 15006",
    )
    assert told(rules, inbound(MINE, 15006)).outcome.kind is Kind.REDIRECT
    assert told(rules, inbound(MINE, 15007)).outcome.kind is Kind.UNKNOWN


ROUTES = {
    "no route at all": ((), "no route"),
    "one that says so": ((Route(254, ip_network("0.0.0.0/0"), AddressType.UNREACHABLE),), "unreachable"),
    "one that is silent": ((Route(254, ip_network("8.0.0.0/8"), AddressType.BLACKHOLE),), "blackhole"),
}


@pytest.mark.parametrize("name", ROUTES)
def test_what_no_route_leads_anywhere_for_is_refused_before_any_rule(name: str) -> None:
    more, words = ROUTES[name]
    kept = [each for each in (HOST.routes or {})[Family.IPV4] if each.destination.prefixlen]
    on = HOST.replace(routes={Family.IPV4: (*kept, *more), Family.IPV6: ()})
    rules = nat("OUTPUT -p tcp -j REDIRECT --to-ports 15001")
    refused = told(rules, outbound("8.8.8.8"), on)
    assert refused.outcome.kind is Kind.DROP
    assert str(refused.decider).count(f"{words}: its sender gets an error, and no rule sees it") == 1
    assert told(rules, outbound("10.1.0.1"), on).outcome.kind is Kind.REDIRECT
    expected = classes(netfilter(rules), on, Family.IPV4, Direction.OUTBOUND, only_expected=True)
    assert expected.class_of(outbound("8.8.8.8")) == refused.replace(
        regions=expected.class_of(outbound("8.8.8.8")).regions, example=expected.class_of(outbound("8.8.8.8")).example
    )


def test_where_a_default_route_leads_on_nothing_is_refused() -> None:
    found = classes(netfilter(nat()), HOST, Family.IPV4, Direction.OUTBOUND, only_expected=True)
    assert [each.outcome.kind for each in found.classes] == [Kind.DIRECT]


@pytest.mark.parametrize("dport", [80, 81, 15006, 15007])
def test_a_bit_of_a_port_is_told_whatever_nat_makes_of_it(dport: int) -> None:
    body = (Test(Field.PROTOCOL, ((6, 6),)), Test(Field.DPORT, ((1, 1),), 1))
    origin = Origin(Store.NFT, "ip", "odd", "input", 1, "tcp dport & 1 == 1 drop")
    chain = Chain("input", (Rule((*body, End(Verdict.DROP)), origin),), BaseChain(Hook.INPUT, 0, ChainType.FILTER))
    redirected = netfilter(nat("PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001"))
    model = Netfilter([*redirected.tables, Table(Store.NFT, "ip", "odd", {"input": chain})])
    found = classes(model, HOST, Family.IPV4, Direction.INBOUND)
    packet = inbound(MINE, dport)
    traced = Tracer(model, HOST).trace(packet).delivered
    outcome = found.class_of(packet).outcome
    assert (outcome.kind, outcome.port) == (traced.kind, traced.port)
    assert outcome.kind is (Kind.DROP if dport in (80, 81, 15007) else Kind.DIRECT)


def test_of_two_sockets_that_a_packet_is_given_the_later_one_has_it() -> None:
    rules = tuple(
        Rule(
            (Test(Field.PROTOCOL, ((6, 6),)), Tproxy(None, port, drops=False)), Origin(Store.NFT, "ip", "t", "c", 1, "")
        )
        for port in (15001, 15006)
    )
    chain = Chain("c", rules, BaseChain(Hook.PREROUTING, -150, ChainType.FILTER))
    model = Netfilter([Table(Store.NFT, "ip", "t", {"c": chain})])
    found = classes(model, Host(), Family.IPV4, Direction.INBOUND).class_of(inbound(MINE)).outcome
    assert (found.kind, found.port) == (Kind.TPROXY, 15006)
    assert Tracer(model, Host()).trace(inbound(MINE)).delivered.port == 15006


@pytest.mark.parametrize(("address", "kind"), [("0.0.0.0", Kind.TPROXY), (MINE, Kind.DROP)])
def test_what_the_socket_of_tproxy_is_bound_to_tells_whether_a_rule_for_sockets_matches(
    address: str, kind: Kind
) -> None:
    handed_over = filtered("PREROUTING -p tcp -j TPROXY --on-port 15006", table="mangle", hooks="PREROUTING")
    listener = Listener(6, ip_address(address), 15006, is_transparent=True)
    rules = handed_over + filtered("INPUT -m socket -j DROP")
    assert told(rules, inbound(MINE), HOST.replace(listeners=(listener,))).outcome.kind is kind


IPSEC: dict[str, tuple[str, dict[bool | None, Kind]]] = {
    "protected": ("--pol ipsec", {False: Kind.DIRECT, True: Kind.UNKNOWN, None: Kind.UNKNOWN}),
    "unprotected": ("--pol none", {False: Kind.DROP, True: Kind.UNKNOWN, None: Kind.UNKNOWN}),
}


@pytest.mark.parametrize("has_ipsec", [False, True, None])
@pytest.mark.parametrize("name", IPSEC)
def test_no_packet_is_protected_where_ipsec_has_nothing_to_do(name: str, has_ipsec: bool | None) -> None:
    asked, kinds = IPSEC[name]
    rules = filtered(f"INPUT -m policy --dir in {asked} -j DROP")
    assert told(rules, inbound(MINE), HOST.replace(has_ipsec=has_ipsec)).outcome.kind is kinds[has_ipsec]
