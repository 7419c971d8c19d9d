"""What the README and the pages show is what the program takes and prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.command import PROGRAM, execute

from istio_init.cli.app import cli

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "README.ja.md", *sorted((ROOT / "docs").glob("*.md"))]

COMMAND = re.compile(r"^    (?:\$ )?(istio-init .+)$")
OF_NO_NAMESPACE = ("istio-init trace", "istio-init map", "istio-init diff", "istio-init render")
PLACED = re.compile(r"--(netns|pid|file|live|pod|batch)\b|istio-init diff [^\"-]|shop/|\$")


def commands(page: Path) -> list[str]:
    """The command lines of a page."""
    return [found[1] for line in page.read_text().splitlines() if (found := COMMAND.match(line))]


def shown(page: Path) -> Iterator[tuple[str, str]]:
    """The commands that look at no namespace and whose output is shown, and the output."""
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        found = COMMAND.match(line)
        if not found or "$ " not in line[:6] or PLACED.search(found[1]) or not found[1].startswith(OF_NO_NAMESPACE):
            continue
        output = []
        for each in lines[number + 1 :]:
            if not each.startswith("    ") or COMMAND.match(each):
                break
            output.append(each[4:])
        yield found[1], "\n".join(output)


SHOWN = [(page.name, *each) for page in PAGES for each in shown(page)]


@pytest.mark.parametrize(("page", "command", "output"), SHOWN, ids=[f"{page}: {command}" for page, command, _ in SHOWN])
def test_what_a_page_shows_is_what_the_command_prints(page: str, command: str, output: str) -> None:
    script = f'istio-init() {{ {shlex.join(PROGRAM)} "$@"; }}\n{command}'
    done = execute("bash", "-c", script)

    assert done.stderr == ""
    assert done.stdout.rstrip("\n") == output


def test_the_readme_shows_something_to_try_without_root() -> None:
    assert any(page == "README.md" for page, _, _ in SHOWN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    for line in commands(page):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|>;&")
        lexer.whitespace_split = True
        words = [*lexer]
        end = next((at for at, word in enumerate(words) if set(word) <= set("|>;&")), len(words))
        _, name, *arguments = words[:end]
        context = click.Context(cli)
        if name.startswith("-"):
            continue
        command = cli.get_command(context, name)
        assert command is not None, line
        if name in ("istio-iptables", "help") or "[" in line:
            continue
        try:
            command.make_context(name, arguments, context)
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md"))], ids=lambda page: page.name
)
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", page.read_text()):
        file, heading = target
        if re.match(r"[a-z]+:", file):
            continue
        to = page.parent / file if file else page
        assert to.exists(), f"{page.name}: {file}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", to.read_text(), re.MULTILINE)
            slugs = [
                "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_") for title in titles
            ]
            assert heading[1:] in slugs, f"{page.name}: {file}{heading}"
