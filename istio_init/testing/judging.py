"""Attempts of which nothing was said yet: a test that ends with one has sent nothing, and proved nothing."""

from __future__ import annotations

import sys
from typing import NamedTuple

OWN = __name__.rpartition(".")[0]


class Made(NamedTuple):
    """An attempt, in words, and the line of the test that made it."""

    words: str
    line: str


_open: dict[int, tuple[object, Made]] = {}
"""By identity, which is an attempt's own as long as it is held here."""


def made(attempt: object, words: str) -> None:
    """Note an attempt that was just made."""
    _open[id(attempt)] = (attempt, Made(words, _calling_line()))


def judged(attempt: object) -> None:
    """Something is said of it."""
    _open.pop(id(attempt), None)


def take() -> list[Made]:
    """The attempts of which nothing was said since the last call."""
    found = [each for _, each in _open.values()]
    _open.clear()
    return found


def _calling_line() -> str:
    """The line that called the kit."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(f"{OWN}."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
