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
