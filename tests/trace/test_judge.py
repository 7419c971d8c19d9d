"""The tracer before its judge: random rules made live, random connections really sent, both backends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_kernel_agrees_about_random_connections(real_kernel: None) -> None:
    sizes = "--configs 16 --packets 640 --seed ci --workers 1".split()
    done = subprocess.run(
        [sys.executable, SCRIPTS / "kernel-diff", *sizes],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.stdout.splitlines()[-1:] == ["kernel-diff: 640 of 640 agree (16 configurations, seed ci)"], (
        done.stdout + done.stderr
    )
