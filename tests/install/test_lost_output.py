"""Output that cannot be written: a reader that leaves, a full disk, a closed descriptor. It is said in a line."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from support.command import PROGRAM, environment

SAVE = (
    "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -j RETURN\nCOMMIT\n"
)
TABLE = {
    "": 2,
    "--version": 0,
    "explain --help": 0,
    "help trace": 0,
    "findings": 0,
    "findings foreign-ahead --format json": 0,
    "man": 0,
    "completion bash": 0,
    "render -b 80": 0,
    "explain SAVE": 0,
    "explain SAVE --format html": 0,
    "map SAVE --format json": 0,
    "trace SAVE outbound tcp 10.0.0.1:80": 0,
    "diff SAVE '-b 80'": 3,
    "ps --metrics :9": 2,
    "istio-iptables --help": 0,
    "istio-iptables --skip-rule-apply --log_target stdout": 0,
}
"""What prints something, and its status where that can be written."""

FULL = "the output cannot be written: No space left on device"


@pytest.mark.parametrize("line", TABLE)
def test_what_cannot_be_written_is_said_and_no_more(line: str, tmp_path: Path) -> None:
    save = tmp_path / "pod.save"
    save.write_text(SAVE)
    command = shlex.join([*PROGRAM, *(str(save) if word == "SAVE" else word for word in shlex.split(line))])
    ends = {
        "full": f"{command} >/dev/full",
        "left": f"{command} | :; exit ${{PIPESTATUS[0]}}",
        "closed": f"{command} >&-",
    }
    running = {
        name: subprocess.Popen(["bash", "-c", script], stderr=subprocess.PIPE, env=environment(), text=True)
        for name, script in ends.items()
    }
    for name, process in running.items():
        _, said = process.communicate(timeout=120)
        assert "Traceback" not in said and "Exception" not in said
        if TABLE[line] == 2:
            assert process.returncode == 2
        elif name == "closed":
            assert process.returncode == TABLE[line]
        elif name == "full":
            assert (process.returncode, FULL in said) == (1, True), said
        else:
            assert process.returncode in (1, TABLE[line]), "it may have ended before its reader left"
            assert said == ""


@pytest.mark.parametrize("line", ["apply -b eighty", "istio-iptables -b eighty", "explain --file /nowhere"])
def test_errors_that_cannot_be_written_keep_their_status(line: str) -> None:
    command = shlex.join([*PROGRAM, *line.split()])
    for end in ("2>/dev/full", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(["bash", "-c", f"{command} {end}"], timeout=120, env=environment(), check=False)
        assert done.returncode in (1, 2)
