"""Rules that somebody added, in whatever table and store: drops as what they are, detours, and what is harmless."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from istio_init.testing.pods import HOSTS, PROXY
from istio_init.testing.traffic import Endpoint

from .states import AMBIENT, FORWARDS, TPROXY, V4, State, bridge, by_ztunnel, check, docker, make, natively
from .ward import INJECTED, Ward

NAT = "iptables -t nat"
FIREWALL = (
    "nft add table inet fw; nft 'add chain inet fw in { type filter hook input priority 0; policy drop; }'; "
    "nft add rule inet fw in ct state established,related accept; nft add rule inet fw in iif lo accept; "
    "nft add rule inet fw in meta l4proto ipv6-icmp accept; "
)
AGENT = "nft add table ip agent; nft 'add chain ip agent out { type nat hook output priority -110; }'; "
TAILSCALE = (
    "iptables -N ts-input; iptables -A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP; "
    "iptables -I INPUT -j ts-input; "
    "iptables -t nat -N ts-postrouting; iptables -t nat -I POSTROUTING -j ts-postrouting; "
    "iptables -t nat -A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE"
)
AZURE = (
    "iptables -t nat -N AZWI_PROXY_OUTPUT; iptables -t nat -N AZWI_PROXY_REDIRECT; "
    "iptables -t nat -A AZWI_PROXY_REDIRECT -p tcp -j REDIRECT --to-port 8000; "
    "iptables -t nat -I OUTPUT -j AZWI_PROXY_OUTPUT; "
    "iptables -t nat -A AZWI_PROXY_OUTPUT -m owner --uid-owner 1501 -j RETURN; "
    "iptables -t nat -A AZWI_PROXY_OUTPUT -p tcp -d 169.254.169.254 --dport 80 -j AZWI_PROXY_REDIRECT"
)
CONSUL = (
    "iptables -t nat -N CONSUL_PROXY_OUTPUT; "
    "iptables -t nat -A CONSUL_PROXY_OUTPUT -m owner --uid-owner 5995 -j RETURN; "
    "iptables -t nat -A CONSUL_PROXY_OUTPUT -p tcp -j REDIRECT --to-ports 15001; "
    "iptables -t nat -A OUTPUT -p tcp -j CONSUL_PROXY_OUTPUT"
)
DOCKER_DNS = (
    "iptables -t nat -N DOCKER_OUTPUT; iptables -t nat -A OUTPUT -d 127.0.0.11 -j DOCKER_OUTPUT; "
    "for p in tcp udp; do iptables -t nat -A DOCKER_OUTPUT -d 127.0.0.11 -p $p --dport 53 "
    "-j DNAT --to-destination 127.0.0.11:41001; done"
)
KUBELET = (
    "iptables -N KUBE-FIREWALL; iptables -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate "
    "RELATED,ESTABLISHED,DNAT -j DROP; iptables -I INPUT -j KUBE-FIREWALL; iptables -I OUTPUT -j KUBE-FIREWALL"
)
LETS_PASS = (
    "for t in iptables ip6tables; do $t -P INPUT DROP; $t -A INPUT -i lo -j ACCEPT; "
    "$t -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; "
    "$t -A INPUT -p tcp -m multiport --dports 15006,15008,15020,15021,15090 -j ACCEPT; done; "
    "ip6tables -A INPUT -p ipv6-icmp -j ACCEPT"
)


def in_native(script: str) -> Callable[[Ward], None]:
    """In a pod with native rules."""

    def damage(ward: Ward) -> None:
        natively(ward)
        ward.run(script)

    return damage


def health_checked(script: str) -> Callable[[Ward], None]:
    """In a pod whose proxy answers the kubelet on 15021."""

    def damage(ward: Ward) -> None:
        ward.guests.append(ward.sidecar.start(PROXY, Endpoint(HOSTS[V4].pod, 15021), name="pilot-agent"))
        ward.run(script)

    return damage


DROPS = {
    "one source": State(
        INJECTED,
        "iptables -I INPUT -s 10.77.0.1 -j DROP",
        {"some-dropped": "-s 10.77.0.1/32 -j DROP  [0 packets]: inbound connections, from 10.77.0.1"},
        "info",
    ),
    "the pod's own range": State(
        INJECTED,
        "iptables -I INPUT -s 10.0.0.0/8 -p tcp -j DROP",
        {"captured-dropped": "-s 10.0.0.0/8 -p tcp -j DROP  [0 packets]: outbound connections dropped"},
    ),
    "the application's port": State(
        INJECTED,
        "iptables -I INPUT -p tcp --dport 8080 -j DROP",
        {"some-dropped": "the proxy's connections to the application dropped"},
        "error",
    ),
    "health checks": State(
        INJECTED,
        health_checked("iptables -I INPUT -p tcp --dport 15021 -j REJECT"),
        {"captured-dropped": "health checks on port 15021 rejected"},
    ),
    "what the proxy sends to one port": State(
        INJECTED,
        "iptables -I OUTPUT -p tcp --dport 443 -j REJECT",
        {"some-dropped": "the proxy's own connections, port 443: rejected"},
        "warning",
    ),
    "DNS": State(INJECTED, "iptables -I OUTPUT -p udp --dport 53 -j DROP", {"captured-dropped": "DNS queries dropped"}),
    "all that leaves": State(
        INJECTED,
        "iptables -A OUTPUT ! -o lo -j DROP",
        {"captured-dropped": "OUTPUT 1: ! -o lo -j DROP  [0 packets]: the proxy's own connections dropped"},
    ),
    "a firewall that knows the application's port alone": State(
        INJECTED,
        f"{FIREWALL}nft add rule inet fw in tcp dport '{{ 22, 8080, 15021 }}' accept",
        {"captured-dropped": "inet fw in: policy drop: inbound connections dropped"},
    ),
    "a policy of the other store": State(
        INJECTED, "iptables-legacy -P INPUT DROP", {"captured-dropped": "filter (legacy): INPUT: policy DROP"}
    ),
    "all but a tunnel": State(
        INJECTED,
        "iptables -I OUTPUT ! -o wg0 -m mark ! --mark 51820 -m addrtype ! --dst-type LOCAL -j REJECT",
        {"captured-dropped": "the proxy's own connections rejected"},
    ),
    "ahead of connection tracking": State(
        INJECTED,
        "iptables -t raw -I PREROUTING -p tcp --dport 8080 -j DROP",
        {"foreign-ahead": "raw (nft): PREROUTING 1: -p tcp -m tcp --dport 8080 -j DROP"},
    ),
    "the mesh's port of an ambient pod": State(
        AMBIENT,
        by_ztunnel("iptables -I INPUT -p tcp --dport 15008 -j REJECT"),
        {"captured-dropped": "connections of the mesh on port 15008 rejected"},
    ),
    "one range of a native pod": State(
        "",
        in_native(
            "nft add table inet fw; nft 'add chain inet fw out { type filter hook output priority 0; }'; "
            "nft add rule inet fw out ip daddr 10.0.0.0/8 tcp dport 443 drop"
        ),
        {"some-dropped": "the proxy's own connections, to 10.0.0.0/8, port 443: dropped"},
    ),
}

DETOURS = {
    "a transparent cache": State(
        INJECTED, f"{NAT} -I OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 3128", {"foreign-ahead": "to port 3128"}
    ),
    "by the application's user": State(
        INJECTED, f"{NAT} -I OUTPUT -m owner --uid-owner 1000 -j RETURN", {"foreign-ahead": "direct, not proxied"}
    ),
    "to an address that nobody has": State(
        INJECTED,
        f"{NAT} -I OUTPUT -p tcp -d 10.96.0.10 --dport 443 -j DNAT --to-destination 192.0.2.77:443",
        {"foreign-ahead": "redirected to 192.0.2.77:443, not proxied to port 15001"},
    ),
    "to a host behind the pod, which does not forward": State(
        INJECTED,
        f"{NAT} -I PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 192.0.2.1:8080",
        {"foreign-ahead": "-j DNAT --to-destination 192.0.2.1:8080"},
    ),
    "untracked": State(
        INJECTED,
        "iptables -t raw -I OUTPUT -p tcp --dport 443 -j CT --notrack",
        {"foreign-ahead": "raw (nft): OUTPUT 1: -p tcp -m tcp --dport 443 -j CT --notrack"},
    ),
    "a chain of nft's ahead of nat": State(
        INJECTED,
        f"{AGENT}nft add rule ip agent out tcp dport 443 redirect to :9443",
        {"foreign-ahead": "ip agent out 1"},
    ),
    "within Istio's native table": State(
        "",
        in_native("nft insert rule inet istio-proxy-nat output tcp dport 443 accept"),
        {"foreign-ahead": "inet istio-proxy-nat output 1: tcp dport 443 accept: direct"},
    ),
    "by the hour": State(
        INJECTED,
        f"{NAT} -I OUTPUT -p tcp -m time --timestart 01:00 --timestop 02:00 -j RETURN",
        {"undecided-rule": "-m time --timestart 01:00:00"},
    ),
    "a program decides": State(
        INJECTED, "iptables -I INPUT -p tcp -j NFQUEUE --queue-num 3", {"undecided-rule": "a program decides"}
    ),
    "another mark, in TPROXY mode": State(
        TPROXY,
        "iptables -t mangle -I PREROUTING -j CONNMARK --restore-mark; "
        "iptables -t mangle -A OUTPUT -j MARK --set-mark 16",
        {"foreign-ahead": "mangle (nft): PREROUTING 1: -j CONNMARK --restore-mark"},
    ),
}

HARMLESS: dict[str, tuple[str, str | Callable[[Ward], None]]] = {
    "a firewall that knows the mesh": (INJECTED, LETS_PASS),
    "Tailscale": (INJECTED, TAILSCALE),
    "Tailscale in an ambient pod": (AMBIENT, by_ztunnel(TAILSCALE)),
    "fail2ban": (
        INJECTED,
        "iptables -N f2b-sshd; iptables -A f2b-sshd -s 198.51.100.9 -j REJECT; iptables -I INPUT -p tcp -j f2b-sshd",
    ),
    "the kubelet's firewall": (INJECTED, KUBELET),
    "invalid packets are dropped": (INJECTED, "iptables -I INPUT -m conntrack --ctstate INVALID -j DROP"),
    "odd flags and forged sources are dropped": (
        INJECTED,
        "iptables -I INPUT -p tcp --tcp-flags ALL NONE -j DROP; iptables -I INPUT ! -i lo -s 127.0.0.0/8 -j DROP",
    ),
    "the metadata service is out of reach": (INJECTED, "iptables -I OUTPUT -d 169.254.169.254 -j DROP"),
    "no ping": (INJECTED, "iptables -I INPUT -p icmp -j DROP"),
    "a limit of connections": (
        INJECTED,
        "iptables -I INPUT -p tcp --syn -m connlimit --connlimit-above 100 -j REJECT",
    ),
    "MSS and DSCP": (
        INJECTED,
        "iptables -t mangle -A POSTROUTING -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu; "
        "iptables -t mangle -A OUTPUT -p tcp -j DSCP --set-dscp 10",
    ),
    "logs": (INJECTED, f"{NAT} -I OUTPUT -j LOG --log-prefix 'new '; iptables -I INPUT -j NFLOG"),
    "masquerading": (INJECTED, f"{NAT} -A POSTROUTING -o eth0 -j MASQUERADE"),
    "a chain of the application's behind Istio's": (
        INJECTED,
        f"{NAT} -N MYAPP; {NAT} -A MYAPP -p tcp --dport 6379 -j RETURN; {NAT} -A OUTPUT -j MYAPP",
    ),
    "accepted in nat of the other store, which ends nothing": (
        INJECTED,
        "iptables-legacy -t nat -I OUTPUT -p tcp --dport 443 -j ACCEPT",
    ),
    "Azure workload identity": (INJECTED, AZURE),
    "Azure workload identity in an ambient pod": (AMBIENT, by_ztunnel(AZURE)),
    "Docker's DNS": (f"{INJECTED} --redirect-dns", DOCKER_DNS),
    "Consul alone": ("", CONSUL),
    "metrics by UDP": (INJECTED, f"{NAT} -I PREROUTING -p udp --dport 8125 -j REDIRECT --to-ports 9125"),
    "a tunnel by policy": (
        INJECTED,
        "ip link add net1 type veth peer name far0; ip addr add 10.9.0.2/24 dev net1; ip link set net1 up; "
        "ip route add default dev net1 table 51820; ip rule add pref 100 not fwmark 51820 table 51820",
    ),
    "a monitor beside native rules": (
        "",
        in_native(
            "nft add table inet mon; nft 'add chain inet mon pre { type filter hook prerouting priority -300; }'; "
            "nft add rule inet mon pre tcp dport 80 counter"
        ),
    ),
}


@pytest.mark.parametrize("name", DROPS)
def test_what_is_dropped_is_told_as_what_it_is(ward: Ward, name: str) -> None:
    check(ward, DROPS[name])


@pytest.mark.parametrize("name", DETOURS)
def test_a_detour_is_told_with_its_rule(ward: Ward, name: str) -> None:
    check(ward, DETOURS[name])


@pytest.mark.parametrize("name", HARMLESS)
def test_nothing_is_said_of_what_does_no_harm(ward: Ward, name: str) -> None:
    make(ward, *HARMLESS[name])

    assert ward.look().findings == ()


def test_a_published_port_of_a_container_is_no_concern(ward: Ward) -> None:
    make(ward, f"{INJECTED} -k docker0", docker)
    ward.run(bridge("docker0"))
    ward.run(f"{NAT} -A DOCKER ! -i docker0 -p tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80; {FORWARDS}")

    assert ward.look().findings == ()
