"""Which errors of the kit a traceback shows from the user's line alone.

A module of the kit says ``__tracebackhide__ = tells_of_the_test``: pytest then leaves out its frames where the error is
one that the test brought about. Of any other error, a fault of the kit's, they are shown.
"""

from __future__ import annotations

from typing import Protocol


class Caught(Protocol):
    """What pytest hands over: its ExceptionInfo, without which the kit works as well."""

    @property
    def value(self) -> BaseException:
        """The error."""


def tells_of_the_test(caught: Caught) -> bool:
    """Whether an error says what the test asked for, or what came of it."""
    from istio_init.testing.owners import Unavailable
    from istio_init.testing.processes import CommandError, WorkerError

    return isinstance(caught.value, (AssertionError, CommandError, OSError, Unavailable, ValueError, WorkerError))
