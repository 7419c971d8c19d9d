"""A note that rules are being written in a namespace. Only a run that is killed leaves it, and the next one says so.

It is an empty file of root's own, named by the number that the kernel gives a network namespace and never again until
the machine boots (SO_NETNS_COOKIE, Linux 5.14). Where there is no such number, or nowhere to write, nothing is noted.
"""

from __future__ import annotations

# The C module: `socket` itself builds four enums of every constant, at each start.
import _socket
import os
import stat
import sys
import time

DIRECTORY = "/run/istio-init"
SO_NETNS_COOKIE = 71
"""asm-generic/socket.h"""


class Note:
    """The note of the current network namespace."""

    def __init__(self) -> None:
        number = _number()
        self._path = None if number is None else f"{DIRECTORY}/{number}"

    def left(self) -> float | None:
        """When a run began that was killed at writing; None where none was, as far as is known."""
        if self._path is None:
            return None
        try:
            status = os.lstat(self._path)
        except OSError:
            return None
        is_of_this_boot = time.time() - status.st_mtime < time.clock_gettime(time.CLOCK_BOOTTIME)
        return status.st_mtime if is_of_this_boot and status.st_uid == os.geteuid() else None

    def begin(self) -> None:
        """Note that rules are being written from now on."""
        if self._path is None:
            return
        try:
            if not _is_ours():
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(self._path, flags, 0o600)
            try:
                os.utime(file)
            finally:
                os.close(file)
        except OSError:
            self._path = None

    def end(self) -> None:
        """Note that the rules are whole again."""
        if self._path is not None:
            try:
                os.unlink(self._path)
            except OSError:
                pass


def _is_ours() -> bool:
    """Whether there is the directory, and nobody else can put anything into it."""
    try:
        os.mkdir(DIRECTORY, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(DIRECTORY)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _number() -> int | None:
    """The kernel's number of the current network namespace."""
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
    try:
        return int.from_bytes(channel.getsockopt(_socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder) or None
    except OSError:
        return None
    finally:
        channel.close()
