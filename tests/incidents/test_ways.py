"""A pod's ways out: routes, uplinks, loopback. One that is lost is named, and its impact comes first."""

from __future__ import annotations

import pytest
from support.command import istio_init

from istio_init.report.impact_text import impact_lines

from .states import AMBIENT, NET1, State, by_ztunnel, check, make
from .ward import INJECTED, Ward

NAT = "iptables -t nat"
IPV4_ALONE = INJECTED.replace(" --dual-stack", "")
INGRESS = "add table netdev n; add chain netdev n i {{ type filter hook ingress device eth0 priority 0; }}; {}"
WAYS_OUT = {
    "no default route": State(
        INJECTED, "ip route del default", {"no-route": "ipv4: no default route, only routes to 10.77.0.0/24"}, "error"
    ),
    "no default route, ambient": State(AMBIENT, by_ztunnel("ip route del default"), {"no-route": "ipv4: no default"}),
    "no default route of IPv6": State(
        INJECTED,
        "ip -6 route del default",
        {"no-route": "ipv6: no default route, only routes to fd00:77::/64"},
        "warning",
    ),
    "link-local routes alone": State(
        INJECTED,
        "ip route flush table main; ip route add 169.254.0.0/16 dev eth0",
        {"no-route": "ipv4: no default route, nor any other that leads to others"},
    ),
    "a default route that refuses": State(
        INJECTED, "ip route replace blackhole default", {"no-route": "ipv4: default route blackhole, only routes to"}
    ),
    "the uplink is down": State(IPV4_ALONE, "ip link set eth0 down", {"no-route": "ipv4: eth0 is down"}),
    "the proxy has no route of its own": State(
        INJECTED,
        "ip rule add pref 100 uidrange 1337-1337 lookup 51820; ip route add blackhole default table 51820",
        {"captured-dropped": "ipv4 routing: blackhole: the proxy's own connections dropped"},
    ),
    "lo has lost its address": State(
        INJECTED, "ip addr del 127.0.0.1/8 dev lo", {"loopback-down": "lo has no address 127.0.0.1"}, "error"
    ),
    "the uplink is named as a virtual interface": State(
        f"{INJECTED} -k eth0", "true", {"virtual-uplink": "eth0: the pod's own traffic comes in via eth0"}, "error"
    ),
    "the uplink is excluded, and another interface is not": State(
        f"{INJECTED} -c net1", NET1, {"all-excluded": "ipv4 nat (nft): OUTPUT 1: -o net1 -j RETURN"}, "error"
    ),
}
IMPACTS = {
    "no default route": (
        INJECTED,
        "ip route del default",
        "Outbound TCP, ipv4: dropped (no route), but to 10.77.0.0/24: proxied to port 15001 (nat ISTIO_REDIRECT 1)",
    ),
    "one family lost its jump": (
        INJECTED, f"{NAT} -D ISTIO_OUTPUT -j ISTIO_REDIRECT", "Outbound TCP, ipv4: direct, past the proxy"
    ),
    "lo has lost its address": (
        INJECTED,
        "ip addr del 127.0.0.1/8 dev lo",
        "Outbound TCP, ipv4: all dropped (nat ISTIO_REDIRECT 1, as lo has no address 127.0.0.1)",
    ),
    "the uplink is named as a virtual interface": (
        f"{INJECTED} -k eth0", "true", "Inbound TCP: proxied to port 15001, the proxy's outbound listener"
    ),
    "bytes before the kernel's rules": (
        INJECTED,
        f"nft '{INGRESS.format('add rule netdev n i tcp dport 8080 drop')}'",
        "Inbound TCP: undecidable (depends on “what chain netdev n i does at eth0”)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS_OUT)
def test_a_pod_without_its_way_out_is_named(ward: Ward, name: str) -> None:
    check(ward, WAYS_OUT[name])


@pytest.mark.parametrize("name", IMPACTS)
def test_the_impact_comes_first(ward: Ward, name: str) -> None:
    line, damage, said = IMPACTS[name]
    make(ward, line, damage)

    told = [words for words, _ in impact_lines(ward.look().impacts, is_captured=True)]

    assert said in told


def test_what_has_no_route_is_traced_to_no_rule(ward: Ward) -> None:
    make(ward, INJECTED, "ip route del default")

    found = istio_init("trace", "outbound", "tcp", "198.51.100.1:80", "--netns", ward.inside.name)

    assert "dropped: no route: its sender gets an error, and no rule sees it" in found.stdout


def test_what_one_family_lost_is_not_proved(ward: Ward) -> None:
    make(ward, INJECTED, f"{NAT} -D ISTIO_OUTPUT -j ISTIO_REDIRECT")

    found = istio_init("verify", "--netns", ward.inside.name)

    assert found.status == 126
    assert "missing: -A ISTIO_OUTPUT -j ISTIO_REDIRECT" in found.stdout
