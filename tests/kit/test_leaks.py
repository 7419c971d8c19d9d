"""Namespaces end with their tests, however these end, and with pytest, however it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.processes import wait_until

from istio_init.testing.leftovers import ETC_NETNS, PREFIX, RUN_NETNS
from istio_init.testing.processes import SAYING_SO

from .project import command, environment, run_pytest
from .unprivileged import RANGE, run_unprivileged

TESTS = '''
import os, pathlib, socket, time
import pytest
from istio_init.testing import leftovers

def fill(pod):
    """All that a test can leave behind: files, sockets, programs, and what these start."""
    pod.redirect("--dual-stack")
    pod.inside.write_resolv_conf("192.0.2.1")
    pod.inside.open_socket(socket.AF_INET, socket.SOCK_STREAM)
    pod.inside.spawn("sh", "-c", "sleep 987 & sleep 987")
    pod.inside.spawn("setsid", "sh", "-c", "sleep 987 & sleep 987")
    pod.inside.start(lambda: time.sleep(987))
    pathlib.Path(__file__).with_name("token").write_text(leftovers.token())

def test_it(istio_pod, istio_namespace):
    fill(istio_pod)
    END
'''


class Left(NamedTuple):
    """What there is of a run: namespaces with a name, files for them, processes inside or beside."""

    names: list[str]
    files: list[str]
    processes: list[str]


NOTHING = Left([], [], [])


def left_of(token: str) -> Left:
    """What there is of the run that gave its namespaces this token."""
    pattern, mark = f"{PREFIX}-{token}-*", f"{SAYING_SO}={token}".encode()
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                processes.append((process / "cmdline").read_text().replace("\0", " "))
    return Left(
        [each.name for each in RUN_NETNS.glob(pattern)], [each.name for each in ETC_NETNS.glob(pattern)], processes
    )


@pytest.fixture
def directory(as_root: None, tmp_path: Path) -> Path:
    """Where the tests of a run are."""
    return tmp_path


def write(directory: Path, end: str) -> None:
    """A test that makes all there is and then ends in some way."""
    (directory / "test_it.py").write_text(TESTS.replace("END", end))


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("raise RuntimeError", 1),
        ("os.kill(os.getpid(), 2); time.sleep(987)", 2),
        ("raise SystemExit", 1),
        ("pytest.exit('enough', 4)", 4),
    ],
    ids=["passing", "failing", "interrupted", "exiting", "ending the run"],
)
def test_nothing_is_left_of_a_test_that_ends_by(directory: Path, end: str, status: int) -> None:
    write(directory, end)
    done = run_pytest(directory)
    assert done.status == status, done.output
    assert left_of((directory / "token").read_text()) == NOTHING


def test_nothing_is_left_of_a_test_that_takes_too_long(directory: Path) -> None:
    write(directory, "time.sleep(987)")
    done = run_pytest(directory, "--timeout", "4", "--timeout-method", "signal")
    assert "Timeout" in done.output
    assert left_of((directory / "token").read_text()) == NOTHING


@contextlib.contextmanager
def waiting_run(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A run of pytest whose test has made everything, and waits; and its token."""
    write(directory, "time.sleep(987)")
    with subprocess.Popen(
        command(directory), env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    ) as pytest_run:
        try:
            wait_until((directory / "token").exists, 30)
            token = (directory / "token").read_text()
            wait_until(lambda: len(left_of(token).processes) >= 6, 30)
            yield pytest_run, token
        finally:
            pytest_run.kill()


def test_what_a_killed_run_left_is_removed_by_the_next_one(directory: Path) -> None:
    with waiting_run(directory) as (killed, token):
        killed.kill()
        killed.wait()
    assert left_of(token).names, "the kernel removes no name by itself"
    write(directory, "pass")
    assert run_pytest(directory).status == 0
    assert left_of(token) == NOTHING


def test_what_a_living_run_uses_is_left_alone_by_the_next_one(
    directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    with waiting_run(directory) as (living, token):
        # A forked shell is still to become sleep.
        wait_until(lambda: left_of(token).processes.count("sleep 987 ") == 4, 30)
        before = left_of(token)
        write(other, "pass")
        assert run_pytest(other).status == 0
        after = left_of(token)
        assert living.poll() is None
        assert [sorted(each) for each in before] == [sorted(each) for each in after]
        living.send_signal(signal.SIGINT)
        living.wait(timeout=60)
        assert left_of(token) == NOTHING


UNPRIVILEGED = r"""
import os, pathlib, signal, time
from istio_init.testing import leftovers

def count(command):
    return sum(path.read_bytes() == command for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"))

def test_it(istio_pod):
    istio_pod.redirect()
    seconds = str(100_000 + os.getpid())
    istio_pod.inside.spawn("setsid", "sh", "-c", f"sleep {seconds} & sleep {seconds}")
    while count(f"sleep\0{seconds}\0".encode()) < 2:
        time.sleep(0.02)
    print("token", leftovers.token(), flush=True)
    END
"""


@pytest.mark.parametrize(
    "end", ["raise RuntimeError", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["failing", "killed"]
)
def test_without_root_nothing_is_left_either(project: Path, end: str) -> None:
    test = project / "test_it.py"
    test.write_text(UNPRIVILEGED.replace("END", end))
    ended = run_unprivileged(project, "-s", ids=RANGE)
    assert "token " in ended.output, ended.output
    token = ended.output.partition("token ")[2].split()[0]
    if "SIGKILL" in end:
        assert left_of(token).processes, "what left its session outlives a killed run until the next one"
        test.write_text(UNPRIVILEGED.replace("END", "pass"))
        assert run_unprivileged(project, ids=RANGE).status == 0
    assert left_of(token) == NOTHING
