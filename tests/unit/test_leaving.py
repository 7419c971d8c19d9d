"""Signals that end a run which added something for a while."""

from __future__ import annotations

import os
import signal

import pytest

from istio_init.cli.leaving import leaving_in_order


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_an_exception_does(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # nohup ignores one of them.
    try:
        with pytest.raises(SystemExit) as ended, leaving_in_order():
            os.kill(os.getpid(), number)
        left = signal.getsignal(number)
    finally:
        signal.signal(number, before)

    assert ended.value.code == 128 + number
    assert left is signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with leaving_in_order():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
