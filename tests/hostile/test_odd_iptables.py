"""Rules that iptables takes though they make no sense: what they do is said, or is undecidable, and nothing breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.command import istio_init

from istio_init.testing.pods import Pod

REVERSED = "192.0.2.9-192.0.2.1"
WORDS = ("outbound", "tcp", "192.0.2.5:80")
ODD = [
    (f"-p tcp -m iprange --dst-range {REVERSED} -j RETURN", "=> proxied"),
    (f"-p tcp -m iprange ! --dst-range {REVERSED} -j RETURN", "=> direct"),
    (f"-p tcp -j DNAT --to-destination {REVERSED}", "=> undecidable"),
    ("-p tcp -m length --length 10:5 -j RETURN", "=> undecidable"),
    ("-p tcp -m conntrack --ctorigdst 192.0.2.5/0 -j RETURN", "=> direct"),
    ("-p tcp -m mark --mark 0x5/0x2 -j RETURN", "=> proxied"),
    ("-p tcp -m tcp --tcp-flags SYN ACK -j RETURN", "=> proxied"),
]


@pytest.fixture(scope="module", params=["nft", "legacy"])
def captured(request: pytest.FixtureRequest) -> Iterator[tuple[Pod, str]]:
    with Pod.create() as made:
        istio_init("apply", "--netns", made.name, "--force-iptables-binary", request.param).ok()
        yield made, request.param


@pytest.mark.parametrize(("rule", "expected"), ODD, ids=[rule for rule, _ in ODD])
def test_a_rule_that_makes_no_sense_breaks_nothing(captured: tuple[Pod, str], rule: str, expected: str) -> None:
    pod, backend = captured
    words = (f"iptables-{backend}", "-t", "nat")
    pod.inside.run(*words, "-I", "OUTPUT", *rule.split())
    try:
        traced = istio_init("trace", "--netns", pod.name, *WORDS).ok()
        others = [istio_init(command, "--netns", pod.name) for command in ("explain", "map")]
    finally:
        pod.inside.run(*words, "-D", "OUTPUT", "1")

    assert traced.stdout.splitlines()[-1].startswith(expected)
    for done in others:
        assert "Traceback" not in done.stderr
        assert done.status == 0


HIDDEN = "@ll,0,8 1 counter jump ISTIO_OUTPUT"
"""What no packet of this machine's own has; iptables-nft prints ``-j ISTIO_OUTPUT``."""


def test_a_rule_that_only_prints_as_ours_is_not_taken_for_it(pod: Pod) -> None:
    arguments = ("--netns", pod.name, "--force-iptables-binary", "nft")
    istio_init("apply", *arguments).ok()
    listed = pod.inside.run("nft", "-a", "list", "chain", "ip", "nat", "OUTPUT")
    [handle] = [line.rpartition("handle ")[2] for line in listed.splitlines() if "ISTIO_OUTPUT" in line]
    before = pod.inside.run("iptables-nft-save", "-t", "nat")
    pod.inside.run("nft", *f"replace rule ip nat OUTPUT handle {handle} {HIDDEN}".split())
    after = pod.inside.run("iptables-nft-save", "-t", "nat")
    assert [line for line in after.splitlines() if line.startswith("-A")] == [
        line for line in before.splitlines() if line.startswith("-A")
    ]

    for command in ("apply", "clean"):
        done = istio_init(command, *arguments)
        assert done.status == 1
        assert "has more to it than is printed" in done.stderr
    traced = istio_init("trace", "--netns", pod.name, *WORDS).ok()
    assert not traced.stdout.splitlines()[-1].startswith("=> proxied")
