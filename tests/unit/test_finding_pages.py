"""Each finding has a page, which the command prints and docs/findings.md is made of."""

from __future__ import annotations

import json

import pytest
from support.command import istio_init

from istio_init.inspector.findings.catalogue import KINDS
from istio_init.report.finding_pages import pages

from .test_cli import validate


@pytest.mark.parametrize("code", [kind.code for kind in KINDS])
def test_a_page_says_what_it_is_about_with_an_example_of_it(code: str) -> None:
    page = pages()[code]

    assert page.meaning.endswith(".")
    assert page.ignore.endswith(".")
    assert page.example[0].endswith(f" {page.kind.title} [{code}]")
    assert len(page.example) > 1


def test_the_command_lists_all() -> None:
    shown = istio_init("findings").ok().stdout.splitlines()

    assert [line.split()[0] for line in shown] == [kind.code for kind in KINDS]


def test_the_command_prints_a_page() -> None:
    shown = istio_init("findings", "loopback-down").ok().stdout

    assert shown.startswith("loopback-down (error)\n\nThe loopback interface is down, or has no address.\n\n")
    assert [line.partition(":")[0] for line in shown.splitlines() if ":" in line if line[0] != " "] == [
        "Example",
        "Impact",
        "Cure",
        "When to ignore it",
    ]


def test_a_wrong_code_is_refused_with_one_like_it() -> None:
    done = istio_init("findings", "no-listner")

    assert done.status == 2
    assert "'no-listner': there is no such finding; did you mean no-listener?" in done.stderr


@pytest.mark.parametrize(("words", "count"), [((), len(KINDS)), (("no-listener",), 1)])
def test_pages_are_data_that_fits_its_schema(words: tuple[str, ...], count: int) -> None:
    value = json.loads(istio_init("findings", *words, "--format", "json").ok().stdout)

    validate("findings.schema.json", value)
    assert len(value["findings"]) == count
