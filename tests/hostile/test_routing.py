"""Clean removes the routing rules that it read, whoever made them, and none that only resembles them."""

from __future__ import annotations

import sys

import pytest
from support.command import execute, istio_init

from istio_init.testing.pods import Pod

OURS = ("fwmark 1337 lookup 133", "fwmark 1337 lookup 133 pref 77 protocol 99")
OTHERS = (
    "from 10.0.0.0/8 fwmark 1337 lookup 133 pref 50",
    "fwmark 1337 lookup 133 pref 60 suppress_prefixlength 0",
    "not fwmark 1337 lookup 133 pref 61",
    "fwmark 1337 iif lo lookup 133 pref 62",
    "fwmark 1337 ipproto tcp lookup 133 pref 63",
)


def rules(pod: Pod) -> list[str]:
    return pod.inside.run("ip", "rule").splitlines()


def test_just_the_rules_that_were_read_go(pod: Pod) -> None:
    before = rules(pod)
    for each in OTHERS:
        pod.inside.run("ip", "rule", "add", *each.split())
    others = rules(pod)
    for each in OURS:
        pod.inside.run("ip", "rule", "add", *each.split())
    assert len(rules(pod)) == len(before) + len(OURS) + len(OTHERS)

    istio_init("clean", "--netns", pod.name).ok()

    assert rules(pod) == others


def test_a_rule_that_takes_less_than_all_of_a_mark_does_not_stand_for_the_wanted_one(pod: Pod) -> None:
    pod.inside.run("ip", "rule", "add", *OTHERS[0].split())

    istio_init("apply", "--netns", pod.name, "-m", "TPROXY").ok()

    assert any("from all fwmark 0x539 lookup 133" in each for each in rules(pod))


@pytest.mark.parametrize("table", ["133", "1000"])
def test_routing_is_added_as_ip_adds_it(pod: Pod, table: str) -> None:
    istio_init("apply", "--netns", pod.name, "-m", "TPROXY", "-r", table, "--dual-stack").ok()

    for family, scope in (("-4", "host"), ("-6", "global")):
        assert f"32000:\tfrom all fwmark 0x539 lookup {table}" in pod.inside.run("ip", family, "rule")
        shown = pod.inside.run("ip", "-d", family, "route", "show", "table", table)
        assert shown.startswith(f"local default dev lo proto boot scope {scope}")
    assert "::6/128" in pod.inside.run("ip", "-6", "address", "show", "dev", "lo")


def test_who_adds_routing_waits_for_no_event_loop(pod: Pod) -> None:
    """One that cannot watch its socket, as when nothing more may be watched, never ends."""
    argv = ("apply", "--netns", pod.name, "-m", "TPROXY")
    done = execute(sys.executable, "-X", "importtime", "-m", "istio_init", *argv).ok()

    assert "istio_init.system.routing" in done.stderr
    assert "pyroute2" not in done.stderr and "asyncio" not in done.stderr
