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
"""Bytes of a command line that are read: a process can have two megabytes of it."""


class Running(Value):
    """A process, and when it was started: clock ticks since the kernel was."""

    process: Process
    started: int

    @property
    def pid(self) -> int:
        return self.process.pid


def running() -> Iterator[Running]:
    """All processes that /proc shows, by number, with the ids that they act with, but for those that end meanwhile."""
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            yield _running(pid)
        except (OSError, LookupError, ValueError):
            continue


def _running(pid: int) -> Running:
    """proc_pid_stat(5): the name is the process's own choice and may hold whatever the rest is made of."""
    text = _start_of(f"/proc/{pid}/stat")
    name = text[text.index("(") + 1 : text.rindex(")")]
    started = int(text[text.rindex(")") + 2 :].split()[19])
    lines = dict(line.partition(":\t")[::2] for line in _start_of(f"/proc/{pid}/status").split("\n"))
    uid, gid = (int(lines[key].split()[1]) for key in ("Uid", "Gid"))
    return Running(Process(pid, _whole(pid, name), uid, gid), started)


def _whole(pid: int, name: str) -> str:
    if len(os.fsencode(name)) < CUT_OFF:
        return name
    try:
        program = os.path.basename(_start_of(f"/proc/{pid}/cmdline").partition("\0")[0])
    except OSError:
        return name
    return program if program.startswith(name) else name


def _start_of(path: str) -> str:
    with open(path, "rb") as file:
        return os.fsdecode(file.read(LONGEST))
