"""Redirection that was damaged by hand or came late, in each mode, with the remedy where one can be pasted."""

from __future__ import annotations

import ctypes
import signal
import socket
from collections.abc import Callable

import pytest

from istio_init.testing.entering import ROOT
from istio_init.testing.pods import APP, HOSTS, PROXY
from istio_init.testing.traffic import Endpoint, connect

from .states import AMBIENT, EVERYWHERE, TPROXY, V4, State, by_ztunnel, check, make, natively, of_ztunnel, proxy
from .ward import INJECTED, Ward

NAT = "iptables -t nat"
IPV4_ALONE = INJECTED.replace(" --dual-stack", "")
PR_SET_NAME = 15


def sidecar_too(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.program(INJECTED)


def native_too(ward: Ward) -> None:
    natively(ward)
    ward.program(INJECTED)


def earlier(line: str) -> Callable[[Ward], None]:
    """A connection of the application's to a database, opened before there were rules."""

    def open_and_program(ward: Ward) -> None:
        listener = ward.sidecar.pod.peer.open_socket(socket.AF_INET, socket.SOCK_STREAM, ROOT)
        listener.bind((HOSTS[V4].peer, 5432))
        listener.listen()
        ward.closing.callback(listener.close)
        with connect(ward.inside, APP, Endpoint(HOSTS[V4].peer, 5432)) as made:
            holder = ward.inside.start(_as("billing"), APP, keep=(made,))
        ward.closing.callback(holder.kill)
        if line == AMBIENT:
            of_ztunnel(ward)
            ward.program_ambient()
        else:
            ward.program(line)

    return open_and_program


def _as(name: str) -> Callable[[], None]:
    def wait() -> None:
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())
        while True:
            signal.pause()

    return wait


def client_earlier(ward: Ward) -> None:
    ward.closing.callback(connect(ward.sidecar.pod.peer, ROOT, Endpoint(HOSTS[V4].pod, 8080)).close)
    ward.program(INJECTED)


def stuck(ward: Ward) -> None:
    """A proxy that accepts nothing, and has as many connections waiting as it may."""
    ward.replace_proxy(PROXY)
    listening = []
    for port in (15001, 15006):
        made = ward.inside.open_socket(socket.AF_INET, socket.SOCK_STREAM, PROXY)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("0.0.0.0", port))
        made.listen(1)
        listening.append(made)
    for made in listening:
        ward.closing.callback(made.close)
    for _ in range(2):
        client = connect(ward.inside, PROXY, Endpoint("127.0.0.1", 15006))
        ward.closing.callback(client.close)


BY_HAND = {
    "inbound goes to the outbound port in one family": State(
        INJECTED,
        f"{NAT} -R ISTIO_IN_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15001",
        {"half-applied": "ipv4 nat (nft): missing: -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006"},
    ),
    "inbound goes to the outbound port": State(
        INJECTED.replace("-z 15006", "-z 15001"),
        "true",
        {"ports-swapped": "outbound goes to 15001, inbound to 15001"},
    ),
    "the proxy is not let out": State(
        INJECTED,
        f"{NAT} -D ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        {"half-applied": "missing: -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN"},
    ),
    "the jump was lost": State(
        INJECTED, f"{NAT} -D OUTPUT -j ISTIO_OUTPUT", {"half-applied": "nothing jumps to ISTIO_OUTPUT"}
    ),
    "a port was let past by hand": State(
        INJECTED,
        f"{NAT} -I ISTIO_INBOUND 1 -p tcp --dport 8080 -j RETURN",
        {"captured-otherwise": "ISTIO_INBOUND 1: -p tcp -m tcp --dport 8080 -j RETURN"},
    ),
    "TPROXY lost its table": State(
        TPROXY,
        "iptables -t mangle -F; iptables -t mangle -X",
        {"half-applied": "missing: -A PREROUTING -p tcp -j ISTIO_INBOUND"},
    ),
    "TPROXY lost its route": State(
        TPROXY, "ip route flush table 133", {"tproxy-routing": "ipv4: table 133 has no local default route on lo"}
    ),
    "native and iptables": State("", native_too, {"both-backends": "native: "}),
    "all of an interface is excluded": State(
        f"{INJECTED} -c eth0", "true", {"all-excluded": "OUTPUT 1: -o eth0 -j RETURN"}
    ),
    "an interface with a zero too many": State(
        f"{INJECTED} -c eth00", "true", {"no-such-interface": "eth00: it does not exist, but eth0 does"}
    ),
    "no application is in the group": State(
        f"ISTIO_OUTBOUND_OWNER_GROUPS=4242 {INJECTED}",
        "true",
        {"owner-groups": "its group 1000 is not among the included groups"},
    ),
    "the proxy runs as somebody else": State(
        INJECTED, proxy(*EVERYWHERE, user=APP), {"proxy-not-exempt": "(envoy): uid 1000"}
    ),
}

IN_AMBIENT = {
    "nothing was programmed": State("", by_ztunnel(), {"mesh-bypassed": "15001, uid 0"}),
    "the jump was lost": State(AMBIENT, by_ztunnel(f"{NAT} -F OUTPUT"), {"half-applied": "-A OUTPUT -j ISTIO_OUTPUT"}),
    "the rule for probes was lost": State(
        AMBIENT, by_ztunnel(f"{NAT} -D ISTIO_PRERT 1"), {"half-applied": "-A ISTIO_PRERT -s 169.254.7.127/32"}
    ),
    "marks are not saved": State(
        AMBIENT, by_ztunnel("iptables -t mangle -F ISTIO_PRERT"), {"half-applied": "ISTIO_PRERT has no rules"}
    ),
    "a table is gone": State(
        AMBIENT, by_ztunnel("nft delete table ip nat"), {"half-applied": "-A PREROUTING -j ISTIO_PRERT"}
    ),
    "IPv6 was lost": State(
        AMBIENT,
        by_ztunnel("for t in nat mangle raw; do nft delete table ip6 $t; done"),
        {"ipv6-not-captured": "fd00:77::2 on eth0"},
        "error",
    ),
    "the route was lost": State(
        AMBIENT,
        by_ztunnel("ip route flush table 100"),
        {"tproxy-routing": "ipv4: table 100 has no local default route on lo"},
    ),
    "a sidecar was programmed, too": State(AMBIENT, sidecar_too, {"both-modes": "sidecar: nft"}),
}

CONNECTIONS = {
    "opened before the rules": State(
        "", earlier(INJECTED), {"open-bypass": f"to {HOSTS[V4].peer}:5432 from {HOSTS[V4].pod}:"}, "warning"
    ),
    "opened before the rules, TPROXY": State("", earlier(TPROXY), {"open-bypass": "(billing, pid "}),
    "opened before the rules, ambient": State("", earlier(AMBIENT), {"open-bypass": "(billing, pid "}),
    "of a client, from before the rules": State("", client_earlier, {"open-bypass": f"{HOSTS[V4].pod}:8080 from "}),
    "the proxy accepts nothing": State(
        IPV4_ALONE, stuck, {"accept-queue-full": "2 connections wait to be accepted, its limit is 1",
                            "ipv6-not-captured": "fd00:77::2"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_damage_is_named_and_cured_by_what_is_to_be_pasted(ward: Ward, name: str) -> None:
    check(ward, BY_HAND[name])


@pytest.mark.parametrize("name", IN_AMBIENT)
def test_damage_in_an_ambient_pod_is_named(ward: Ward, name: str) -> None:
    check(ward, IN_AMBIENT[name])


@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections_are_named_with_their_processes(ward: Ward, name: str) -> None:
    check(ward, CONNECTIONS[name])


@pytest.mark.parametrize("line", [f"{INJECTED} -o 5432", f"{INJECTED} -x {HOSTS[V4].peer}/32"])
def test_an_old_connection_that_bypasses_the_proxy_anyway_is_nothing(ward: Ward, line: str) -> None:
    make(ward, "", earlier(line))

    assert ward.look().findings == ()


def test_a_second_user_of_the_proxy_is_nothing(ward: Ward) -> None:
    make(ward, INJECTED.replace("-u 1337", "-u 1337,1338"), "true")

    assert ward.look().findings == ()
