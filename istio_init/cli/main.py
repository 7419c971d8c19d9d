"""Dispatches to a command. The drop-in starts on its own path: it needs nothing of what the others are built with."""

from __future__ import annotations

import sys

from istio_init.cli import DROPIN

INTERRUPTED = 130


def main() -> int:
    """The console script ``istio-init``."""
    if sys.argv[1:2] == [DROPIN]:
        return _guarded(sys.argv[2:])
    try:
        from istio_init.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED


def istio_iptables() -> int:
    """The console script ``istio-iptables``."""
    return _guarded(sys.argv[1:])


def _guarded(argv: list[str]) -> int:
    from istio_init.cli.dropin import run

    return run(argv)
