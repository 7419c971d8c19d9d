"""Signals that end us, while rules are written: heeded only where nothing is left half done, and what was written goes.

A program of ours that writes is waited for or killed, so that none goes on behind our back. While what was there before
is put back, no signal stops that.
"""

from __future__ import annotations

# The C module: `signal` itself builds enums of every signal, at each start.
import _signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Self

SIGHUP, SIGINT, SIGTERM = 1, 2, 15


class Stopped(BaseException):
    """A signal asks us to end; the argument is its number."""


class Stopping:
    """As a context: while it lasts, signals that would end us are noted, and raise `Stopped` where that is safe."""

    def __init__(self) -> None:
        self._before: dict[int, Callable[[int, FrameType | None], object] | int] = {}
        self._number = 0
        self._waits = False
        self._shielded = False

    def __enter__(self) -> Self:
        global _current
        for number in (SIGHUP, SIGINT, SIGTERM):
            handler = _signal.getsignal(number)
            if handler in (_signal.SIG_IGN, None):
                continue
            try:
                _signal.signal(number, self._note)
            except ValueError:
                break  # Not the main thread, which no signal reaches.
            self._before[number] = handler
        _current = self
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        """Leave as the signal would have it, whatever else failed."""
        global _current
        _current = None
        for number, handler in self._before.items():
            _signal.signal(number, handler)
        if self._number == SIGINT:
            raise KeyboardInterrupt from None
        if self._number:
            raise SystemExit(128 + self._number) from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number = self._number or number
        if self._waits and not self._shielded:
            self._waits = False
            raise Stopped(self._number)

    def shield(self) -> None:
        """From here on nothing is stopped any more."""
        self._shielded = True

    def check(self) -> None:
        """Raise if a signal asks us to end."""
        if self._number and not self._shielded:
            raise Stopped(self._number)

    def waiting(self, waits: bool) -> None:
        """Say that we wait, and may be interrupted, or no longer."""
        self._waits = waits
        if waits:
            self.check()


_current: Stopping | None = None


def check() -> None:
    """Raise `Stopped` if a signal asks us to end, and rules are being written."""
    if _current is not None:
        _current.check()


def waiting(waits: bool) -> None:
    """Say that this process waits for another one, and may be interrupted; or no longer."""
    if _current is not None:
        _current.waiting(waits)
