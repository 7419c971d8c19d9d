"""verify without a configuration to hold to: what is left of a redirection does not prove itself."""

from __future__ import annotations

import sys

import pytest
from support.command import istio_init

from istio_init.testing.pods import Pod

from .proof import NOT_PROVED, apply, verify

INBOUND_PROXY = """
import signal, socket
for port in (15001, 15006):
    made = socket.create_server(("", port))
    globals()[f"kept{port}"] = made
signal.pause()
"""


@pytest.mark.parametrize(
    ("flags", "done", "problem"),
    [
        ((), "-t nat -D PREROUTING -p tcp -j ISTIO_INBOUND", "nat (nft): nothing jumps to ISTIO_INBOUND"),
        (("-m", "TPROXY"), "-t mangle -D PREROUTING -p tcp -j ISTIO_INBOUND", "nothing jumps to ISTIO_INBOUND"),
        (("--redirect-dns", "--capture-all-dns"), "-t nat -F ISTIO_OUTPUT_DNS", "nat (nft): ISTIO_OUTPUT_DNS has no"),
    ],
)
def test_what_lost_a_part_is_not_proved(pod: Pod, flags: tuple[str, ...], done: str, problem: str) -> None:
    apply(pod, *flags)
    pod.inside.run("iptables", *done.split())

    proof = verify(pod)

    assert proof.status == NOT_PROVED
    assert any(problem in line for line in proof.said["problems"]), proof.said["problems"]


def test_chains_that_say_nothing_any_more_are_called_incomplete(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("iptables", "-t", "nat", "-F", "ISTIO_REDIRECT")

    done = istio_init("verify", "--netns", pod.name)

    assert done.status == NOT_PROVED
    assert "the redirection is incomplete" in done.stderr
    assert "ISTIO_REDIRECT has no rules" in done.stderr


def test_rules_that_no_program_prints_are_not_proved_for_what_they_are_and_not_for_want_of_a_privilege(
    pod: Pod,
) -> None:
    apply(pod)
    pod.inside.run("nft", *"insert rule ip nat OUTPUT meta priority 5 counter accept".split())

    done = istio_init("verify", "--netns", pod.name)

    assert done.status == NOT_PROVED
    assert "its rules cannot be read" in done.stderr and "--expect" in done.stderr
    assert "root" not in done.stderr


def test_a_port_on_which_the_proxy_does_not_listen_is_a_problem(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("iptables", *"-t nat -R ISTIO_IN_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15009".split())
    pod.inside.spawn(sys.executable, "-c", INBOUND_PROXY)
    while ":15006 " not in pod.inside.run("ss", "-Hlnt"):
        pass

    proof = verify(pod)

    assert proof.status == NOT_PROVED
    assert proof.said["problems"] == [
        "something listens on port 15001, but nothing on 15009, where inbound connections arrive"
    ]
