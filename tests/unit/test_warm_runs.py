"""Runs of the program that tests begin warm are what users begin cold: the same status, output and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import warm
from support.command import PROGRAM, execute, istio_init

from istio_init.cli.app import COMMANDS

SAVE = """*nat
:OUTPUT ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
NOBODY = ("--pid", str(2**30))
"""No process has this id."""

RUNS: dict[str, tuple[str, ...]] = {
    "apply": ("-x", "10.0.0.0/33", *NOBODY),
    "clean": NOBODY,
    "explain": ("--file", "save", "--format", "json"),
    "trace": ("outbound", "tcp", "192.0.2.9:80", "--file", "save"),
    "map": ("--file", "save"),
    "diff": ("--file", "save", "-i", "*"),
    "verify": NOBODY,
}
"""Without any namespace; what is not listed prints its help."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_warm_run_is_what_a_cold_one_is(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "save").write_text(SAVE)
    monkeypatch.chdir(tmp_path)

    argv = (command, *RUNS.get(command, ("--help",)))

    cold = execute(*PROGRAM, *argv)

    assert istio_init(*argv) == cold
    assert cold.stdout or cold.stderr
    assert "Traceback" not in cold.stderr


@pytest.mark.parametrize("variables", [{"COLUMNS": "40"}, {"NO_COLOR": "1"}, {"PROXY_UID": "x"}, {"LC_ALL": "C"}])
def test_variables_count_as_they_do_from_the_start(variables: dict[str, str]) -> None:
    argv = ("trace", "outbound", "tcp", "192.0.2.9:80", "--expect", "-i *")
    assert istio_init(*argv, env=variables) == execute(*PROGRAM, *argv, env=variables)
    assert warm.can_run({**warm.environment(), **variables}) == ("LC_ALL" not in variables)


def test_nothing_of_a_run_is_left_for_the_next_one() -> None:
    first = istio_init("trace", "outbound", "tcp", "192.0.2.9:80", "--expect", "-i *", env={"COLUMNS": "20"})
    assert istio_init("trace", "sideways").status == 2
    assert istio_init("trace", "outbound", "tcp", "192.0.2.9:80", "--expect", "-i *", env={"COLUMNS": "20"}) == first
    assert istio_init("trace", "outbound", "tcp", "192.0.2.9:80", "--expect", "-i ''").stdout != first.stdout
