"""Istio's sidecar policy as a specification: a configuration, a chain, and what iptables-save shows in it.

The classes follow the order in which the policy appends; each table reads as (configuration, rules in order). Rules are
those of IPv4 unless a test says otherwise.
"""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest

from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.matches import IdRange, PortRange
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.mesh.policy import sidecar
from istio_init.mesh.routing import MarkRoute, Routing
from istio_init.netfilter.family import Family

NAT, MANGLE, RAW = Table.NAT, Table.MANGLE, Table.RAW
TPROXY = InterceptionMode.TPROXY
IPV4_ONLY = Surroundings()
DUAL = Surroundings(ipv6=True)

Chains = dict[str, list[str]]


def ports(*numbers: int | tuple[int, int]) -> tuple[PortRange, ...]:
    return tuple([PortRange(*each) if isinstance(each, tuple) else PortRange(each, each) for each in numbers])


def ids(*numbers: int | tuple[int, int]) -> tuple[IdRange, ...]:
    return tuple([IdRange(*each) if isinstance(each, tuple) else IdRange(each, each) for each in numbers])


def nets(*texts: str) -> tuple[Any, ...]:
    return tuple([ip_network(text) for text in texts])


def servers(*texts: str, ipv6: bool = False) -> Surroundings:
    return Surroundings(ipv6, tuple([ip_address(text) for text in texts]))


def build(config: Config, around: Surroundings = IPV4_ONLY, family: Family = Family.IPV4) -> RuleSet:
    return sidecar.rules(config, around)[family]


def chain(rules: RuleSet, table: Table, name: str) -> list[str]:
    """The texts of a chain; an empty list where there is no such chain."""
    found = rules.chain(table, name)
    return [] if found is None else [rule_text(rule) for rule in found.rules]


def shown(config: Config, table: Table, name: str, around: Surroundings = IPV4_ONLY) -> list[str]:
    return chain(build(config, around), table, name)


def everything(rules: RuleSet) -> dict[str, list[str]]:
    return {f"{table.value} {found.name}": [rule_text(rule) for rule in found.rules] for table, found in rules.chains()}


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


class TestOutboundJump:
    """Point 7: every protocol is looked at."""

    def test_all_that_leaves_is_looked_at(self) -> None:
        assert shown(Config(), NAT, "OUTPUT") == ["-j ISTIO_OUTPUT"]


def owner_rules(kind: str, number: str, loopback: str = "127.0.0.1/32") -> list[str]:
    """The three rules of a proxy's user or group without DNS capture."""
    return [
        f"! -d {loopback} -o lo -p tcp -m tcp ! --dport 15008 -m owner --{kind}-owner {number} -j ISTIO_IN_REDIRECT",
        f"-o lo -m owner ! --{kind}-owner {number} -j RETURN",
        f"-m owner --{kind}-owner {number} -j RETURN",
    ]


PASSTHROUGH = "-s 127.0.0.6/32 -o lo -j RETURN"
PROXY = [*owner_rules("uid", "1337"), *owner_rules("gid", "1337")]
LOOPBACK = "-d 127.0.0.1/32 -j RETURN"

OUTPUT: dict[str, tuple[Config, list[str]]] = {
    "nothing included: the proxy is known all the same": (Config(), [PASSTHROUGH, *PROXY, LOOPBACK]),
    # Point 8
    "excluded ports, tcp and udp, before anything else": (
        Config(outbound_exclude_ports=ports(22, (8000, 8090), (0, 65535))),
        [
            "-p tcp -m tcp --dport 22 -j RETURN",
            "-p udp -m udp --dport 22 -j RETURN",
            "-p tcp -m tcp --dport 8000:8090 -j RETURN",
            "-p udp -m udp --dport 8000:8090 -j RETURN",
            "-p tcp -m tcp -j RETURN",
            "-p udp -m udp -j RETURN",
            PASSTHROUGH,
            *PROXY,
            LOOPBACK,
        ],
    ),
    # Points 10 and 11
    "several users and groups: users first, each with its three": (
        Config(proxy_uids=ids(1337, (2000, 2002)), proxy_gids=ids(1400, 1401)),
        [
            PASSTHROUGH,
            *owner_rules("uid", "1337"),
            *owner_rules("uid", "2000-2002"),
            *owner_rules("gid", "1400"),
            *owner_rules("gid", "1401"),
            LOOPBACK,
        ],
    ),
    "a loopback range among the included: the application is captured on lo, too": (
        Config(outbound_ranges=nets("127.1.2.0/24", "10.0.0.0/8")),
        [
            PASSTHROUGH,
            *owner_rules("uid", "1337")[::2],
            *owner_rules("gid", "1337")[::2],
            LOOPBACK,
            "-d 127.1.2.0/24 -j ISTIO_REDIRECT",
            "-d 10.0.0.0/8 -j ISTIO_REDIRECT",
        ],
    ),
    "a loopback range of the other family counts, too": (
        Config(outbound_ranges=nets("::1/128")),
        [PASSTHROUGH, *owner_rules("uid", "1337")[::2], *owner_rules("gid", "1337")[::2], LOOPBACK],
    ),
    "another loopback range": (
        Config(loopback_cidr=IPv4Network("127.0.0.0/8")),
        [
            PASSTHROUGH,
            *owner_rules("uid", "1337", "127.0.0.0/8"),
            *owner_rules("gid", "1337", "127.0.0.0/8"),
            "-d 127.0.0.0/8 -j RETURN",
        ],
    ),
    # Point 12
    "excluded groups": (
        Config(owner_groups_exclude=ids(1000, (2000, 2010))),
        [
            PASSTHROUGH,
            *PROXY,
            "-m owner --gid-owner 1000 -j RETURN",
            "-m owner --gid-owner 2000-2010 -j RETURN",
            LOOPBACK,
        ],
    ),
    "included groups: one rule for traffic of none of them, and exclusions have no effect": (
        Config(owner_groups=ids(1000, (2000, 2010)), owner_groups_exclude=ids(3000)),
        [
            PASSTHROUGH,
            *PROXY,
            "-m owner ! --gid-owner 1000 -m owner ! --gid-owner 2000-2010 -j RETURN",
            LOOPBACK,
        ],
    ),
    # Points 14 to 17
    "excluded ranges of the family, after loopback": (
        Config(outbound_ranges=ALL, outbound_exclude_ranges=nets("10.0.0.0/8", "fd00::/8", "1.2.3.4/32")),
        [
            PASSTHROUGH,
            *PROXY,
            LOOPBACK,
            "-d 10.0.0.0/8 -j RETURN",
            "-d 1.2.3.4/32 -j RETURN",
            "-j ISTIO_REDIRECT",
        ],
    ),
    "included ports, before the ranges": (
        Config(outbound_ports=ports(80, (8000, 8090)), outbound_ranges=nets("10.0.0.0/8")),
        [
            PASSTHROUGH,
            *PROXY,
            LOOPBACK,
            "-p tcp -m tcp --dport 80 -j ISTIO_REDIRECT",
            "-p tcp -m tcp --dport 8000:8090 -j ISTIO_REDIRECT",
            "-d 10.0.0.0/8 -j ISTIO_REDIRECT",
        ],
    ),
    "included ranges of the family": (
        Config(outbound_ranges=nets("10.0.0.0/8", "fd00::/8", "192.168.0.0/16")),
        [PASSTHROUGH, *PROXY, LOOPBACK, "-d 10.0.0.0/8 -j ISTIO_REDIRECT", "-d 192.168.0.0/16 -j ISTIO_REDIRECT"],
    ),
    "a range of every address is no test at all": (
        Config(outbound_ranges=nets("0.0.0.0/0"), outbound_exclude_ranges=nets("0.0.0.0/0")),
        [PASSTHROUGH, *PROXY, LOOPBACK, "-j RETURN", "-j ISTIO_REDIRECT"],
    ),
    "everything at once": (
        Config(
            outbound_exclude_ports=ports(22),
            owner_groups_exclude=ids(1000),
            outbound_exclude_ranges=nets("1.1.1.1/32"),
            outbound_ports=ports(80),
            outbound_ranges=ALL,
        ),
        [
            "-p tcp -m tcp --dport 22 -j RETURN",
            "-p udp -m udp --dport 22 -j RETURN",
            PASSTHROUGH,
            *PROXY,
            "-m owner --gid-owner 1000 -j RETURN",
            LOOPBACK,
            "-d 1.1.1.1/32 -j RETURN",
            "-p tcp -m tcp --dport 80 -j ISTIO_REDIRECT",
            "-j ISTIO_REDIRECT",
        ],
    ),
}


class TestOutbound:
    """Points 8 to 12 and 14 to 17: who and what bypasses the proxy, then what goes to it."""

    @pytest.mark.parametrize(("config", "expected"), OUTPUT.values(), ids=OUTPUT)
    def test_nat_output_decides_in_this_order(self, config: Config, expected: list[str]) -> None:
        assert shown(config, NAT, "ISTIO_OUTPUT") == expected

    @pytest.mark.parametrize("mode", InterceptionMode)
    def test_the_inbound_mode_makes_no_difference(self, mode: InterceptionMode) -> None:
        config, expected = OUTPUT["everything at once"]

        assert shown(config.replace(mode=mode), NAT, "ISTIO_OUTPUT") == expected

    def test_ipv6_has_its_own_constants_and_ranges(self) -> None:
        config = Config(
            outbound_ranges=nets("fd00::/8", "10.0.0.0/8"),
            outbound_exclude_ranges=nets("fd00:1::/32", "10.1.0.0/16"),
            loopback_cidr=IPv4Network("127.0.0.0/8"),
        )

        assert chain(build(config, DUAL, Family.IPV6), NAT, "ISTIO_OUTPUT") == [
            "-s ::6/128 -o lo -j RETURN",
            *owner_rules("uid", "1337", "::1/128"),
            *owner_rules("gid", "1337", "::1/128"),
            "-d ::1/128 -j RETURN",
            "-d fd00:1::/32 -j RETURN",
            "-d fd00::/8 -j ISTIO_REDIRECT",
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
