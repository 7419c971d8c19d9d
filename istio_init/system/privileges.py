"""What this process may do: its capabilities (capabilities(7)), and making sockets as another user."""

from __future__ import annotations

import os
from contextlib import contextmanager

from istio_init.system import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = {"SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "SYS_ADMIN": 21}


def capabilities() -> frozenset[str]:
    """Those of the effective capabilities that matter here, without ``CAP_``."""
    with open("/proc/thread-self/status") as file:
        bits = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return frozenset(name for name, number in NUMBERS.items() if bits >> number & 1)


@contextmanager
def acting_as(ids: tuple[int, int] | None) -> Iterator[None]:
    """Make sockets as this user and group, which is whom ``-m owner`` asks for; None: as we are.

    In a pod with a user namespace of its own the ids are the pod's.

    Raises:
        OSError: the ids are not mapped here, or may not be taken.
    """
    before = os.geteuid(), os.getegid()
    if ids is not None:
        ids = namespaces.outside_id(ids[0]), namespaces.outside_id(ids[1], groups=True)
    if ids is None or ids == before:
        yield
        return
    os.setegid(ids[1])
    try:
        os.seteuid(ids[0])
        try:
            yield
        finally:
            os.seteuid(before[0])
    finally:
        os.setegid(before[1])
