"""Processes of a pod's, for tests that look at one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


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
