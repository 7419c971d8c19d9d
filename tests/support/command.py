"""The program under test, run as its users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from istio_init.testing.namespaces import Namespace

PROGRAM = (sys.executable, "-m", "istio_init")
DROP_IN = (*PROGRAM, "istio-iptables")
INJECTED = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*",
            "-d", "15090,15021,15020", "--log_output_level=default:info")  # fmt: skip
"""What Istio's injection template passes to the drop-in."""


class Result(NamedTuple):
    """A finished run."""

    status: int
    stdout: str
    stderr: str

    def ok(self) -> Result:
        """The same, asserting that it succeeded."""
        assert self.status == 0, f"status {self.status}\n{self.stdout}{self.stderr}"
        return self


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment without any variable that could configure the program, but those given."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
    return {**kept, **(more or {})}


def execute(*argv: str, env: Mapping[str, str] | None = None) -> Result:
    """Run a command to its end in a clean environment with these variables."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environment(env), check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def istio_init(*argv: str, env: Mapping[str, str] | None = None) -> Result:
    """Run ``istio-init``."""
    return execute(*PROGRAM, *argv, env=env)


def drop_in(namespace: Namespace, *argv: str, env: Mapping[str, str] | None = None) -> Result:
    """Run ``istio-iptables`` inside a namespace, as an initContainer does."""
    return execute("ip", "netns", "exec", namespace.name, *DROP_IN, *argv, env=env)
