"""Istio's sidecar policy for inbound traffic and interfaces: a configuration and what iptables-save shows.

The classes follow the order in which the policy appends; each table reads as (configuration, rules in order). Rules are
those of IPv4 unless a test says otherwise.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from istio_init.config.model import ALL, Config, InterceptionMode
from istio_init.netfilter.family import Family

from .stating import DUAL, MANGLE, NAT, TPROXY, build, chain, everything, ids, nets, ports, shown


class TestExcludedInterfaces:
    """Point 1: their traffic is left alone in both directions."""

    def test_each_has_a_rule_on_the_way_in_and_on_the_way_out(self) -> None:
        rules = build(Config(exclude_interfaces=("eth1", "net+"), inbound_ports=ALL))

        assert chain(rules, NAT, "PREROUTING") == ["-i eth1 -j RETURN", "-i net+ -j RETURN", "-p tcp -j ISTIO_INBOUND"]
        assert chain(rules, NAT, "OUTPUT") == ["-o eth1 -j RETURN", "-o net+ -j RETURN", "-j ISTIO_OUTPUT"]

    def test_without_tproxy_mangle_is_not_used(self) -> None:
        assert list(build(Config(exclude_interfaces=("eth1",))).tables) == [NAT]

    def test_with_tproxy_mangle_has_the_same(self) -> None:
        rules = build(Config(exclude_interfaces=("eth1",), mode=TPROXY, inbound_ports=ALL))

        assert chain(rules, NAT, "PREROUTING") == ["-i eth1 -j RETURN"]
        assert chain(rules, NAT, "OUTPUT") == ["-o eth1 -j RETURN", "-j ISTIO_OUTPUT"]
        assert chain(rules, MANGLE, "PREROUTING")[:2] == ["-i eth1 -j RETURN", "-p tcp -j ISTIO_INBOUND"]
        assert chain(rules, MANGLE, "OUTPUT")[0] == "-o eth1 -j RETURN"


class TestVirtualInterfaces:
    """Points 2 and 17: what enters through them is outbound traffic of virtual machines; the last one is on top."""

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            pytest.param(
                Config(virtual_interfaces=("vm0",)), ["-i vm0 -j RETURN"], id="nothing included: they only return"
            ),
            pytest.param(
                Config(virtual_interfaces=("vm0", "vm1")),
                ["-i vm1 -j RETURN", "-i vm0 -j RETURN"],
                id="two: the second is on top",
            ),
            pytest.param(
                Config(virtual_interfaces=("vm0", "vm1"), outbound_ranges=ALL),
                [
                    "-i vm1 -j ISTIO_REDIRECT",
                    "-i vm0 -j ISTIO_REDIRECT",
                    "-i vm1 -j RETURN",
                    "-i vm0 -j RETURN",
                ],
                id="all ranges: they go to the proxy before they return",
            ),
            pytest.param(
                Config(virtual_interfaces=("vm0", "vm1"), outbound_ranges=nets("10.0.0.0/8", "192.168.0.0/16")),
                [
                    "-d 192.168.0.0/16 -i vm1 -j ISTIO_REDIRECT",
                    "-d 192.168.0.0/16 -i vm0 -j ISTIO_REDIRECT",
                    "-d 10.0.0.0/8 -i vm1 -j ISTIO_REDIRECT",
                    "-d 10.0.0.0/8 -i vm0 -j ISTIO_REDIRECT",
                    "-i vm1 -j RETURN",
                    "-i vm0 -j RETURN",
                ],
                id="ranges: each range and interface, the last on top",
            ),
            pytest.param(
                Config(virtual_interfaces=("vm0",), exclude_interfaces=("eth1",), inbound_ports=ALL),
                ["-i vm0 -j RETURN", "-i eth1 -j RETURN", "-p tcp -j ISTIO_INBOUND"],
                id="beside excluded interfaces and inbound capture: above both",
            ),
        ],
    )
    def test_their_rules_stand_on_top_of_prerouting(self, config: Config, expected: list[str]) -> None:
        assert shown(config, NAT, "PREROUTING") == expected

    def test_they_have_no_rule_on_the_way_out(self) -> None:
        assert shown(Config(virtual_interfaces=("vm0",)), NAT, "OUTPUT") == ["-j ISTIO_OUTPUT"]

    def test_mangle_has_none_of_them(self) -> None:
        config = Config(virtual_interfaces=("vm0",), mode=TPROXY, inbound_ports=ALL, outbound_ranges=ALL)

        assert not any(
            "vm0" in text for name, texts in everything(build(config)).items() for text in texts if "mangle" in name
        )

    def test_each_family_has_the_ranges_of_its_own(self) -> None:
        config = Config(virtual_interfaces=("vm0",), outbound_ranges=nets("10.0.0.0/8", "fd00::/8"))

        assert chain(build(config, DUAL), NAT, "PREROUTING")[0] == "-d 10.0.0.0/8 -i vm0 -j ISTIO_REDIRECT"
        assert chain(build(config, DUAL, Family.IPV6), NAT, "PREROUTING") == [
            "-d fd00::/8 -i vm0 -j ISTIO_REDIRECT",
            "-i vm0 -j RETURN",
        ]


class TestDropInvalid:
    """Point 3: packets that the connection tracker calls invalid are dropped before the proxy could see them."""

    def test_they_are_dropped_in_a_chain_of_their_own(self) -> None:
        rules = build(Config(drop_invalid=True))

        assert chain(rules, MANGLE, "PREROUTING") == ["-m conntrack --ctstate INVALID -j ISTIO_DROP"]
        assert chain(rules, MANGLE, "ISTIO_DROP") == ["-j DROP"]

    def test_they_are_dropped_after_excluded_interfaces_and_before_capture(self) -> None:
        config = Config(drop_invalid=True, mode=TPROXY, inbound_ports=ALL, exclude_interfaces=("eth1",))

        assert shown(config, MANGLE, "PREROUTING")[:3] == [
            "-i eth1 -j RETURN",
            "-m conntrack --ctstate INVALID -j ISTIO_DROP",
            "-p tcp -j ISTIO_INBOUND",
        ]

    def test_they_pass_unless_asked_for(self) -> None:
        assert MANGLE not in build(Config()).tables


class TestTunnelPort:
    """Point 4: HBONE reaches the proxy's own listener."""

    @pytest.mark.parametrize("mode", InterceptionMode)
    @pytest.mark.parametrize("included", [(), ALL, ports(80)], ids=["none", "all", "a list"])
    def test_it_is_first_in_nat_inbound_whatever_is_captured(self, mode: InterceptionMode, included: Any) -> None:
        config = Config(inbound_tunnel_port=16008, mode=mode, inbound_ports=included)

        assert shown(config, NAT, "ISTIO_INBOUND")[0] == "-p tcp -m tcp --dport 16008 -j RETURN"

    def test_the_proxy_reaches_it_on_other_pods_addresses_without_redirection(self) -> None:
        assert (
            "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 16008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"
            in shown(Config(inbound_tunnel_port=16008), NAT, "ISTIO_OUTPUT")
        )


class TestRedirections:
    """Point 5: two chains end in the proxy's listeners, whatever is captured."""

    @pytest.mark.parametrize("mode", InterceptionMode)
    def test_each_leads_to_its_port(self, mode: InterceptionMode) -> None:
        rules = build(Config(proxy_port=16001, inbound_capture_port=16006, mode=mode))

        assert chain(rules, NAT, "ISTIO_REDIRECT") == ["-p tcp -j REDIRECT --to-ports 16001"]
        assert chain(rules, NAT, "ISTIO_IN_REDIRECT") == ["-p tcp -j REDIRECT --to-ports 16006"]


class TestInboundRedirect:
    """Point 6 with REDIRECT: all in nat."""

    TUNNEL = "-p tcp -m tcp --dport 15008 -j RETURN"

    @pytest.mark.parametrize(
        ("config", "prerouting", "inbound"),
        [
            pytest.param(Config(), [], [], id="nothing included"),
            pytest.param(Config(inbound_exclude_ports=ports(80)), [], [], id="nothing included, something excluded"),
            pytest.param(
                Config(inbound_ports=ALL), ["-p tcp -j ISTIO_INBOUND"], ["-p tcp -j ISTIO_IN_REDIRECT"], id="all"
            ),
            pytest.param(
                Config(inbound_ports=ALL, inbound_exclude_ports=ports(22, (8000, 8090))),
                ["-p tcp -j ISTIO_INBOUND"],
                [
                    "-p tcp -m tcp --dport 22 -j RETURN",
                    "-p tcp -m tcp --dport 8000:8090 -j RETURN",
                    "-p tcp -j ISTIO_IN_REDIRECT",
                ],
                id="all but some",
            ),
            pytest.param(
                Config(inbound_ports=ports(80, (8000, 8090))),
                ["-p tcp -j ISTIO_INBOUND"],
                [
                    "-p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT",
                    "-p tcp -m tcp --dport 8000:8090 -j ISTIO_IN_REDIRECT",
                ],
                id="a list",
            ),
            pytest.param(
                Config(inbound_ports=ports(80), inbound_exclude_ports=ports(80)),
                ["-p tcp -j ISTIO_INBOUND"],
                ["-p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT"],
                id="a list, with exclusions that have no effect",
            ),
            pytest.param(
                Config(inbound_ports=ports((0, 65535))),
                ["-p tcp -j ISTIO_INBOUND"],
                ["-p tcp -m tcp -j ISTIO_IN_REDIRECT"],
                id="a list of every port",
            ),
        ],
    )
    def test_included_ports_go_to_the_proxy(self, config: Config, prerouting: list[str], inbound: list[str]) -> None:
        rules = build(config)

        assert chain(rules, NAT, "PREROUTING") == prerouting
        assert chain(rules, NAT, "ISTIO_INBOUND") == [self.TUNNEL, *inbound]
        assert list(rules.tables) == [NAT]


class TestInboundTproxy:
    """Points 6 and 18 with TPROXY: capture in mangle, marks on both sides of the proxy."""

    PASS = (
        "-p tcp -m mark --mark 0x539 -j RETURN",
        "-s 127.0.0.6/32 -i lo -p tcp -j RETURN",
        "-i lo -p tcp -m mark ! --mark 0x53a -j RETURN",
    )

    @pytest.mark.parametrize(
        ("config", "captured"),
        [
            pytest.param(
                Config(mode=TPROXY, inbound_ports=ALL),
                [
                    "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
                    "-p tcp -j ISTIO_TPROXY",
                ],
                id="all",
            ),
            pytest.param(
                Config(mode=TPROXY, inbound_ports=ALL, inbound_exclude_ports=ports(22, 23)),
                [
                    "-p tcp -m tcp --dport 22 -j RETURN",
                    "-p tcp -m tcp --dport 23 -j RETURN",
                    "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
                    "-p tcp -j ISTIO_TPROXY",
                ],
                id="all but some",
            ),
            pytest.param(
                Config(mode=TPROXY, inbound_ports=ports(80, 90), inbound_exclude_ports=ports(80)),
                [
                    "-p tcp -m tcp --dport 80 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
                    "-p tcp -m tcp --dport 80 -j ISTIO_TPROXY",
                    "-p tcp -m tcp --dport 90 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
                    "-p tcp -m tcp --dport 90 -j ISTIO_TPROXY",
                ],
                id="a list, with exclusions that have no effect",
            ),
        ],
    )
    def test_mangle_inbound_lets_the_proxys_own_pass_and_captures_the_rest(
        self, config: Config, captured: list[str]
    ) -> None:
        rules = build(config)

        assert chain(rules, MANGLE, "ISTIO_INBOUND") == [*self.PASS, *captured]
        assert chain(rules, NAT, "ISTIO_INBOUND") == ["-p tcp -m tcp --dport 15008 -j RETURN"]
        assert chain(rules, NAT, "PREROUTING") == []
        assert chain(rules, MANGLE, "PREROUTING") == [
            "-p tcp -j ISTIO_INBOUND",
            "-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        ]

    def test_known_connections_are_marked_and_new_ones_handed_over(self) -> None:
        rules = build(Config(mode=TPROXY, inbound_ports=ALL, inbound_capture_port=16006, tproxy_mark=0x10))

        assert chain(rules, MANGLE, "ISTIO_DIVERT") == ["-j MARK --set-xmark 0x10/0xffffffff", "-j ACCEPT"]
        assert chain(rules, MANGLE, "ISTIO_TPROXY") == [
            "! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 16006 --on-ip 0.0.0.0 --tproxy-mark 0x10/0xffffffff"
        ]

    def test_ipv6_hands_over_to_its_own_addresses(self) -> None:
        rules = build(Config(mode=TPROXY, inbound_ports=ALL), DUAL, Family.IPV6)

        assert chain(rules, MANGLE, "ISTIO_TPROXY") == [
            "! -d ::1/128 -p tcp -j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x539/0xffffffff"
        ]
        assert chain(rules, MANGLE, "ISTIO_INBOUND")[1] == "-s ::6/128 -i lo -p tcp -j RETURN"

    def test_the_mark_follows_the_connection_out_again(self) -> None:
        config = Config(
            mode=TPROXY, inbound_ports=ALL, tproxy_mark=0x20, proxy_uids=ids(1337, (2000, 2001)), proxy_gids=ids(1400)
        )

        assert shown(config, MANGLE, "OUTPUT") == [
            "-o lo -p tcp -m mark --mark 0x20 -j RETURN",
            "! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff",
            "! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 2000-2001 -j MARK --set-xmark 0x53a/0xffffffff",
            "! -d 127.0.0.1/32 -o lo -p tcp -m owner --gid-owner 1400 -j MARK --set-xmark 0x53a/0xffffffff",
            "-p tcp -m connmark --mark 0x20 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        ]
        assert shown(config, MANGLE, "ISTIO_INBOUND")[0] == "-p tcp -m mark --mark 0x20 -j RETURN"

    def test_marks_are_kept_even_where_nothing_inbound_is_captured(self) -> None:
        rules = build(Config(mode=TPROXY))

        assert chain(rules, MANGLE, "ISTIO_INBOUND") == list(self.PASS)
        assert chain(rules, MANGLE, "PREROUTING") == [
            "-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"
        ]
        assert chain(rules, MANGLE, "ISTIO_DIVERT") == chain(rules, MANGLE, "ISTIO_TPROXY") == []

    def test_a_wider_loopback_range_is_left_alone_everywhere(self) -> None:
        config = Config(mode=TPROXY, inbound_ports=ALL, loopback_cidr=IPv4Network("127.0.0.0/8"))
        rules = build(config)

        assert chain(rules, MANGLE, "ISTIO_TPROXY")[0].startswith("! -d 127.0.0.0/8 ")
        assert chain(rules, MANGLE, "OUTPUT")[1].startswith("! -d 127.0.0.0/8 ")
