"""Neither the directory in which root works nor root's variables decide what runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import INJECTED, environment, execute
from support.rules import has_rules_of_ours

from istio_init.testing.pods import Pod

CONSOLE = Path(sys.executable).parent / "istio-init"
MODULES = ("iptc", "json", "resource", "pyroute2", "istio_init", "sitecustomize", "usercustomize", "runpy", "ctypes")
PROGRAMS = ("nft", "ip", "modprobe", "sh", *(f"{name}-{backend}-{verb}" for name in ("iptables", "ip6tables")
            for backend in ("nft", "legacy") for verb in ("save", "restore")))  # fmt: skip


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A directory of somebody's full of modules and programs that leave a mark."""
    mark = tmp_path / "mark"
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r} + ' ')\n")
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/sh\necho {name} >>{mark}\nexit 1\n")
        file.chmod(0o755)
        (tmp_path / name).symlink_to(file)
    return tmp_path


def run(trap: Path, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CONSOLE), *argv],
        cwd=trap,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "backend"),
    [
        *((each, "nft") for each in ("apply", "explain", "clean", "verify", "ps")),
        *((each, "legacy") for each in ("apply", "explain", "clean")),  # The others read its rules as explain does.
    ],
)
def test_what_lies_in_the_current_directory_is_not_run(
    pod: Pod, both_backends: None, trap: Path, command: str, backend: str
) -> None:
    forced = ("--force-iptables-binary", backend)
    if command != "apply":
        execute(str(CONSOLE), "apply", "--netns", pod.name, *forced).ok()
    more = {"apply": forced, "clean": forced}.get(command, ())
    target = () if command == "ps" else ("--netns", pod.name)
    path = f".::bin:./bin:{os.environ['PATH']}"
    done = run(trap, command, *target, *more, PATH=path)

    assert not (trap / "mark").exists(), (trap / "mark").read_text()
    assert done.returncode == 0 or command in ("verify", "explain"), done.stderr
    if command in ("apply", "clean"):
        assert has_rules_of_ours(pod.inside, backend) == (command == "apply")


def test_python_iptables_works_though_its_interpreter_is_isolated(pod: Pod, trap: Path) -> None:
    done = run(trap, "apply", "--netns", pod.name, "--force-iptables-binary", "legacy", "-v")

    assert "python-iptables" in done.stdout, done.stdout + done.stderr


def test_a_program_in_a_directory_of_somebody_elses_is_not_run_by_root(pod: Pod, backend: str, trap: Path) -> None:
    os.chown(trap / "bin", 4242, 4242)
    done = run(
        trap, "apply", "--netns", pod.name, "--force-iptables-binary", backend, PATH=f"{trap}/bin:{os.environ['PATH']}"
    )

    assert done.returncode == 0, done.stderr
    assert not (trap / "mark").exists()


@pytest.mark.parametrize(
    "variables",
    [
        {"XTABLES_LIBDIR": "/nowhere"},
        {"IPTABLES_LIB_DIR": "/nowhere", "IP6TABLES_LIB_DIR": "/nowhere"},
        {"XTABLES_LOCKFILE": "/proc/self/ns/user"},
        {"XTABLES_LOCKFILE": "nowhere/lock"},
        {"LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de"},
        {"PYTHONSTARTUP": "/nowhere", "PYTHONINSPECT": ""},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_variables_of_roots_do_not_reach_what_works_in_a_pod(
    pod: Pod, backend: str, trap: Path, variables: dict[str, str]
) -> None:
    done = run(trap, "apply", "--netns", pod.name, "--force-iptables-binary", backend, **variables)

    assert done.returncode == 0, done.stderr
    assert has_rules_of_ours(pod.inside, backend)


def test_the_drop_in_does_not_run_what_lies_in_the_current_directory(pod: Pod, backend: str, trap: Path) -> None:
    argv = (str(CONSOLE.with_name("istio-iptables")), *INJECTED, "--force-iptables-binary", backend)
    done = subprocess.run(
        ["ip", "netns", "exec", pod.name, *argv], cwd=trap, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert not (trap / "mark").exists()
