"""Run in a machine: the injected arguments in a pod with a real Envoy, and requests that have to pass through it."""

from __future__ import annotations

import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from istio_init.netfilter.family import Family

TESTS = Path(__file__).resolve().parents[2] / "tests"
ENVOY = Path("/envoy")
OUTSIDE = "203.0.113.7"
EACH = 50
"""Requests in each direction."""


def main() -> int:
    """Say what happened; 0 when every request was answered by way of Envoy."""
    sys.path.insert(0, str(TESTS))
    sidecars: Any = import_module("envoy.sidecar")
    command: Any = import_module("support.command")
    sidecars.READY = 600.0
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with sidecars.Sidecar.create(ENVOY, Path(name), "REDIRECT") as pod:
            print(f"Envoy is ready after {time.monotonic() - start:.0f} s")
            programmed = command.drop_in(pod.pod.inside, *command.INJECTED)
            print(programmed.stdout + programmed.stderr)
            before, start = pod.completed(), time.monotonic()
            answers = [pod.call(Family.IPV4, f"/in/{number}") for number in range(EACH)]
            answers += [pod.call_out(OUTSIDE, f"/out/{number}") for number in range(EACH)]
            seconds = time.monotonic() - start
            counted = pod.completed() - before
    answered = sum(answer.status == 200 for answer in answers)
    print(f"{answered} of {2 * EACH} requests answered in {seconds:.1f} s, through Envoy: {dict(counted)}")
    return int((programmed.status, answered, counted["inbound"], counted["outbound"]) != (0, 2 * EACH, EACH, EACH))


if __name__ == "__main__":
    raise SystemExit(main())
