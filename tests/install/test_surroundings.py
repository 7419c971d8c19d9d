"""The same program with the oldest click, whatever the terminal, the locale and the switches of the interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.command import PROGRAM, Result, environment, execute

SAVE = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 10.0.0.0/8 -m comment --comment "größer ✓" -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
TABLE = {
    "explain": (["explain", "--rules", "--file", "SAVE"], 0),
    "map": (["map", "--file", "SAVE"], 0),
    "trace": (["trace", "outbound", "tcp", "10.0.0.5:443", "--file", "SAVE"], 0),
    "diff": (["diff", "-b '*'", "SAVE"], 3),
    "bad value": (["apply", "-b", "größer"], 2),
    "drop-in": (["istio-iptables", "-n", "-b", "größer"], 1),
}
SURROUNDINGS = {
    "the C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "a locale that is not there": {"LC_ALL": "de_DE"},
    "no colour": {"NO_COLOR": "1", "TERM": "dumb"},
    "40 columns": {"COLUMNS": "40"},
    "warnings as errors": {"PYTHONWARNINGS": "error"},
    "optimised": {"PYTHONOPTIMIZE": "2"},
}
USAGE: tuple[list[str], ...] = (
    ["--help"],
    ["explain", "--help"],
    ["help", "trace"],
    ["apply", "--wait", "soon"],
    ["aply"],
    ["ps", "--watch", "0"],
    ["apply", "--pid", "one"],
    ["map", "--only", "all"],
    ["trace", "sideways"],
    ["--version"],
    [],
)


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("save") / "iptables-save.txt"
    path.write_text(SAVE, encoding="utf-8")
    return path


def run(words: list[str], save: Path, **variables: str) -> Result:
    argv = [*PROGRAM, *(str(save) if word == "SAVE" else word for word in words)]
    done = subprocess.run(argv, capture_output=True, timeout=120, env=environment(variables), check=False)
    return Result(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("what", TABLE)
def test_it_ends_as_everywhere(what: str, surroundings: str, save: Path) -> None:
    words, status = TABLE[what]

    done = run(words, save, **SURROUNDINGS[surroundings])

    assert done.status == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout or done.stderr


@pytest.mark.parametrize("what", ["explain", "map", "diff"])
def test_a_reader_that_leaves_early_is_no_fault(what: str, save: Path) -> None:
    words = [str(save) if word == "SAVE" else word for word in TABLE[what][0]]
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 1)


@pytest.fixture(scope="module")
def oldest_click(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("click")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(path), "click==8.1.0"], check=True, timeout=120)
    return path


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_the_oldest_click_says_the_same(words: list[str], oldest_click: Path) -> None:
    newest = execute(*PROGRAM, *words)
    oldest = execute(*PROGRAM, *words, env={"PYTHONPATH": f"{oldest_click}:{Path(__file__).parents[2]}"})

    assert oldest.status == newest.status
    assert _words(oldest.stdout) == _words(newest.stdout)
    assert _words(oldest.stderr) == _words(newest.stderr)


def _words(text: str) -> list[str]:
    """Without the line breaks, which are click's own affair."""
    return text.split()
