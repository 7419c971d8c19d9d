"""The tracer before its judge, and the map before the tracer: wild rules of every store, and packets really sent."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
RANDOM = secrets.token_hex(4)


def run(program: str, *options: str) -> str:
    """What a script prints; the last line has the figures."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / program, *options], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{program} {' '.join(options)}\n{done.stdout[-20_000:]}\n{done.stderr}"
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("seed", ["ci", RANDOM], ids=["fixed", "random"])
def test_the_kernel_does_nothing_that_is_ruled_out_and_little_is_undecided(seed: str, real_kernel: None) -> None:
    said = run("kernel-diff", "--seed", seed, "--rulesets", "12", "--packets", "15", "--workers", "1")

    found = re.fullmatch(
        r"kernel-diff: (\d+) of (\d+) agree, \d+ undecided for an open match, (\d+) undecided otherwise, 0 wrong", said
    )
    assert found is not None, said
    agree, sent, _ = map(int, found.groups())
    assert sent > 130
    assert agree > sent * 0.6, f"--seed {seed}: {said}"


def test_a_packet_is_in_the_class_that_its_trace_ends_in(real_kernel: None) -> None:
    said = run("map-check", "--seed", "ci", "--packets", "600", "--each", "120", "--workers", "1")

    assert said.startswith("map-check: 600 of 600 agree"), said
