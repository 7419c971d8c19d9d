"""Dispatches to a command. The drop-in starts on its own path: it needs nothing of what the others are built with."""

from __future__ import annotations

import gc
import sys

from istio_init.cli import DROPIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED, FAILED = 130, 1
SELDOM = (200_000, 20, 100)
"""How often garbage is collected: values of rules hold no cycles, and looking for some takes a third of the time."""


def main() -> int:
    """The console script ``istio-init``."""
    if sys.argv[1:2] == [DROPIN]:
        return _ended(_drop_in, sys.argv[2:])
    return _ended(_command, sys.argv[1:], INTERRUPTED)


def istio_iptables() -> int:
    """The console script ``istio-iptables``."""
    return _ended(_drop_in, sys.argv[1:])


def _command(argv: list[str]) -> int:
    from istio_init.cli.app import run

    return run(argv)


def _drop_in(argv: list[str]) -> int:
    from istio_init.cli.dropin import run

    try:
        return run(argv)
    finally:
        gc.freeze()  # At its end the interpreter would look through all that is left for cycles.


def _ended(run: Callable[[list[str]], int], argv: list[str], interrupted: int = FAILED) -> int:
    """Run it; what it printed is written then, or cannot be."""
    gc.set_threshold(*SELDOM)
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        from istio_init.cli.streams import open_streams

        open_streams()
    try:
        try:
            status = run(argv)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            status = interrupted
        sys.stdout.flush()
        sys.stderr.flush()
        return status
    except OSError as error:
        from istio_init.cli.streams import output_lost

        return output_lost(error)
