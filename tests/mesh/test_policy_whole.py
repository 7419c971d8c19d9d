"""Istio's sidecar policy as a whole: what the injection template gives, DNS, routing, and both families.

The classes follow the order in which the policy appends; each table reads as (configuration, rules in order). Rules are
those of IPv4 unless a test says otherwise.
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.mesh.policy import sidecar
from istio_init.mesh.routing import MarkRoute, Routing
from istio_init.netfilter.family import Family

from .stating import (
    DUAL,
    IPV4_ONLY,
    LOOPBACK,
    NAT,
    RAW,
    TPROXY,
    build,
    chain,
    everything,
    ids,
    nets,
    ports,
    servers,
    shown,
)


class TestWhatTheInjectionTemplateAsksFor:
    """``-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020``: the usual sidecar."""

    config = Config(inbound_ports=ALL, outbound_ranges=ALL, inbound_exclude_ports=ports(15090, 15021, 15020))

    def test_these_are_all_its_rules(self) -> None:
        assert everything(build(self.config)) == {
            "nat PREROUTING": ["-p tcp -j ISTIO_INBOUND"],
            "nat OUTPUT": ["-j ISTIO_OUTPUT"],
            "nat ISTIO_INBOUND": [
                "-p tcp -m tcp --dport 15008 -j RETURN",
                "-p tcp -m tcp --dport 15090 -j RETURN",
                "-p tcp -m tcp --dport 15021 -j RETURN",
                "-p tcp -m tcp --dport 15020 -j RETURN",
                "-p tcp -j ISTIO_IN_REDIRECT",
            ],
            "nat ISTIO_IN_REDIRECT": ["-p tcp -j REDIRECT --to-ports 15006"],
            "nat ISTIO_REDIRECT": ["-p tcp -j REDIRECT --to-ports 15001"],
            "nat ISTIO_OUTPUT": [
                "-s 127.0.0.6/32 -o lo -j RETURN",
                "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
                "-o lo -m owner ! --uid-owner 1337 -j RETURN",
                "-m owner --uid-owner 1337 -j RETURN",
                "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT",
                "-o lo -m owner ! --gid-owner 1337 -j RETURN",
                "-m owner --gid-owner 1337 -j RETURN",
                "-d 127.0.0.1/32 -j RETURN",
                "-j ISTIO_REDIRECT",
            ],
        }

    def test_ipv6_has_the_same_rules_with_its_own_addresses(self) -> None:
        ipv4, ipv6 = build(self.config, DUAL), build(self.config, DUAL, Family.IPV6)

        translated = {
            name: [text.replace("127.0.0.6/32", "::6/128").replace("127.0.0.1/32", "::1/128") for text in texts]
            for name, texts in everything(ipv4).items()
        }
        assert everything(ipv6) == translated

    def test_ipv6_has_no_rules_where_it_is_not_captured(self) -> None:
        assert list(sidecar.rules(self.config, IPV4_ONLY)) == [Family.IPV4]

    def test_chains_stand_in_the_order_in_which_they_are_first_used(self) -> None:
        assert list(build(self.config).tables[NAT]) == [
            "ISTIO_INBOUND",
            "ISTIO_REDIRECT",
            "ISTIO_IN_REDIRECT",
            "PREROUTING",
            "OUTPUT",
            "ISTIO_OUTPUT",
        ]


class TestDns:
    """Point 13: queries go to the proxy's listener, the proxy's own to the real server, each in a zone of its own."""

    DNS = Config(redirect_dns=True)
    ALL_DNS = Config(redirect_dns=True, capture_all_dns=True)

    def test_queries_to_each_server_are_redirected_tcp_first(self) -> None:
        rules = build(self.DNS, servers("10.96.0.10", "1.1.1.1", "fd00::a"))

        assert chain(rules, NAT, "ISTIO_OUTPUT_DNS") == [
            "-d 10.96.0.10/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053",
            "-d 1.1.1.1/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053",
            "-d 10.96.0.10/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
            "-d 1.1.1.1/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
        ]

    def test_with_capture_all_queries_to_any_server_are(self) -> None:
        for around in (IPV4_ONLY, servers("10.96.0.10")):
            assert shown(self.ALL_DNS, NAT, "ISTIO_OUTPUT_DNS", around) == [
                "-p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053",
                "-p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
            ]

    def test_the_redirection_comes_after_the_groups_and_before_loopback(self) -> None:
        config = self.DNS.replace(owner_groups_exclude=ids(1000), outbound_ranges=ALL)
        output = shown(config, NAT, "ISTIO_OUTPUT", servers("10.96.0.10"))

        assert output[-4:] == [
            "-m owner --gid-owner 1000 -j RETURN",
            "-j ISTIO_OUTPUT_DNS",
            LOOPBACK,
            "-j ISTIO_REDIRECT",
        ]

    def test_on_lo_the_application_returns_but_for_dns(self) -> None:
        assert shown(self.DNS, NAT, "ISTIO_OUTPUT", servers("10.96.0.10"))[1:7] == [
            "! -d 127.0.0.1/32 -o lo -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337"
            " -j ISTIO_IN_REDIRECT",
            "-o lo -p tcp -m tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN",
            "-m owner --uid-owner 1337 -j RETURN",
            "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT",
            "-o lo -p tcp -m tcp ! --dport 53 -m owner ! --gid-owner 1337 -j RETURN",
            "-m owner --gid-owner 1337 -j RETURN",
        ]

    def test_a_loopback_range_among_the_included_takes_that_return_away(self) -> None:
        config = self.DNS.replace(outbound_ranges=nets("127.0.0.0/8"))

        assert not any("! --uid-owner" in text for text in shown(config, NAT, "ISTIO_OUTPUT", servers("10.96.0.10")))

    def test_zones_tell_the_proxys_queries_from_the_applications(self) -> None:
        config = self.DNS.replace(proxy_uids=ids(1337, 1338), proxy_gids=ids(1400))
        rules = build(config, servers("10.96.0.10", "1.1.1.1"))

        assert chain(rules, RAW, "OUTPUT") == ["-j ISTIO_OUTPUT_DNS"]
        assert chain(rules, RAW, "ISTIO_OUTPUT_DNS") == [
            "-p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1",
            "-p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2",
            "-p udp -m udp --dport 53 -m owner --uid-owner 1338 -j CT --zone 1",
            "-p udp -m udp --sport 15053 -m owner --uid-owner 1338 -j CT --zone 2",
            "-p udp -m udp --dport 53 -m owner --gid-owner 1400 -j CT --zone 1",
            "-p udp -m udp --sport 15053 -m owner --gid-owner 1400 -j CT --zone 2",
            "-d 10.96.0.10/32 -p udp -m udp --dport 53 -j CT --zone 2",
            "-d 1.1.1.1/32 -p udp -m udp --dport 53 -j CT --zone 2",
        ]
        assert chain(rules, RAW, "PREROUTING") == ["-j ISTIO_INBOUND"]
        assert chain(rules, RAW, "ISTIO_INBOUND") == [
            "-s 10.96.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1",
            "-s 1.1.1.1/32 -p udp -m udp --sport 53 -j CT --zone 1",
        ]

    def test_with_capture_all_the_zones_ask_for_no_server(self) -> None:
        rules = build(self.ALL_DNS)

        assert chain(rules, RAW, "ISTIO_OUTPUT_DNS")[-1] == "-p udp -m udp --dport 53 -j CT --zone 2"
        assert chain(rules, RAW, "ISTIO_INBOUND") == ["-p udp -m udp --sport 53 -j CT --zone 1"]

    def test_a_family_without_servers_only_has_the_proxys_zones(self) -> None:
        rules = build(self.DNS, servers("10.96.0.10", ipv6=True), Family.IPV6)

        assert "-j ISTIO_OUTPUT_DNS" not in chain(rules, NAT, "ISTIO_OUTPUT")
        assert rules.chain(NAT, "ISTIO_OUTPUT_DNS") is None
        assert chain(rules, RAW, "PREROUTING") == []
        assert chain(rules, RAW, "OUTPUT") == ["-j ISTIO_OUTPUT_DNS"]
        assert len(chain(rules, RAW, "ISTIO_OUTPUT_DNS")) == 4

    def test_each_family_has_its_own_servers(self) -> None:
        rules = build(self.DNS, servers("10.96.0.10", "fd00::a", ipv6=True), Family.IPV6)

        assert chain(rules, NAT, "ISTIO_OUTPUT_DNS") == [
            "-d fd00::a/128 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053",
            "-d fd00::a/128 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
        ]

    def test_without_it_raw_is_not_used(self) -> None:
        assert RAW not in build(Config(capture_all_dns=True), servers("10.96.0.10")).tables


class TestRouting:
    """Point 19: what the rules need besides themselves."""

    V4, V6 = MarkRoute(Family.IPV4, 1337, 133), MarkRoute(Family.IPV6, 1337, 133)

    @pytest.mark.parametrize(
        ("config", "around", "expected"),
        [
            pytest.param(Config(inbound_ports=ALL), IPV4_ONLY, Routing(), id="redirect"),
            pytest.param(Config(inbound_ports=ALL), DUAL, Routing((), True), id="redirect with ipv6"),
            pytest.param(Config(mode=TPROXY, inbound_ports=ALL), IPV4_ONLY, Routing((V4,)), id="tproxy"),
            pytest.param(
                Config(mode=TPROXY, inbound_ports=ports(80)), DUAL, Routing((V4, V6), True), id="tproxy with ipv6"
            ),
            pytest.param(Config(mode=TPROXY), DUAL, Routing((), True), id="tproxy with nothing included"),
            pytest.param(
                Config(mode=TPROXY, inbound_ports=ALL, tproxy_mark=5, tproxy_table=6),
                IPV4_ONLY,
                Routing((MarkRoute(Family.IPV4, 5, 6),)),
                id="tproxy with another mark and table",
            ),
        ],
    )
    def test_marked_packets_are_delivered_locally_and_ipv6_has_its_passthrough_address(
        self, config: Config, around: Surroundings, expected: Routing
    ) -> None:
        assert sidecar.routing(config, around) == expected


class TestWhetherIpv6IsCaptured:
    """Addresses decide: only usable ones count, and IPv4 comes first unless dual-stack is asked for."""

    @pytest.mark.parametrize(
        ("addresses", "single", "dual"),
        [
            pytest.param([], None, None, id="none"),
            pytest.param(["127.0.0.1", "::1"], None, None, id="loopback alone"),
            pytest.param(["fe80::1", "169.254.1.1"], None, None, id="link-local alone"),
            pytest.param(["10.0.0.1"], False, False, id="ipv4"),
            pytest.param(["fd00::1"], True, True, id="ipv6"),
            pytest.param(["10.0.0.1", "fd00::1"], False, True, id="both"),
            pytest.param(["fd00::1", "10.0.0.1"], False, True, id="both, the other way round"),
            pytest.param(["10.0.0.1", "fe80::1", "::1"], False, False, id="ipv4 beside link-local ipv6"),
            pytest.param(["127.0.0.1", "fd00::1", "169.254.1.1"], True, True, id="ipv6 beside unusable ipv4"),
            pytest.param(["fe80::1", "2001:db8::1", "127.0.0.1", "10.0.0.1", "::1"], False, True, id="a whole pod"),
        ],
    )
    def test_addresses_decide(self, addresses: list[str], single: bool | None, dual: bool | None) -> None:
        found = [ip_address(address) for address in addresses]

        assert sidecar.captures_ipv6(found, dual_stack=False) is single
        assert sidecar.captures_ipv6(found, dual_stack=True) is dual
        assert sidecar.captures_ipv6(reversed(found), dual_stack=True) is dual
