"""The processes that run on this node, from /proc."""

from __future__ import annotations

import os

from istio_init.system.processes import Process
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CUT_OFF = 15
"""Bytes of a process's name that the kernel keeps; the command line tells the rest of a longer one."""
LONGEST = 4096
"""Bytes of a command line that are read; a process can have two megabytes of it."""

STOPPED = frozenset("Tt")
"""States of a process that a signal or a debugger has stopped (proc_pid_stat(5))."""

PATIENCE = 2.0
"""Seconds for all command lines."""


class Running(Value):
    """A process, and when it was started: clock ticks since the kernel was."""

    process: Process
    started: int

    @property
    def pid(self) -> int:
        return self.process.pid


def running() -> Iterator[Running]:
    """All processes that /proc shows, by number, with the ids that they act with, but for those that end meanwhile."""
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            found.append(_running(pid))
        except (OSError, LookupError, ValueError):
            continue
    programs = _programs([each.pid for each in found if len(os.fsencode(each.process.name)) >= CUT_OFF])
    for each in found:
        program, name = programs.get(each.pid, ""), each.process.name
        whole = program.startswith(name) and program != name
        yield each.replace(process=each.process.replace(name=program)) if whole else each


def _running(pid: int) -> Running:
    """proc_pid_stat(5): the name is the process's own choice and may hold whatever the rest is made of."""
    text = _start_of(f"/proc/{pid}/stat")
    name = text[text.index("(") + 1 : text.rindex(")")]
    state, *rest = text[text.rindex(")") + 2 :].split()
    started = int(rest[18])
    lines = dict(line.partition(":\t")[::2] for line in _start_of(f"/proc/{pid}/status").split("\n"))
    uid, gid = (int(lines[key].split()[1]) for key in ("Uid", "Gid"))
    return Running(Process(pid, name, uid, gid, state in STOPPED), started)


def _programs(pids: list[int]) -> dict[int, str]:
    """The programs of processes by their command lines; none where these cannot be read in time.

    A command line is memory of the process, which it can keep locked for as long as it likes: a child reads.
    """
    if not pids:
        return {}
    from istio_init.system.workers import bytes_within

    def read() -> bytes:
        return b"\0".join([f"{pid}/{_program(pid)}".encode(errors="surrogateescape") for pid in pids])

    told = bytes_within(PATIENCE, read, most=len(pids) * (LONGEST + 32)) or b""
    lines = [os.fsdecode(each).partition("/") for each in told.split(b"\0") if each]
    return {int(pid): program for pid, _, program in lines}


def _program(pid: int) -> str:
    try:
        return os.path.basename(_start_of(f"/proc/{pid}/cmdline").partition("\0")[0])
    except OSError:
        return ""


def _start_of(path: str) -> str:
    with open(path, "rb") as file:
        return os.fsdecode(file.read(LONGEST))
