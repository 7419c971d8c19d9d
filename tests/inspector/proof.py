"""Which kinds of problems the tests show to be found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from istio_init.inspector.findings.model import FindingKind

T = TypeVar("T", bound=Callable[..., None])

proved: set[str] = set()


def proves(kind: FindingKind) -> Callable[[T], T]:
    """Say that a test shows a kind of problem to be found."""

    def note(test: T) -> T:
        proved.add(kind.code)
        return test

    return note
