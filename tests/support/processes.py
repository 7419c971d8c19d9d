"""Processes of a pod's, for tests that look at one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def sleeping(prepare: Callable[[], object]) -> Iterator[int]:
    """A child that is prepared and then sleeps; its process id. The test may kill it."""
    ready, begun = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            prepare()
            os.write(begun, b"!")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(begun)
    try:
        assert os.read(ready, 1) == b"!"
        yield pid
    finally:
        os.close(ready)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def own_children() -> list[int]:
    """The child processes of this one, those that have ended and were not waited for among them."""
    tasks = Path("/proc/self/task")
    return sorted(int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split())


def wait_until_reading(pid: int) -> None:
    """Wait until a process sleeps in a read of its standard input."""
    wait_until(lambda: Path(f"/proc/{pid}/syscall").read_text().startswith("0 0x0 "))


PATIENCE = 60
"""Seconds that something may take on a busy machine."""


def wait_until(condition: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Wait for what has to happen soon; what was seen then."""
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return seen
