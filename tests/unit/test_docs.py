"""What is generated is as the code has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from machines.releases import RELEASES
from machines.steps import checks, recorded, whole
from support.command import execute

GENERATOR = Path(__file__).parents[2] / "scripts" / "docs.py"


def test_the_generated_pages_are_current() -> None:
    assert execute(sys.executable, str(GENERATOR), "--check") == (0, "", "")


def test_what_is_recorded_of_other_kernels_is_what_is_run_in_them() -> None:
    machines = json.loads((GENERATOR.parents[1] / "docs" / "support.json").read_text())

    assert {each["machine"].removesuffix("-native") for each in machines} == set(RELEASES)
    for each in machines:
        names = [step.what for step in checks(xtables=each["x_tables"])]
        more = [step.what for make in (whole, recorded) for step in make(xtables=each["x_tables"])]
        assert set(each["checks"]) <= {*names, *more}
        assert [name for name in each["checks"] if name in names] == names
