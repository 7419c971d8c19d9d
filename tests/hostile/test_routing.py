"""Clean removes the routing rules that it read, whoever made them, and none that only resembles them."""

from __future__ import annotations

from support.command import istio_init

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
