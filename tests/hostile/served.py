"""A file system that a process of a pod's serves itself (fuse(4)): it answers what it likes, or never.

A process that waits for an answer cannot be ended, not even by SIGKILL, until the one that serves has gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

from support.processes import sleeping

from istio_init.testing.entering import Entrance

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, INTERRUPT, BATCH_FORGET = (
    1, 2, 3, 14, 15, 17, 18, 25, 26, 36, 42,
)  # fmt: skip
"""linux/fuse.h"""

CLONE_NEWUTS = 0x04000000
SIZE = 1 << 40
MNT_DETACH = 2
HEADER = struct.Struct("=IIQQIIII")
NAMES = {"lookup": LOOKUP, "getattr": GETATTR, "open": OPEN, "read": READ}


def living_in(root: Path, namespace: str) -> contextlib.AbstractContextManager[int]:
    """A process in a network namespace, whose root and UTS namespace are its own."""

    def prepare() -> None:
        ctypes.CDLL(None).unshare(CLONE_NEWUTS)
        Entrance(Path(f"/run/netns/{namespace}"), None, Path("/nonexistent")).enter()
        os.chroot(root)
        os.chdir("/")

    return sleeping(prepare)


@contextlib.contextmanager
def served(directory: Path, text: bytes, silent: str | None = None) -> Iterator[None]:
    """Every name in a directory is a file of a terabyte that holds ``text`` over and over.

    A kind of request (lookup, getattr, open, read) may be one that is never answered.
    """
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"served", os.fsencode(directory), b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            _serve(device, text, NAMES.get(silent or ""))
        os._exit(0)
    os.close(device)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        libc.umount2(os.fsencode(directory), MNT_DETACH)


def _serve(device: int, text: bytes, silent: int | None) -> None:
    while True:
        request = os.read(device, 1 << 20)
        _, kind, unique, node, *_ = HEADER.unpack_from(request)
        if kind in (FORGET, INTERRUPT, BATCH_FORGET, silent):
            continue
        error, body = _answer(kind, node, request[HEADER.size :], text)
        os.write(device, struct.pack("=IiQ", 16 + len(body), -error, unique) + body)


def _answer(kind: int, node: int, body: bytes, text: bytes) -> tuple[int, bytes]:
    match kind:
        case 26:
            return 0, struct.pack("=IIIIHHIIHH", 7, 31, 0, 0, 16, 12, 1 << 16, 1, 256, 0) + bytes(28)
        case 1:
            return 0, struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + _attributes(2)
        case 3:
            return 0, struct.pack("=QII", 0, 0, 0) + _attributes(node)
        case 14:
            return 0, struct.pack("=QII", 1, 0, 0)
        case 15:
            _, offset, size = struct.unpack_from("=QQI", body)
            start = offset % len(text)
            return 0, (text * (size // len(text) + 2))[start : start + size]
        case 17:
            return 0, bytes(80)
        case 18 | 25:
            return 0, b""
    return 38, b""


def _attributes(node: int) -> bytes:
    """A directory of the first number; any other is a file."""
    mode = 0o40755 if node == 1 else 0o100644
    return struct.pack("=QQQQQQIIIIIIIIII", node, SIZE, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
