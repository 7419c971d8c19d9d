"""A process as a value."""

from __future__ import annotations

from istio_init.value import Value


class Process(Value):
    """A process of the namespace."""

    pid: int
    name: str
    uid: int
    gid: int
    is_stopped: bool = False
    """Whether a signal or a debugger keeps it from running."""
