"""A process of others, pinned by its directory in /proc before anything of it is read.

A process id that is used again leads nowhere then. What is read there may never come, as memory of others can be any
file system's: to be done in a child that has a time for it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from istio_init.system import living

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

PROXIES = frozenset(["pilot-agent", "envoy", "istio-proxy", "istio-agent"])
"""Processes whose environment says of their pod what the injection template put there."""


@contextmanager
def pinned(pid: int) -> Iterator[str | None]:
    """The path of a process's directory, which stays its own; None where there is none that we may see."""
    try:
        directory = os.open(living.directory(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield f"/proc/self/fd/{directory}"
    finally:
        os.close(directory)


def beginning(path: str, most: int) -> bytes:
    """So many bytes of a file of /proc, which gives them page by page.

    Raises:
        OSError: it cannot be read.
    """
    data = b""
    with open(path, "rb", buffering=0) as file:
        while len(data) < most and (more := file.read(most - len(data))):
            data += more
    return data


def variables(environment: bytes, wanted: Container[str]) -> dict[str, str]:
    """Those of an environment that are wanted; of one that stands there twice the first, as getenv(3) finds it."""
    found: dict[str, str] = {}
    for each in environment.split(b"\0"):
        name, equals, value = each.decode(errors="replace").partition("=")
        if equals and name in wanted:
            found.setdefault(name, value)
    return found
