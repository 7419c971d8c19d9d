"""What is read of interfaces and routing is what ip(8) was told, in the kernel's order."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.host import Link, Route, RoutingRule
from istio_init.system import links, routes
from istio_init.testing.namespaces import Namespace

ALL4, ALL6 = ip_network("0.0.0.0/0"), ip_network("::/0")

RULES: list[tuple[str, RoutingRule]] = [
    ("fwmark 1337 lookup 133", RoutingRule(0, 133, mark=1337)),
    ("fwmark 0x111/0xfff lookup 100", RoutingRule(0, 100, mark=0x111, mask=0xFFF)),
    ("fwmark 0/0xff lookup 100", RoutingRule(0, 100, mark=0, mask=0xFF)),
    ("from 10.1.0.0/16 to 10.2.3.4 lookup 1000", RoutingRule(
        0, 1000, source=ip_network("10.1.0.0/16"), destination=ip_network("10.2.3.4/32"))),
    ("iif lo lookup 5", RoutingRule(0, 5, in_interface="lo")),
    ("oif there lookup 5", RoutingRule(0, 5, out_interface="there")),
    ("uidrange 0-1337 lookup 5", RoutingRule(0, 5, uids=(0, 1337))),
    ("ipproto tcp sport 1000-2000 dport 53 lookup 5", RoutingRule(
        0, 5, protocol=6, sports=(1000, 2000), dports=(53, 53))),
    ("tos 0x10 lookup 5", RoutingRule(0, 5, tos=0x10)),
    ("not fwmark 51820 lookup 51820", RoutingRule(0, 51820, mark=51820, negated=True)),
    ("lookup main suppress_prefixlength 0", RoutingRule(0, 254, suppressed_prefix_length=0)),
    ("lookup main suppress_ifgroup 3", RoutingRule(0, 254, is_known=False)),
    ("tun_id 7 lookup 5", RoutingRule(0, 5, is_known=False)),
    ("to 10.9.0.0/16 blackhole", RoutingRule(0, None, AddressType.BLACKHOLE, destination=ip_network("10.9.0.0/16"))),
    ("unreachable", RoutingRule(0, None, AddressType.UNREACHABLE)),
    ("prohibit", RoutingRule(0, None, AddressType.PROHIBIT)),
    ("nop", RoutingRule(0, None, AddressType.THROW)),
]  # fmt: skip

ROUTES: list[tuple[str, tuple[Route, ...]]] = [
    ("local default dev lo table 133", (Route(133, ALL4, AddressType.LOCAL, "lo"),)),
    ("default via 10.0.0.1 metric 7", (
        Route(254, ALL4, AddressType.UNICAST, "there", ip_address("10.0.0.1"), metric=7),)),
    ("10.5.0.0/16 dev there src 10.0.0.2 table 1000", (
        Route(1000, ip_network("10.5.0.0/16"), AddressType.UNICAST, "there", source=ip_address("10.0.0.2")),)),
    ("10.6.0.0/16 via inet6 fe80::1 dev there table 7", (
        Route(7, ip_network("10.6.0.0/16"), AddressType.UNICAST, "there", ip_address("fe80::1")),)),
    ("unreachable default metric 9 table 7", (Route(7, ALL4, AddressType.UNREACHABLE, metric=9),)),
    ("throw 10.7.0.0/16 table 7", (Route(7, ip_network("10.7.0.0/16"), AddressType.THROW),)),
    ("10.8.0.0/16 table 7 nexthop via 10.0.0.3 nexthop via 10.0.0.4", tuple(
        Route(7, ip_network("10.8.0.0/16"), AddressType.UNICAST, "there", ip_address(gateway), is_one_of_several=True)
        for gateway in ("10.0.0.3", "10.0.0.4"))),
    ("10.8.0.0/16 tos 0x10 dev there table 8", (
        Route(8, ip_network("10.8.0.0/16"), AddressType.UNICAST, "there", is_known=False),)),
    ("-6 local default dev lo table 133", (Route(133, ALL6, AddressType.LOCAL, "lo", metric=1024),)),
    ("-6 blackhole fd77::/64 table 7", (Route(7, ip_network("fd77::/64"), AddressType.BLACKHOLE, metric=1024),)),
    ("-6 fd78::/64 from fd00::/64 dev there table 7", (
        Route(7, ip_network("fd78::/64"), AddressType.UNICAST, "there", metric=1024, is_known=False),)),
]  # fmt: skip


@pytest.fixture(scope="module")
def namespace(real_kernel: None) -> Iterator[Namespace]:
    with Namespace.create("routes") as made:
        made.run("ip", "link", "add", "there", "type", "veth", "peer", "name", "end")
        made.run("ip", "link", "set", "end", "up")
        made.run("ip", "addr", "add", "10.0.0.2/24", "dev", "there")
        made.run("ip", "addr", "add", "10.0.0.9/24", "dev", "there")
        made.run("ip", "addr", "add", "fd00::2/64", "dev", "there", "nodad")
        made.run("ip", "link", "set", "there", "up")
        yield made


def read(namespace: Namespace) -> tuple[dict[Family, tuple[RoutingRule, ...]], dict[Family, tuple[Route, ...]]]:
    def look() -> tuple[dict[Family, tuple[RoutingRule, ...]], dict[Family, tuple[Route, ...]]]:
        found, _ = links.links()
        return routes.rules(), routes.routes({each.index: each.name for each in found})

    return namespace.call(look)


@pytest.mark.parametrize(("words", "rule"), RULES, ids=[words for words, _ in RULES])
def test_a_routing_rule_is_read_as_it_was_given(namespace: Namespace, words: str, rule: RoutingRule) -> None:
    namespace.run("ip", "rule", "add", "pref", "77", *words.split())
    try:
        rules, _ = read(namespace)
    finally:
        namespace.run("ip", "rule", "del", "pref", "77")
    assert [each for each in rules[Family.IPV4] if each.priority == 77] == [rule.replace(priority=77)]


def test_a_namespace_has_its_own_rules_in_order(namespace: Namespace) -> None:
    rules, _ = read(namespace)
    assert rules == {
        Family.IPV4: (RoutingRule(0, 255), RoutingRule(32766, 254), RoutingRule(32767, 253)),
        Family.IPV6: (RoutingRule(0, 255), RoutingRule(32766, 254)),
    }


def test_a_goto_tells_which_rule_is_asked_next(namespace: Namespace) -> None:
    namespace.run("ip", "rule", "add", "pref", "79", "lookup", "9")
    namespace.run("ip", "rule", "add", "pref", "78", "lookup", "8")
    namespace.run("ip", "rule", "add", "pref", "77", "fwmark", "1", "goto", "79")
    try:
        rules, _ = read(namespace)
    finally:
        for priority in (77, 78, 79):
            namespace.run("ip", "rule", "del", "pref", str(priority))
    assert [(each.priority, each.goes_to) for each in rules[Family.IPV4][1:4]] == [(77, 79), (78, None), (79, None)]


@pytest.mark.parametrize(("words", "expected"), ROUTES, ids=[words for words, _ in ROUTES])
def test_a_route_is_read_as_it_was_given(namespace: Namespace, words: str, expected: tuple[Route, ...]) -> None:
    flag, rest = (["-6"], words[3:]) if words.startswith("-6 ") else ([], words)
    before = read(namespace)[1]
    namespace.run("ip", *flag, "route", "add", *rest.split())
    try:
        after = read(namespace)[1]
    finally:
        namespace.run("ip", *flag, "route", "del", *rest.split())
    family = Family.IPV6 if flag else Family.IPV4
    appeared = tuple(each for each in after[family] if each not in before[family])
    # Link-local addresses come a moment after their interface.
    assert tuple(each for each in appeared if each.gateway or not str(each.destination).startswith("fe80:")) == expected


def test_the_local_table_is_read_too(namespace: Namespace) -> None:
    _, found = read(namespace)
    local = {each.destination: each.type for each in found[Family.IPV4] if each.table == 255}
    assert local[ip_network("10.0.0.2/32")] is AddressType.LOCAL
    assert local[ip_network("10.0.0.255/32")] is AddressType.BROADCAST
    assert any(each.type is AddressType.MULTICAST for each in found[Family.IPV6])


def test_addresses_come_in_the_order_of_the_kernel(namespace: Namespace) -> None:
    found, _ = namespace.call(links.links)
    [there] = [each for each in found if each.name == "there"]
    first = there.addresses[:3]
    assert first == (ip_address("10.0.0.2"), ip_address("10.0.0.9"), ip_address("fd00::2"))
    assert there.is_up
    assert Link("lo", 1, True, (ip_address("127.0.0.1"), ip_address("::1")), 772, 0, "") in found


def test_settings_of_all_count_for_each_interface(namespace: Namespace) -> None:
    for setting in ("all.rp_filter=2", "there.rp_filter=1", "there.route_localnet=1", "all.accept_local=1"):
        namespace.run("sysctl", "-qw", f"net.ipv4.conf.{setting}")
    _, settings = namespace.call(links.links)
    assert settings.reverse_path_filter == {"lo": 2, "end": 2, "there": 2}
    assert settings.route_localnet == {"lo": False, "end": False, "there": True}
    assert settings.accept_local == dict.fromkeys(("lo", "end", "there"), True)
    assert settings.src_valid_mark == dict.fromkeys(("lo", "end", "there"), False)


def test_forwarding_is_known_where_it_is_the_same_for_all_interfaces(namespace: Namespace) -> None:
    namespace.run("ip", "link", "add", "other", "type", "veth", "peer", "name", "rest")
    try:
        assert links.forwards(namespace.call(links.links)[1]) == {Family.IPV4: False, Family.IPV6: False}
        namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        assert links.forwards(namespace.call(links.links)[1]) == {Family.IPV4: True, Family.IPV6: False}
        namespace.run("sysctl", "-qw", "net.ipv4.conf.other.forwarding=0")
        assert links.forwards(namespace.call(links.links)[1]) == {Family.IPV6: False}
    finally:
        namespace.run("ip", "link", "del", "other")
