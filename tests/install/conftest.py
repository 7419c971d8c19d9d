"""What scripts/build makes, made once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
EPOCH = 1_700_000_000


class Built(NamedTuple):
    """The files that are handed out."""

    wheel: Path
    sdist: Path
    pyz: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    dist = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, str(ROOT / "scripts" / "build"), "--dist", str(dist), "wheel", "sdist", "pyz"]
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel], [sdist], [pyz] = (list(dist.glob(f"*{end}")) for end in (".whl", ".tar.gz", ".pyz"))
    return Built(wheel, sdist, pyz)
