"""Pods that are unusual and healthy: nothing is said of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.command import istio_init

from .states import AMBIENT, FIREWALL, NET1, TPROXY, by_ztunnel, make
from .ward import INJECTED, Ward

NAT = "iptables -t nat"
DNS = f"{INJECTED} --redirect-dns"

HEALTHY: dict[str, tuple[str, str | Callable[[Ward], None]]] = {
    "a link-local gateway": (INJECTED, "ip route replace default via 169.254.1.1 dev eth0 onlink"),
    "routes to the cluster alone": (INJECTED, "ip route replace 10.0.0.0/8 via 10.77.0.1; ip route del default"),
    "a second address": (INJECTED, "ip addr add 10.77.0.99/24 dev eth0"),
    "a default route by a second interface": (INJECTED, NET1),
    "marks of the node's network": (
        INJECTED,
        "ip rule add pref 100 fwmark 0x200/0xf00 lookup 51820; ip route add local 0.0.0.0/0 dev lo table 51820",
    ),
    "marks of connections, by another's bits": (
        INJECTED,
        "iptables -t mangle -I PREROUTING -i eth0 -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
    ),
    "a firewall that knows the mesh": (
        INJECTED, f"{FIREWALL}iptables -A INPUT -p tcp -m multiport --dports 15006,15020,15021,15090,15008 -j ACCEPT"
    ),
    "invalid packets are dropped": (INJECTED, "iptables -A INPUT -m conntrack --ctstate INVALID -j DROP"),
    "segments are clamped": (
        INJECTED,
        "iptables -t mangle -A POSTROUTING -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    ),
    "sources are rewritten behind nat": (INJECTED, f"{NAT} -A POSTROUTING -o eth0 -j MASQUERADE"),
    "strict reverse paths": (TPROXY, "sysctl -qw net.ipv4.conf.eth0.rp_filter=1"),
    "all queries": (f"{DNS} --capture-all-dns", "true"),
    "credentials by a local agent": (
        AMBIENT, by_ztunnel(f"{NAT} -I OUTPUT -d 169.254.170.23 -p tcp --dport 80 -j ACCEPT")
    ),
    "a service that leads back": (
        INJECTED, f"{NAT} -A OUTPUT -d 10.96.0.10 -p tcp --dport 80 -j DNAT --to-destination 10.77.0.2:8080"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_pod_that_is_only_unusual(ward: Ward, name: str) -> None:
    make(ward, *HEALTHY[name])

    assert ward.look().findings == ()


@pytest.mark.parametrize("only", ["0.0.0.0/0", "::/0"])
def test_one_family_alone_is_nothing_where_it_was_asked_for(ward: Ward, only: str) -> None:
    line = INJECTED.replace("-i *", f"-i {only}")
    ward.program(line)

    found = istio_init("explain", "--netns", ward.inside.name, "--expect", line, "--check")

    assert found.status == 0, found.stdout
