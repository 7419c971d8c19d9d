"""Standard streams that were closed before the program began, or that cannot be written to."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TextIO

FAILED = 1


def open_streams() -> None:
    """Have each that is closed lead nowhere: else the next file that is opened is taken for standard output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - to the end


def output_lost(error: OSError) -> int:
    """Say that output cannot be written, but of a reader that left; the exit status.

    The interpreter would try again at its end, and complain; what is left of it is let go.
    """
    _let_go(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        why = f"the output cannot be written: {error.strerror}" if error.errno == errno.ENOSPC else str(error)
        with contextlib.suppress(OSError):
            sys.stderr.write(f"istio-init: {why}\n")
            sys.stderr.flush()
            return FAILED
    _let_go(sys.stderr)
    return FAILED


def _let_go(stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # One that somebody put in its place may have no descriptor.
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
