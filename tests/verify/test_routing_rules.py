"""Routing rules of the namespace may lead its answers past the second namespace: that is said, and is no fault."""

from __future__ import annotations

import pytest

from istio_init.testing.pods import LINK, Pod

from .proof import apply, verify


@pytest.mark.parametrize(
    "rules",
    [
        ["rule add from {pod} lookup 100", f"route add default via {{peer}} dev {LINK} table 100"],
        ["rule add to 192.0.2.0/24 blackhole"],
    ],
    ids=["by source", "no way back"],
)
def test_answers_that_are_led_elsewhere_fail_no_probe(pod: Pod, rules: list[str]) -> None:
    apply(pod)
    for words in rules:
        pod.inside.run("ip", *words.format(pod=pod.ipv4, peer="10.77.0.1").split())

    proof = verify(pod)

    assert (proof.status, proof.failed) == (126, [])
    assert verify(pod, "--allow-unprobed").status == 0
    reasons = {each["what"]: each["why"] for each in proof.said["not_probed"]}
    assert "leads what 10.77.0.2 answers elsewhere (ip rule)" in reasons["inbound connections"]
    assert any(each["group"] == "inside" for each in proof.said["probes"])
