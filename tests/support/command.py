"""The program under test, run as its users run it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from istio_init.testing.namespaces import Namespace

from . import warm
from .warm import environment as environment

PROGRAM = (sys.executable, "-m", "istio_init")
DROP_IN = (*PROGRAM, "istio-iptables")
INJECTED = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*",
            "-d", "15090,15021,15020", "--log_output_level=default:info")  # fmt: skip
"""What Istio's injection template passes to the drop-in."""


TIMEOUT = 120
"""Seconds for a run."""


class Result(NamedTuple):
    """A finished run."""

    status: int
    stdout: str
    stderr: str

    def ok(self) -> Result:
        """The same, asserting that it succeeded."""
        assert self.status == 0, f"status {self.status}\n{self.stdout}{self.stderr}"
        return self


def execute(*argv: str, env: Mapping[str, str] | None = None) -> Result:
    """Run a command to its end in a clean environment with these variables."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, env=environment(env), check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def istio_init(*argv: str, env: Mapping[str, str] | None = None) -> Result:
    """Run ``istio-init`` in a process of its own, which has imported what it needs already."""
    variables = environment(env)
    if not warm.can_run(variables):
        return execute(*PROGRAM, *argv, env=env)
    return Result(*warm.run(argv, variables, TIMEOUT))


def begin(*argv: str, env: Mapping[str, str] | None = None) -> warm.Running:
    """The same, without waiting for its end; it leads a session, so that what it starts can be killed with it."""
    return warm.Running(argv, environment(env), leads_session=True)


def drop_in(namespace: Namespace, *argv: str, env: Mapping[str, str] | None = None) -> Result:
    """Run ``istio-iptables`` inside a namespace, as an initContainer does."""
    return execute("ip", "netns", "exec", namespace.name, *DROP_IN, *argv, env=env)
