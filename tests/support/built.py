"""What scripts/build makes, made once, whichever of the processes that run tests needs it first."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
EPOCH = 1_700_000_000


class Built(NamedTuple):
    """The files that are handed out."""

    wheel: Path
    sdist: Path
    pyz: Path


def built_in(directory: Path) -> Built:
    """The files, in a directory that all processes of a run of tests share."""
    dist = directory / "dist"
    with open(directory / "dist.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not dist.exists():
            _build(directory / "building")
            (directory / "building").rename(dist)
    [wheel], [sdist], [pyz] = (list(dist.glob(f"*{end}")) for end in (".whl", ".tar.gz", ".pyz"))
    return Built(wheel, sdist, pyz)


def _build(dist: Path) -> None:
    argv = [sys.executable, str(ROOT / "scripts" / "build"), "--dist", str(dist), "wheel", "sdist", "pyz"]
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
