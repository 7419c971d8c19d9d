"""What a killed test run left behind, and how it is told from what a living one uses.

The names of a process's namespaces have a token in common. A lock on a file of that name says that the process lives:
the kernel drops it with the process, and no process id can be taken for another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from istio_init.testing.processes import SAYING_SO, run

PREFIX = "istio-init-test"
RUN_NETNS = Path("/run/netns")
ETC_NETNS = Path("/etc/netns")


def is_root() -> bool:
    """Whether namespaces are named in /run/netns; without root they are kept by processes alone."""
    return os.geteuid() == 0


@cache
def token() -> str:
    """What the names of this process's namespaces have in common.

    The first time it also removes what processes left behind that do not live any more.
    """
    locks = _locks()
    locks.mkdir(mode=0o700, exist_ok=True)
    with (locks / "all").open("w") as everything:
        fcntl.flock(everything, fcntl.LOCK_EX)
        _sweep(locks)
        made = secrets.token_hex(4)
        own = os.open(locks / made, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(own, fcntl.LOCK_EX)
    return made


def remove(name: str) -> None:
    """Remove a named namespace, the processes in it, and its files below /etc."""
    path = RUN_NETNS / name
    if path.exists():
        kill_inside(path)
        run("ip", "netns", "delete", name, check=False)
    shutil.rmtree(ETC_NETNS / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        ETC_NETNS.rmdir()


def kill_inside(netns: Path) -> None:
    """Kill every process in a network namespace."""
    wanted = netns.stat()
    _kill(lambda process: _same(wanted, process / "ns" / "net"))


def _locks() -> Path:
    if is_root():
        return Path("/run", PREFIX)
    return Path(tempfile.gettempdir(), f"{PREFIX}-{os.geteuid()}")


def _sweep(locks: Path) -> None:
    dead = [path.name for path in locks.iterdir() if path.name != "all" and not _is_locked(path)]
    marks = {f"{SAYING_SO}={each}".encode() for each in dead}
    if marks:
        _kill(lambda process: not marks.isdisjoint(_environment(process)))
    for each in dead:
        (locks / each).unlink()
    if is_root():
        for path in (*RUN_NETNS.glob(f"{PREFIX}-*"), *ETC_NETNS.glob(f"{PREFIX}-*")):
            if not (locks / path.name.removeprefix(f"{PREFIX}-").partition("-")[0]).exists():
                remove(path.name)


def _kill(is_meant: Callable[[Path], bool]) -> None:
    for process in _processes():
        with contextlib.suppress(OSError):
            if is_meant(process):
                os.kill(int(process.name), signal.SIGKILL)


def _processes() -> Iterator[Path]:
    return (each for each in Path("/proc").iterdir() if each.name.isdecimal() and int(each.name) != os.getpid())


def _same(wanted: os.stat_result, path: Path) -> bool:
    found = path.stat()
    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)


def _environment(process: Path) -> list[bytes]:
    return (process / "environ").read_bytes().split(b"\0")


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
