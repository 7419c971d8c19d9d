"""Ways around a proxy, and firewalls within a pod: named by what they do to the mesh's traffic."""

from __future__ import annotations

import pytest

from .states import AMBIENT, FIREWALL, LINKERD, TPROXY, State, by_ztunnel, check, natively
from .ward import INJECTED, Ward

NAT = "iptables -t nat"
IPV4_ALONE = INJECTED.replace(" --dual-stack", "")
DNS = f"{INJECTED} --redirect-dns"
BANNED = "for i in $(seq 1 40); do iptables -A INPUT -s 198.51.$i.7 -j DROP; done"


def asleep(ward: Ward) -> None:
    natively(ward)
    ward.run("nft 'add table inet istio-proxy-nat { flags dormant; }'")


AROUND = {
    "one family lost its jump to the proxy": State(
        INJECTED,
        f"{NAT} -D ISTIO_OUTPUT -j ISTIO_REDIRECT",
        {"half-applied": "ipv4 nat (nft): missing: -A ISTIO_OUTPUT -j ISTIO_REDIRECT"},
        "error",
    ),
    "the other family did": State(
        INJECTED,
        "ip6tables -t nat -D ISTIO_OUTPUT -j ISTIO_REDIRECT",
        {"half-applied": "missing: -A ISTIO_OUTPUT -j ISTIO_REDIRECT (unless only 0.0.0.0/0 was included"},
    ),
    "nat of one family was flushed": State(
        INJECTED, f"{NAT} -F", {"half-applied": "ipv4 nat (nft): missing: -A PREROUTING -p tcp -j ISTIO_INBOUND"}
    ),
    "all rules were flushed": State(
        INJECTED,
        "for t in iptables ip6tables; do $t -t nat -F; $t -t nat -X; done; ip addr del ::6/128 dev lo",
        {"mesh-bypassed": "tcp 0.0.0.0:15001, uid 1337 (envoy"},
    ),
    "tables that sleep": State("", asleep, {"mesh-bypassed": "inet istio-proxy-nat is dormant"}),
    "an application's group is excluded": State(
        f"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=1000 {INJECTED}", "true", {"owner-groups": "its group 1000 is excluded"}
    ),
    "linkerd behind the sidecar": State(
        INJECTED, LINKERD, {"proxy-redirected": "the proxy's own connections redirected to port 4140"}, "error"
    ),
    "linkerd before ztunnel": State(
        AMBIENT,
        by_ztunnel(LINKERD.replace("-A OUTPUT", "-I OUTPUT")),
        {
            "foreign-ahead": "PROXY_INIT_OUTPUT 2",
            "proxy-redirected": "ztunnel's own connections redirected to port 4140",
        },
    ),
    "connections that are not tracked": State(
        INJECTED,
        "iptables -t raw -A PREROUTING -p tcp --dport 8080 -j CT --notrack",
        {"foreign-ahead": "ipv4 raw (nft): PREROUTING 1: -p tcp -m tcp --dport 8080 -j CT --notrack"},
    ),
    "queries that are not tracked": State(
        DNS,
        "iptables -t raw -I OUTPUT -d 10.77.0.1 -p udp --dport 53 -j CT --notrack",
        {"foreign-ahead": "direct, not proxied to port 15053"},
    ),
    "a mark that another program clears": State(
        TPROXY,
        "nft 'add table ip m; add chain ip m p { type filter hook prerouting priority -160; }; "
        "add rule ip m p meta mark set 0'",
        {"foreign-ahead": "ip m p 1: meta mark set 0x00000000"},
    ),
}  # fmt: skip
FIREWALLS = {
    "the port of the application is allowed, the proxy's is not": State(
        INJECTED,
        f"{FIREWALL}iptables -A INPUT -p tcp --dport 8080 -j ACCEPT",
        {"captured-dropped": "ipv4 filter (nft): INPUT: policy DROP: inbound connections dropped"},
    ),
    "the proxy's port is dropped": State(
        INJECTED,
        "iptables -A INPUT -p tcp --dport 15006 -j DROP",
        {"captured-dropped": "INPUT 1: -p tcp -m tcp --dport 15006 -j DROP"},
    ),
    "the mesh is let in, the kubelet is not": State(
        AMBIENT,
        by_ztunnel(f"{FIREWALL}iptables -A INPUT -p tcp -m multiport --dports 15006,15008 -j ACCEPT"),
        {"captured-dropped": "ipv4 filter (nft): INPUT: policy DROP: the kubelet's probes dropped"},
    ),
    "the kubelet's address is dropped": State(
        AMBIENT,
        by_ztunnel("iptables -A INPUT -s 169.254.7.127 -j DROP"),
        {"captured-dropped": "the kubelet's probes dropped"},
    ),
    "the proxy may leave, all others may not": State(
        IPV4_ALONE,
        "ip addr flush dev eth0 scope global; ip addr add 10.77.0.2/24 dev eth0; ip route add default via 10.77.0.1; "
        "iptables -A OUTPUT -o eth0 -m owner ! --uid-owner 1337 -j DROP",
        {"captured-dropped": "DNS queries dropped"},
    ),
    "the control plane is out of reach": State(
        INJECTED,
        "iptables -A OUTPUT -o eth0 -p tcp --dport 15012 -j DROP",
        {"some-dropped": "the proxy's own connections, port 15012: dropped"},
        "warning",
    ),
    "the application is out of the proxy's reach": State(
        INJECTED,
        "iptables -A INPUT -i lo -p tcp --dport 8080 -j DROP",
        {"some-dropped": "the proxy's connections to the application dropped"},
        "error",
    ),
    "very many sources are banned": State(
        INJECTED,
        BANNED,
        {"some-dropped": "INPUT 1: -s 198.51.1.7/32 -j DROP  [0 packets] and those behind it up to 40"},
        "info",
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_way_around_the_proxy_is_named(ward: Ward, name: str) -> None:
    check(ward, AROUND[name])


@pytest.mark.parametrize("name", FIREWALLS)
def test_a_firewall_in_the_pod_is_named_by_what_it_stops(ward: Ward, name: str) -> None:
    check(ward, FIREWALLS[name])
