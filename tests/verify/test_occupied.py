"""verify of a pod whose proxy is at work: what can still be seen is probed, and who listens there is said."""

from __future__ import annotations

import sys
import time

import pytest

from istio_init.testing.pods import Pod

from .proof import NOT_PROVED, apply, verify

PROXY = """
import ctypes, signal, socket, sys
ctypes.CDLL(None).prctl(15, b"envoy")
kept = []
for port in (15001, 15006, 15021):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_IP, 19, 1)
    made.bind(("", port))
    made.listen()
    kept.append(made)
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.bind(("127.0.0.1", 15053))
signal.pause()
"""


PAST = """
import socket, sys
port, host, *clients = sys.argv[1:]
waiting = socket.create_server(("", int(port)))
for client in clients:
    made = socket.create_connection(("127.0.0.1", int(port)), source_address=(host, int(client)))
    taken, _ = waiting.accept()
    taken.close()  # Who closes first remembers the other.
    made.close()
"""


PAST_CLIENT = """
import socket, sys
waiting = socket.create_server(("", 9999))
made = socket.create_connection(("127.0.0.1", 9999), source_address=("0.0.0.0", int(sys.argv[1])))
taken, _ = waiting.accept()
made.close()
taken.close()
"""


def start_proxy(pod: Pod) -> None:
    """A stand-in that listens where the proxy does, and accepts nothing."""
    pod.inside.spawn(sys.executable, "-c", PROXY)
    deadline = time.monotonic() + 60
    while ":15053 " not in pod.inside.run("ss", "-Hlnu"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_connections_are_seen_to_come_to_the_proxy_that_listens_there(pod: Pod, mode: str) -> None:
    apply(pod, "-m", mode)
    start_proxy(pod)

    proof = verify(pod)

    assert (proof.status, proof.failed) == (0, [])
    notes = {each["packet"]["dport"]: each["note"] for each in proof.said["probes"] if each["group"] == "inbound"}
    assert notes[28080].startswith("envoy (pid ")
    assert notes[28080].endswith("listens on port 15006; that a connection arrived there is seen, not what it was told")
    assert "listens on port 15021" in notes[15021]
    assert notes[15020] is None


def test_clients_that_the_proxy_remembers_are_not_taken_for_probes(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40127")
    pod.inside.run(sys.executable, "-c", PAST, "15001", pod.ipv4, *map(str, range(40000, 40100)))
    start_proxy(pod)

    proof = verify(pod)

    assert (proof.status, proof.failed) == (0, [])


@pytest.mark.parametrize("port", [28080, 15090])
def test_a_port_that_an_old_connection_has_is_not_taken_for_a_fault(pod: Pod, port: int) -> None:
    """It cannot be listened on while the connection is remembered: another one serves, or it is said."""
    apply(pod)
    pod.inside.run(sys.executable, "-c", PAST_CLIENT, str(port))

    proof = verify(pod)

    assert (proof.status, proof.failed) == (0, [])
    told = [each["what"] for each in proof.said["not_probed"] if "a connection has port" in each["why"]]
    assert told == ([f"a client to port {port}"] if port == 15090 else [])


def test_few_local_ports_are_enough(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40003")
    start_proxy(pod)

    proof = verify(pod)

    assert proof.failed == []


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_a_connection_that_does_not_come_to_it_fails(pod: Pod, mode: str) -> None:
    apply(pod, "-m", mode)
    start_proxy(pod)
    pod.inside.run("iptables", "-t", "nat" if mode == "REDIRECT" else "mangle", "-I", "PREROUTING", "-j", "ACCEPT")

    proof = verify(pod, "--expect", f"-m {mode} -b '*' -i '*'")

    assert proof.status == NOT_PROVED
    [failed] = [each for each in proof.failed if (each["who"], each["packet"]["dport"]) == ("a client", 28080)]
    assert failed["happened"] == "direct: it reached its destination"
    assert "PREROUTING" in failed["reason"]


def test_questions_over_udp_are_not_asked_where_somebody_else_would_answer(pod: Pod) -> None:
    apply(pod, "--redirect-dns", "--capture-all-dns")
    start_proxy(pod)

    proof = verify(pod)

    assert proof.status == 0
    assert any(
        each["what"] == "an application to port 53/udp" and "envoy" in each["why"] for each in proof.said["not_probed"]
    )
