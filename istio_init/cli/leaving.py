"""Ends by a signal in the order of an exception, so that what was added for a while is removed again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

NUMBERS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def leaving_in_order() -> Iterator[None]:
    """For the time of the context a signal that ends us raises SystemExit with the shell's status for it."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    changed = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in changed:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
