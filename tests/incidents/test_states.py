"""States that a pod gets into, what is said of each, and what is not; and healthy pods, of which nothing is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from inspector.sidecar import ANY, INBOUND, OUTBOUND

from istio_init.testing.pods import APP

from .states import (
    AMBIENT,
    EVERYWHERE,
    LINKERD,
    TPROXY,
    V4,
    State,
    ambient_in_legacy,
    ambient_without_routing,
    bridge,
    check,
    docker,
    docker_in_ambient,
    guest,
    half_ambient,
    in_legacy,
    kube_proxy,
    make,
    natively,
    of_ztunnel,
    proxy,
)
from .ward import INJECTED, Ward

STATES = {
    "the proxy is not transparent": State(TPROXY, proxy(*EVERYWHERE), {"not-transparent": "15006"}),
    "the proxy listens on IPv4 alone": State(
        INJECTED,
        proxy((ANY[V4], OUTBOUND), (ANY[V4], INBOUND)),
        {"no-listener": "nothing listens on tcp 15001 where ipv6 arrives, only tcp 0.0.0.0:15001"},
    ),
    "the proxy listens on 127.0.0.1 alone": State(
        INJECTED,
        proxy(*EVERYWHERE[:1], ("::", OUTBOUND), ("127.0.0.1", INBOUND), ("::1", INBOUND)),
        {"no-listener": "nothing listens on tcp 15006 where ipv4 arrives, only tcp 127.0.0.1:15006"},
    ),
    "another program has the proxy's port": State(
        INJECTED, proxy(*EVERYWHERE, user=APP, name="java"), {"not-the-proxy": "(java, pid "}
    ),
    "the proxy's ports are swapped": State(
        INJECTED.replace("-p 15001 -z 15006", "-p 15006 -z 15001"), "true", {"ports-swapped": "outbound goes to 15006"}
    ),
    "a port of the application is excluded": State(
        INJECTED.replace("-d 15090", "-d 9100,15090"),
        guest("exporter", 9100),
        {"uncaptured-port": "(exporter, pid "},
        "info",
    ),
    "all ports of the application are excluded": State(
        INJECTED.replace("-d 15090", "-d 8080,15090"), "true", {"uncaptured-port": ": 8080 is excluded"}, "error"
    ),
    "the application's port is not included": State(
        INJECTED.replace("-b *", "-b 8081"),
        "true",
        {"uncaptured-port": "8080 is not among the included ports"},
        "error",
    ),
    "an interface is misspelt": State(
        f"{INJECTED} -c eht0", "true", {"no-such-interface": "eht0: it does not exist, but eth0 does"}
    ),
    "docker runs in the pod": State(INJECTED, bridge("docker0"), {"bridged-containers": "interface docker0"}),
    "docker runs in an ambient pod": State(AMBIENT, docker_in_ambient, {"bridged-containers": "br-12ab"}),
    "ztunnel has no sockets in the pod": State(
        AMBIENT,
        proxy(),
        {"no-listener": "nothing listens on tcp 15001; ipv4: ztunnel's socket is not there"},
    ),
    "a chain of an ambient pod is empty": State(
        AMBIENT,
        half_ambient,
        {"half-applied": "ISTIO_PRERT has no rules"},
    ),
    "an ambient pod has no routing": State(
        AMBIENT, ambient_without_routing, {"tproxy-routing": "ipv4: no routing rule for mark 0x111/0xfff"}
    ),
    "inbound connections are rejected": State(
        INJECTED, "iptables -I INPUT -p tcp -j REJECT", {"captured-dropped": "filter (nft): INPUT 1: -p tcp -j REJECT"}
    ),
    "what leaves is dropped behind nat": State(
        INJECTED,
        "iptables -t mangle -A POSTROUTING -o eth0 -j DROP",
        {"captured-dropped": "mangle (nft): POSTROUTING 1: -o eth0 -j DROP"},
    ),
    "inbound goes to a loopback address": State(
        INJECTED,
        "iptables -t nat -I PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 127.0.0.1:8080",
        {"foreign-ahead": "-j DNAT --to-destination 127.0.0.1:8080"},
    ),
    "a rule by hand in ISTIO_OUTPUT": State(
        INJECTED,
        "iptables -t nat -I ISTIO_OUTPUT 1 -d 10.9.0.0/16 -j ACCEPT",
        {"captured-otherwise": "ISTIO_OUTPUT 1: -d 10.9.0.0/16 -j ACCEPT"},
    ),
    "a rule by hand where that for loopback stands": State(
        INJECTED,
        "iptables -t nat -I ISTIO_OUTPUT 8 -d 10.9.0.0/16 -j RETURN",
        {"captured-otherwise": "ISTIO_OUTPUT 8: -d 10.9.0.0/16 -j RETURN"},
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_named_and_nothing_else_is(ward: Ward, name: str) -> None:
    check(ward, STATES[name])


HEALTHY: dict[str, tuple[str, str | Callable[[Ward], None]]] = {
    "sidecar": (INJECTED, "true"),
    "sidecar, TPROXY": (TPROXY, "true"),
    "sidecar, DNS": (f"{INJECTED} --redirect-dns --drop-invalid", "true"),
    "sidecar, lists": (INJECTED.replace("-b *", "-b 8080").replace("-i *", "-i 10.88.0.0/16,fd00:88::/32"), "true"),
    "sidecar, docker by the annotation": (f"{INJECTED} -k docker0", bridge("docker0")),
    "sidecar, a second interface": (
        f"{INJECTED} -c net1",
        "ip link add net1 type veth peer name far0; ip link set net1 up",
    ),
    "sidecar, an interface that may come": (f"{INJECTED} -k vm0", "true"),
    "sidecar, iptables-legacy": (INJECTED, in_legacy),
    "sidecar, natively": ("", natively),
    "sidecar, the gateway's port excluded": (f"{INJECTED} -o 5432", "true"),
    "ambient": (AMBIENT, of_ztunnel),
    "ambient, iptables-legacy": ("", ambient_in_legacy),
    "linkerd": ("", LINKERD),
    "cloud metadata by a local port": (
        INJECTED,
        "iptables -t nat -I OUTPUT -d 169.254.169.254 -p tcp --dport 80 -j DNAT --to-destination 127.0.0.1:2579",
    ),
    "no mesh": ("", proxy()),
    "sidecar, docker's rules": (INJECTED, docker),
    "sidecar, kube-proxy forwards": (INJECTED, kube_proxy),
    "TPROXY, kube-proxy forwards": (TPROXY, kube_proxy),
}


def test_neighbours_are_named_with_what_they_do(ward: Ward) -> None:
    make(ward, *HEALTHY["sidecar, kube-proxy forwards"])

    said = ward.look()

    assert [each.name for each in said.neighbours] == ["kube-proxy"]


def test_a_name_is_no_excuse(ward: Ward) -> None:
    """A chain that is called as a neighbour's, and takes more than is the neighbour's own."""
    ward.program(INJECTED)
    ward.run(
        "iptables -t nat -N AZWI_PROXY_OUTPUT; iptables -t nat -I OUTPUT -j AZWI_PROXY_OUTPUT; "
        "iptables -t nat -A AZWI_PROXY_OUTPUT -p tcp --dport 80 -j DNAT --to-destination 127.0.0.1:8000"
    )

    assert "foreign-ahead" in [each.kind.code for each in ward.look().findings]


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_healthy_pod(ward: Ward, name: str) -> None:
    make(ward, *HEALTHY[name])

    assert ward.look().findings == ()
