"""States that a pod gets into, what is said of each, and what is not; and healthy pods, of which nothing is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from inspector.natives import SIDECAR as NATIVE
from inspector.sidecar import ANY, INBOUND, OUTBOUND, Socket
from inspector.test_outcomes import DOCKER, KUBE_PROXY
from inspector.test_stores import ztunnel

from istio_init.cli.expect import expected_config
from istio_init.config.parse import Names
from istio_init.netfilter.family import Family
from istio_init.testing.pods import APP, HOSTS, PROXY
from istio_init.testing.traffic import Endpoint

from .ward import INJECTED, Ward

V4 = Family.IPV4
TPROXY = f"{INJECTED} -m TPROXY"
AMBIENT = "ambient"
LINKERD = (
    "iptables -t nat -N PROXY_INIT_OUTPUT; iptables -t nat -A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN; "
    "iptables -t nat -A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-ports 4140; "
    "iptables -t nat -A OUTPUT -j PROXY_INIT_OUTPUT"
)
FORWARDS = "sysctl -qw net.ipv4.ip_forward=1"


def proxy(*addresses: tuple[str, int], user: object = PROXY, name: str = "envoy") -> Callable[[Ward], None]:
    """Another proxy than the usual one."""

    def replace(ward: Ward) -> None:
        ward.replace_proxy(user, *(Socket(Endpoint(*each)) for each in addresses), name=name)  # type: ignore[arg-type]

    return replace


def guest(name: str, *ports: int) -> Callable[[Ward], None]:
    """One more application."""

    def move_in(ward: Ward) -> None:
        addresses = [Endpoint(HOSTS[V4].pod, port) for port in ports]
        ward.guests.append(ward.sidecar.start(APP, *addresses, name=name))

    return move_in


def of_ztunnel(ward: Ward) -> None:
    """The sockets that ztunnel opens in a pod."""
    ward.replace_proxy(PROXY)
    ward.closing.enter_context(ztunnel(ward.inside))


def docker(ward: Ward) -> None:
    ward.inside.run("iptables-nft-restore", "-n", stdin=DOCKER)


def kube_proxy(ward: Ward) -> None:
    """Its rules, on a machine that forwards."""
    ward.inside.run("iptables-nft-restore", "-n", stdin=KUBE_PROXY)
    ward.run(FORWARDS)


def in_legacy(ward: Ward) -> None:
    """The same rules in the other store alone."""
    ward.run("nft flush ruleset")
    ward.program(INJECTED, store="legacy")


def natively(ward: Ward) -> None:
    ward.inside.run("nft", "-f", "-", stdin=NATIVE)
    ward.run("ip addr add ::6/128 dev lo")


def ambient_in_legacy(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.program_ambient(store="legacy")


def ambient_without_routing(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.run("ip rule del pref 32764")


def docker_in_ambient(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.run(bridge("br-12ab"))


def half_ambient(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.run("iptables -t nat -F ISTIO_PRERT")


def bridge(name: str) -> str:
    return f"ip link add {name} type veth peer name far0; ip addr add 172.17.0.1/16 dev {name}; ip link set {name} up"


EVERYWHERE = tuple((host, port) for host in ANY.values() for port in (OUTBOUND, INBOUND))


class State(NamedTuple):
    """``line`` are the arguments behind the rules; ``said`` are the codes of findings with a text of their evidence."""

    line: str
    damage: str | Callable[[Ward], None]
    said: dict[str, str]
    severity: str | None = None


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
        f"{INJECTED} -c eht0", "true", {"no-such-interface": "eht0: there is none, but eth0"}
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
        {"half-applied": "missing: -A ISTIO_PRERT"},
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
        {"foreign-ahead": "-j DNAT --to-destination 127.0.0.1:8080", "captured-dropped": "martian"},
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


def make(ward: Ward, line: str, damage: str | Callable[[Ward], None]) -> None:
    if line == AMBIENT:
        ward.program_ambient()
    elif line:
        ward.program(line)
    if callable(damage):
        damage(ward)
    else:
        ward.run(damage)


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_named_and_nothing_else_is(ward: Ward, name: str) -> None:
    state = STATES[name]
    make(ward, state.line, state.damage)

    said = ward.look()

    found = {each.kind.code: each for each in said.findings}
    assert set(found) == set(state.said)
    if said.arguments is not None and state.line != AMBIENT:
        expected_config(str(said.arguments), Names())  # Nothing is given that would be refused.
    for code, text in state.said.items():
        assert any(text in line for line in found[code].evidence), found[code].evidence
    if state.severity is not None:
        [finding] = found.values()
        assert finding.severity.value == state.severity


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
