"""Children of ours that not even SIGKILL ends, as they wait for a file system that a pod serves itself.

Whoever looks at a node again and again would leave one more with each look. So it keeps whom they wait for, and asks
those nothing more until they answer, or are gone. Children of children add to it, through a pipe.
"""

from __future__ import annotations

import contextlib
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NOTE = struct.Struct("=QQIB")
"""The network namespace that is asked, when the child was started, its number, whether it looks at all there is."""

_pipe: tuple[int, int] | None = None
_known: dict[int, set[tuple[int, int, bool]]] = {}
_asked: int | None = None


def remember() -> None:
    """Keep from now on whom children wait for; without that nobody looks twice, and nothing is kept."""
    global _pipe
    if _pipe is None:
        _pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


@contextlib.contextmanager
def asking(netns: int | None) -> Iterator[None]:
    """Say whom the work in between asks."""
    global _asked
    before, _asked = _asked, netns
    try:
        yield
    finally:
        _asked = before


def is_hopeless() -> bool:
    """Whether a child waits already for whom we ask."""
    return _asked in _known


def is_known(netns: int, *, wholly: bool = False) -> bool:
    """Whether a child waits for what is in a namespace: for a file, or ``wholly`` one that looks at all of it."""
    return any(each[2] for each in _known.get(netns, ())) if wholly else netns in _known


def left(pid: int, netns: int | None = None, *, wholly: bool = False) -> None:
    """Say that a child of ours may be left to its fate; whether it was is seen when these are collected."""
    netns = _asked if netns is None else netns
    started = _started(pid)
    if _pipe is None or netns is None or started is None:
        return
    with contextlib.suppress(OSError):  # So many of them that the pipe is full.
        os.write(_pipe[1], NOTE.pack(netns, started, pid, wholly))


def collect() -> set[int]:
    """The namespaces that do not answer now: those that were added, but for those whose children have ended."""
    if _pipe is not None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(_pipe[0], NOTE.size):
                netns, started, pid, wholly = NOTE.unpack(data)
                _known.setdefault(netns, set()).add((pid, started, bool(wholly)))
    for netns, children in list(_known.items()):
        _known[netns] = {each for each in children if _started(each[0]) == each[1]}
        if not _known[netns]:
            del _known[netns]
    return set(_known)


def _started(pid: int) -> int | None:
    """When a process was started; None where it is no more, though its parent may not have asked for it yet."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
