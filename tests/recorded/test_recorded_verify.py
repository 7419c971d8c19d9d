"""What the reference implementation left in the kernel, proved with real connections, by what was read back from it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from support.command import PROGRAM, execute

from istio_init.testing.namespaces import Namespace

from .cases import Case, recorded
from .test_recorded_cases import load, place

ROUTES = "for family in -4 -6; do ip $family route add default dev eth0 2>/dev/null || true; done"


def captured() -> list[Case]:
    """The cases that left redirection in the kernel."""
    return [case for case in recorded() if case["expect"]["v4"] or case["expect"]["v6"]]


def proof(namespace: Namespace) -> dict[str, Any]:
    """What verify says of a namespace."""
    done = execute(*PROGRAM, "verify", "--netns", namespace.name, "--timeout", "1s", "--format", "json")
    assert done.stdout, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return {"status": done.status, **said}


def directions(said: dict[str, Any]) -> set[tuple[str, str]]:
    """Group and family of the probes that were captured."""
    return {
        (each["group"], each["packet"]["family"]) for each in said["probes"] if each["expected"]["kind"] != "direct"
    }


def wanted(said: dict[str, Any]) -> set[tuple[str, str]]:
    """Group and family of what the arguments capture for everybody, which a probe can always find."""
    words = said["held_to"]["argv"]
    pairs = dict(pairwise(words))
    found = {("inbound", family) for family in said["families"] if "-b" in pairs}
    if pairs.get("-i") == "*":
        found |= {("outbound", family) for family in said["families"]}
    return found


@pytest.mark.parametrize("case", captured(), ids=lambda case: str(case["name"]))
def test_each_case_is_proved_in_every_direction_that_it_captures(case: Case, backend: str) -> None:
    with place(case) as namespace:
        namespace.run("sh", "-c", f"ip link set lo up; {ROUTES}")
        load(namespace, backend, case["expect"])
        said = proof(namespace)

    assert [each for each in said["probes"] if not each["passed"]] == []
    assert (said["status"], said["problems"]) == (0, [])
    assert wanted(said) <= directions(said), said["not_probed"]
