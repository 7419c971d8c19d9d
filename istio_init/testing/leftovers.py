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
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from istio_init.testing.hiding import tells_of_the_test
from istio_init.testing.owners import Unavailable
from istio_init.testing.processes import SAYING_SO, run

__tracebackhide__ = tells_of_the_test

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

    Raises:
        Unavailable: there is no directory for the locks; see `directory`.
    """
    locks = directory()
    everything = _open(locks / "all", os.O_CREAT)
    try:
        fcntl.flock(everything, fcntl.LOCK_EX)
        _sweep(locks)
        made = secrets.token_hex(4)
        fcntl.flock(_open(locks / made, os.O_CREAT), fcntl.LOCK_EX)
    finally:
        os.close(everything)
    return made


def directory() -> Path:
    """Where the locks are, and what namespaces without names have below /etc: a directory of this user's alone.

    Raises:
        Unavailable: at its place is something else, which another user may have put there.
    """
    path = _place()
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if is_root():
            path.chmod(0o700)  # Nobody else makes anything in /run, but a umask may have let them look.
        found = path.lstat()
    except OSError as error:
        raise Unavailable(f"{path} cannot be made: {error.strerror}") from None
    if not _is_private(found):
        raise Unavailable(f"{path} is not a directory of user {os.geteuid()} alone (mode 0700): remove it")
    return path


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


def _place() -> Path:
    if is_root():
        return Path("/run", PREFIX)
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    with contextlib.suppress(OSError):
        if runtime.is_absolute() and _is_private(runtime.lstat()):
            return runtime / PREFIX
    return Path(tempfile.gettempdir(), f"{PREFIX}-{os.geteuid()}")


def _is_private(found: os.stat_result) -> bool:
    """Whether it is a directory that belongs to this user, and in which nobody else may do anything."""
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _open(path: Path, flags: int = 0) -> int:
    """Open a lock's file, and never what a link leads to."""
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)


def _sweep(locks: Path) -> None:
    files = [path for path in locks.iterdir() if stat.S_ISREG(path.lstat().st_mode)]
    dead = [path.name for path in files if path.name != "all" and not _is_locked(path)]
    marks = {f"{SAYING_SO}={each}".encode() for each in dead}
    if marks:
        _kill(lambda process: not marks.isdisjoint(_environment(process)))
    for each in dead:
        (locks / each).unlink()
    places = (RUN_NETNS, ETC_NETNS) if is_root() else (locks,)
    for path in [path for place in places for path in place.glob(f"{PREFIX}-*")]:
        if not (locks / path.name.removeprefix(f"{PREFIX}-").partition("-")[0]).exists():
            if is_root():
                remove(path.name)
            else:
                shutil.rmtree(path, ignore_errors=True)


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
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
