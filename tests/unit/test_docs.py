"""What is generated is as the code has it."""

from __future__ import annotations

import sys
from pathlib import Path

from support.command import execute

GENERATOR = Path(__file__).parents[2] / "scripts" / "docs.py"


def test_the_generated_pages_are_current() -> None:
    assert execute(sys.executable, str(GENERATOR), "--check") == (0, "", "")
