"""Packets on their way through the rules of this machine."""

from __future__ import annotations

import os
import time

_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283}
"""The number of membarrier(2) by machine (the kernel's tables of system calls)."""

_GLOBAL = 1
"""MEMBARRIER_CMD_GLOBAL, which waits for a grace period of RCU (linux/membarrier.h, kernel/sched/membarrier.c)."""

_LONG_ENOUGH = 0.05
"""Seconds to wait where the kernel does not tell."""


def wait() -> None:
    """Wait until no packet is left on its way through a hook that was there when the wait began.

    Each base chain of nf_tables is evaluated as it is when a packet comes to it, so a packet can meet the rules of
    before in one table and those of after in the next. Hooks are run within a reader's section of RCU.
    """
    import ctypes

    number = _MEMBARRIER.get(os.uname().machine)
    if number is None or ctypes.CDLL(None).syscall(ctypes.c_long(number), _GLOBAL, 0, 0) != 0:
        time.sleep(_LONG_ENOUGH)
