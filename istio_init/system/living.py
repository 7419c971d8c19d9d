"""Where /proc tells of a process whose first thread has ended, as anybody can have it do: the others live on.

What ended has neither namespaces nor files any more; each of the others still has those of the process.
"""

from __future__ import annotations

import os


def directory(pid: int) -> str:
    """The directory of a process, or that of a thread of it where the first one has ended."""
    own = f"/proc/{pid}"
    try:
        os.stat(f"{own}/ns/net")
    except FileNotFoundError:
        return next((each for each in _threads(own, str(pid)) if _is_living(each)), own)
    except OSError:
        pass
    return own


def network(pid: int) -> int:
    """The number of a process's network namespace.

    Raises:
        OSError: it has ended, or access is denied.
    """
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except FileNotFoundError:
        return os.stat(f"{directory(pid)}/ns/net").st_ino


def _threads(own: str, first: str) -> list[str]:
    try:
        return [f"{own}/task/{each}" for each in os.listdir(f"{own}/task") if each != first]
    except OSError:
        return []


def _is_living(thread: str) -> bool:
    try:
        os.stat(f"{thread}/ns/net")
    except OSError:
        return False
    return True
