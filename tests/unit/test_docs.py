"""What is generated is as the code has it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from machines.releases import RELEASES
from machines.steps import checks, recorded, whole
from support.command import execute

from istio_init import __version__

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


def test_what_is_recorded_of_other_kernels_is_what_is_run_in_them() -> None:
    machines = json.loads((GENERATOR.parents[1] / "docs" / "support.json").read_text())

    assert {each["machine"].removesuffix("-native") for each in machines} == set(RELEASES)
    for each in machines:
        names = [step.what for step in checks(xtables=each["x_tables"])]
        more = [step.what for make in (whole, recorded) for step in make(xtables=each["x_tables"])]
        assert set(each["checks"]) <= {*names, *more}
        assert [name for name in each["checks"] if name in names] == names


def test_the_changes_begin_with_the_version_that_this_is() -> None:
    headings = re.findall(r"^## (.+)$", (GENERATOR.parents[1] / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert re.fullmatch(rf"{re.escape(__version__)} \((unreleased|\d{{4}}-\d\d-\d\d)\)", headings[0])
    assert f"VERSION={__version__}" in (GENERATOR.parents[1] / "Containerfile").read_text()
