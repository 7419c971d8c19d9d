"""Processes as /proc has them, whatever they call themselves."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from istio_init.system import running as module
from istio_init.system.running import Running, running

NAMES = ["plain", "a) R 1 2 (b", "two words", "line\nbreak", "Uid:\t0", "\udcff"]


def found(pid: int) -> Running:
    (one,) = (each for each in running() if each.pid == pid)
    return one


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_looks_like_fields_of_the_kernel_s_is_a_name(name: str) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with open("/proc/self/comm", "wb") as file:
            file.write(os.fsencode(name))
        os.write(writing, b".")
        signal.pause()
    try:
        os.read(reading, 1)
        one = found(child)
        assert (one.process.name, one.process.uid, one.process.gid) == (name, os.geteuid(), os.getegid())
        assert one.started >= found(os.getpid()).started
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


LONG = "a-name-of-more-than-fifteen-bytes"


@pytest.mark.parametrize(("seconds", "name"), [(0, LONG), (60, LONG[:15])])
def test_a_name_that_the_kernel_cut_off_is_completed_from_the_command_line_if_that_is_told_in_time(
    seconds: int, name: str, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who keeps the memory of a process locked lets nobody read it."""
    read = module._program

    def program_of(pid: int) -> str:
        time.sleep(seconds)
        return read(pid)

    monkeypatch.setattr(module, "PATIENCE", 5.0 if not seconds else 0.3)
    monkeypatch.setattr(module, "_program", program_of)
    program = os.path.join(tmp_path, LONG)
    os.symlink(sys.executable, program)
    pid = os.posix_spawn(program, [program, "-c", "import signal; signal.pause()"], os.environ)
    try:
        assert found(pid).process.name == name
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
