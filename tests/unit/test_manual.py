"""The manual pages and the examples say what there is, and a reader of manual pages takes them."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import click
import pytest

from istio_init.cli import DROPIN
from istio_init.cli.app import COMMANDS, cli
from istio_init.cli.examples import EXAMPLES
from istio_init.cli.manual import manual
from istio_init.options import DROPIN_OPTIONS, OPTIONS

PAGES = ("istio-init", "istio-iptables")
FORMATTERS = {"groff": ["groff", "-ww", "-man", "-Tutf8"], "mandoc": ["mandoc", "-W", "warning"]}
WITHOUT = {DROPIN, "help", "version"}
"""Commands that need no example."""


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("formatter", [name for name in FORMATTERS if shutil.which(name)])
def test_a_page_is_formatted_without_a_warning(formatter: str, page: str) -> None:
    done = subprocess.run(FORMATTERS[formatter], input=manual(page), capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    assert page in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_no_line_of_text_is_taken_for_a_request(page: str) -> None:
    requests = {"TH", "nh", "ad", "SH", "SS", "B", "PP", "TP", "nf", "fi", "RS", "RE", "br"}

    lines = [line for line in manual(page).split("\n") if line[:1] in (".", "'")]
    assert {line[1:].partition(" ")[0] for line in lines} <= requests


def test_the_drop_ins_page_has_every_flag_and_variable() -> None:
    page = manual("istio-iptables").replace("\\-", "-")

    for option in (*OPTIONS, *DROPIN_OPTIONS):
        assert all(name in page for name in (option.flag, option.short, *option.env) if name)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT])
def test_the_help_of_a_command_ends_with_examples_of_it(name: str) -> None:
    context = click.Context(command(name), info_name=name, max_content_width=80)
    shown = command(name).get_help(context).partition("Examples:\n")[2]

    assert [line.strip() for line in shown.splitlines()] == list(EXAMPLES[name])


@pytest.mark.parametrize("example", [each for examples in EXAMPLES.values() for each in examples])
def test_an_example_has_options_that_exist_and_fits_into_80_columns(example: str) -> None:
    words = shlex.split(example.replace('"$(', "").replace(')"', ""))
    found = command(words[words.index("istio-init") + 1])
    known = {name for each in found.params for name in each.opts}
    if found.name == "render":  # Which reads them as istio-iptables does.
        known |= {name for option in OPTIONS for name in (option.short, option.flag) if name is not None}

    assert {word.partition("=")[0] for word in words if word.startswith("-") and " " not in word} - {"-l", "-"} <= known
    assert len(example) <= 78
