"""verify leaves a namespace as it was, however it ends."""

from __future__ import annotations

import signal
import subprocess

import pytest
from pyroute2 import IPRoute
from support.command import PROGRAM, environment
from support.processes import wait_until
from support.rules import legacy_tables, routing

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.netfilter.family import Family
from istio_init.observe.namespace import observe
from istio_init.prove.model import Report
from istio_init.prove.subject import subject_of
from istio_init.prove.validation import validate
from istio_init.system import places
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod

from .proof import NOT_PROVED, apply, verify

INTERFACE = "istio-verify0"
PATIENCE = 60.0
"""Seconds for the kernel to take down what a killed process held."""


def state(namespace: Namespace) -> tuple[object, ...]:
    """Links, addresses, routes, routing rules, listeners and rules; counters do not count."""
    return (
        sorted(line.split()[0] for line in namespace.run("ip", "-br", "link").splitlines()),
        routing(namespace),
        namespace.run("ss", "-Hlntu"),
        namespace.run("nft", "-s", "list", "ruleset"),
        [legacy_tables(namespace, family) for family in Family],
    )


def blocked(pod: Pod) -> None:
    """Have every probe wait for its time to be over."""
    apply(pod, "--dual-stack", "-x", "10.9.0.0/16")
    for program in ("iptables", "ip6tables"):
        pod.inside.run(program, "-A", "INPUT", "-p", "tcp", "-j", "DROP")


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_nothing_is_left_when_all_passes(pod: Pod, mode: str) -> None:
    apply(pod, "--dual-stack", "-m", mode, "-x", "10.9.0.0/16")
    before = state(pod.inside)

    verify(pod).ok()

    assert state(pod.inside) == before


def test_nothing_is_left_when_probes_fail(pod: Pod) -> None:
    blocked(pod)
    before = state(pod.inside)

    assert verify(pod).status == NOT_PROVED

    assert state(pod.inside) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_killed(pod: Pod, number: signal.Signals) -> None:
    blocked(pod)
    before = state(pod.inside)
    process = subprocess.Popen(
        [*PROGRAM, "verify", "--netns", pod.name, "--timeout", "60s"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    wait_until(lambda: ":15006 " in pod.inside.run("ss", "-Hlnt"))
    assert INTERFACE in pod.inside.run("ip", "-br", "link")

    process.send_signal(number)

    assert process.wait(PATIENCE) != 0
    wait_until(lambda: state(pod.inside) == before)


def test_two_runs_at_once_take_turns(pod: Pod) -> None:
    apply(pod)
    argv = [*PROGRAM, "verify", "--netns", pod.name]
    runs = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) for _ in "12"]

    for run in runs:
        said = run.communicate(timeout=60)[0].decode()
        assert (run.returncode, said.splitlines()[-1]) == (0, "proved: 14 probes passed")


def test_without_a_second_namespace_the_rest_is_probed(pod: Pod) -> None:
    apply(pod)
    around = Surroundings()
    config = Config(inbound_ports=ALL, outbound_ranges=ALL)

    def work() -> Report:
        before = observe(places.HERE, (), versions=False)
        with IPRoute() as ip:  # Taken between looking and making.
            ip.link("add", ifname=INTERFACE, kind="veth", peer={"ifname": "other"})
        return validate(subject_of(config, around), around, before, timeout=1, announce=lambda text: None)

    report = pod.inside.call(work)

    assert not report.is_proved
    assert report.unprobed == ("inbound",)
    assert report.replace(accepts_unprobed=True).is_proved
    assert {each.what: each.why for each in report.skipped}["inbound connections"] == (
        "no second namespace: File exists"
    )
    assert f"{INTERFACE}@other" in pod.inside.run("ip", "-br", "link")
