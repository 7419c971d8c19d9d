"""Pods of an ambient mesh as Istio's own agent left them, in each store: proved, and as expected."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.command import PROGRAM, execute

from istio_init.testing.pods import Pod

from .cases import Case
from .conftest import VARIABLE
from .test_recorded_cases import load

CASES: list[Case] = json.loads(Path(os.environ[VARIABLE], "ambient.json").read_text())


def arguments(case: Case) -> str:
    """What a case is a state of, as --expect takes it."""
    flags = ["--ambient"]
    flags += [] if case["dns"] else ["--redirect-dns=false"]
    flags += ["--bypass-inbound-capture"] if case["ingress"] else []
    flags += [] if case["ipv6"] else ["--ipv6=false"]
    flags += ["--kube-virt-interfaces", ",".join(case["virtual_interfaces"])] if case["virtual_interfaces"] else []
    return " ".join(flags)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_each_state_is_proved_and_is_what_its_arguments_mean(case: Case, both_backends: None) -> None:
    state = case["expect"]
    with Pod.create() as pod:
        if case["backend"] == "native":
            load(pod.inside, "nft", {**state, "v4": {}, "v6": {}})
            pod.inside.run("nft", "-j", "-f", "-", stdin=json.dumps({"nftables": state["nft"]}))
        else:
            load(pod.inside, case["backend"], state)
        target = ("--netns", pod.name, "--expect", arguments(case), "--format", "json")
        proof = execute(*PROGRAM, "verify", *target, "--timeout", "1s")
        explained = execute(*PROGRAM, "explain", *target)

    assert proof.stdout, proof.stderr
    said = json.loads(proof.stdout)
    assert [each for each in said["probes"] if not each["passed"]] == []
    assert (proof.status, said["problems"]) == (0, [])
    assert json.loads(explained.stdout)["drift"] == {"equal": True, "note": None, "changes": []}
