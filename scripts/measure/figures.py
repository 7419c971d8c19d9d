"""Figures, and how they are shown: times beside those of bare programs, and what whole processes cost."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable


def pairs(rounds: int, ours: Callable[[], float], bare: Callable[[], float]) -> tuple[float, float, float]:
    """Median seconds of both and the median ratio, after one round that does not count."""
    measured = [(ours(), bare()) for _ in range(rounds + 1)][1:]
    return (
        statistics.median(a for a, _ in measured),
        statistics.median(b for _, b in measured),
        statistics.median(a / b for a, b in measured),
    )


def show(what: str, figures: tuple[float, float, float], beside: str, aim: str = "") -> None:
    ours, bare, ratio = figures
    print(
        f"{what:<44} {ours * 1e3:8.1f} ms   {beside:<34} {bare * 1e3:8.1f} ms   ratio {ratio:5.2f}   {aim}", flush=True
    )


class Cost:
    """CPU seconds and megabytes of a whole process, with what it starts; the least of some runs."""

    def __init__(self, argv: list[str], rounds: int = 3) -> None:
        runs = [self._run(argv) for _ in range(rounds)]
        self.seconds = min(seconds for seconds, _ in runs)
        self.megabytes = min(megabytes for _, megabytes in runs)

    @staticmethod
    def _run(argv: list[str]) -> tuple[float, float]:
        sink = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, sink, number) for number in (1, 2)]
        _, status, usage = os.wait4(os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions), 0)
        os.close(sink)
        if os.waitstatus_to_exitcode(status) not in (0, 1, 3):
            raise SystemExit(f"{' '.join(argv)} failed")
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def cost(what: str, argv: list[str], aim: str, rounds: int = 3) -> None:
    """Show what a command costs."""
    ours, bare = Cost(argv, rounds), Cost([sys.executable, "-c", "pass"])
    ratio = ours.seconds / bare.seconds
    print(f"{what:<52} {ours.seconds:7.2f} s {ours.megabytes:6.0f} MB   {ratio:6.1f} times python   {aim}", flush=True)
