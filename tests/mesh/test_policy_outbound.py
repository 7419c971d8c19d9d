"""Istio's sidecar policy for outbound traffic: a configuration, a chain, and what iptables-save shows in it.

The classes follow the order in which the policy appends; each table reads as (configuration, rules in order). Rules are
those of IPv4 unless a test says otherwise.
"""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from istio_init.config.model import ALL, Config, InterceptionMode
from istio_init.netfilter.family import Family

from .stating import DUAL, LOOPBACK, NAT, build, chain, ids, nets, ports, shown


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
