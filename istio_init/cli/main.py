"""Dispatches to a command. The drop-in starts on its own path: it needs nothing of what the others are built with."""

from __future__ import annotations

import gc
import sys

from istio_init.cli import DROPIN

INTERRUPTED = 130
SELDOM = (200_000, 20, 100)
"""How often garbage is collected: values of rules hold no cycles, and looking for some takes a third of the time."""


def main() -> int:
    """The console script ``istio-init``."""
    if sys.argv[1:2] == [DROPIN]:
        return _guarded(sys.argv[2:])
    gc.set_threshold(*SELDOM)
    try:
        from istio_init.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED


def istio_iptables() -> int:
    """The console script ``istio-iptables``."""
    return _guarded(sys.argv[1:])


def _guarded(argv: list[str]) -> int:
    gc.set_threshold(*SELDOM)
    from istio_init.cli.dropin import run

    try:
        return run(argv)
    finally:
        gc.freeze()  # At its end the interpreter would look through all that is left for cycles.
