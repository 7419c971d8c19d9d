"""How a child process gets into a namespace and to a user's ids: the kit's only module that calls setns and unshare.

The calling process is changed for good, so that only children call these.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import NamedTuple

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 0x80000
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class User(NamedTuple):
    """Whom a process or a socket belongs to."""

    uid: int
    gid: int


ROOT = User(0, 0)


class Entrance(NamedTuple):
    """The way into a network namespace."""

    netns: Path
    userns: Path | None = None
    """The user namespace that owns it, where that is entered as well."""

    etc: Path | None = None
    """A directory whose files stand in for those of /etc."""

    def enter(self) -> None:
        """Go in.

        Raises:
            OSError: the kernel refuses.
        """
        if self.userns is not None:
            enter(self.userns, CLONE_NEWUSER)
        enter(self.netns, CLONE_NEWNET)
        if self.etc is not None and self.etc.is_dir():
            _replace_files(self.etc)


def unshare(kinds: int) -> None:
    """Get new namespaces of these kinds.

    Raises:
        OSError: the kernel refuses.
    """
    _check(_libc.unshare(kinds), "unshare")


def become(user: User) -> None:
    """Take a user's ids and drop all other groups.

    Raises:
        OSError: the ids are not mapped in this user namespace.
    """
    with contextlib.suppress(PermissionError):  # A user namespace with one id denies it (user_namespaces(7)).
        os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def end_with_parent(parent: int) -> None:
    """Be killed when the parent ends from now on; the kernel forgets that when ids change.

    By that it means the thread that started this process (PR_SET_PDEATHSIG(2const)).
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError("the process that started this one has ended")


def enter(path: Path, kind: int) -> None:
    """Enter the namespace of a kind that a file stands for.

    Raises:
        OSError: the kernel refuses.
    """
    with path.open() as file:
        _check(_libc.setns(file.fileno(), kind), f"enter {path}")


def _replace_files(directory: Path) -> None:
    """Bind the directory's files over those of /etc, as ip-netns(8) does, for this process alone."""
    unshare(CLONE_NEWNS)
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None), "keep mounts to itself")
    for file in directory.iterdir():
        target = Path("/etc", file.name)
        if target.exists():
            _check(_libc.mount(bytes(file), bytes(target), None, MS_BIND, None), f"bind {file}")


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
