"""A project that is not ours: a directory of tests that only has the installed kit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parent.parent.parent
PAGE = CHECKOUT / "docs" / "testing.md"


def example() -> str:
    """The test file that the kit's page shows."""
    found = re.search(r"^```python\n(# test_.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None, f"{PAGE} shows no test file"
    return found[1]


class Outcome(NamedTuple):
    """How a run of pytest ended."""

    status: int
    output: str


def command(directory: Path, *flags: str, python: str = sys.executable) -> list[str]:
    """How pytest is run there, without any plugin or setting of ours."""
    settings = ("-p", "no:cacheprovider", "-rs", "--rootdir", str(directory), "-c", os.devnull)
    return [python, "-B", "-m", "pytest", *settings, *flags, str(directory)]


def environment(**more: str) -> dict[str, str]:
    """The environment of a user who has set nothing."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **more}


def run_pytest(directory: Path, *flags: str, python: str = sys.executable, timeout: float = 120) -> Outcome:
    """Run the tests of a directory."""
    done = subprocess.run(
        command(directory, *flags, python=python),
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout)
