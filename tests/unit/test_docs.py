"""What is generated is as the code has it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from support.command import execute

GENERATOR = Path(__file__).parents[2] / "scripts" / "docs.py"


def test_the_generated_pages_are_current() -> None:
    assert execute(sys.executable, str(GENERATOR), "--check") == (0, "", "")


def test_what_the_page_on_extending_names_is_there() -> None:
    page = (GENERATOR.parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    package = GENERATOR.parents[1] / "istio_init"
    rooms = [package, *(each for each in package.rglob("*") if each.is_dir())]
    named = re.findall(r"`([\w/*]+\.py|(?:istio_init|tests|scripts)/[\w/.*]+|\w+/)`", page)

    assert len(named) > 25
    missing = [
        name for name in named
        if not any(list(room.glob(name)) for room in (GENERATOR.parents[1], GENERATOR.parents[1] / "tests", *rooms))
        and not list((GENERATOR.parents[1] / "tests").rglob(name))
    ]  # fmt: skip
    assert missing == []
