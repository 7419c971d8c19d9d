"""Prints lines of text: nothing that is printed here acts on a terminal, whoever wrote it."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

import click

from istio_init.visible import visible_lines


def say(text: str, *, fg: str | None = None, bold: bool = False, err: bool = False, nl: bool = True) -> None:
    """Print lines of text."""
    shown = visible_lines(text)
    if (fg or bold) and not is_plain():
        shown = click.style(shown, fg=fg, bold=bold or None)
    click.echo(shown, err=err, nl=nl)


def is_plain() -> bool:
    """Whether whoever reads wants no colours (https://no-color.org), or has a terminal without any."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def hand_over(data: str) -> None:
    """Print text that is to be read again: byte by byte as it is, but for a terminal."""
    if sys.stdout.isatty():
        say(data, nl=False)
    else:
        click.echo(data.encode(errors="surrogateescape"), nl=False)


def write_any_text() -> None:
    """Have text that the locale has no characters for be written with others, instead of ending in an error."""
    codecs.register_error("istio-init", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError):  # What was written before cannot be; that is told where it matters.
                stream.reconfigure(errors="istio-init")


_PLAIN = {"“": '"', "”": '"', "\u2019": "'", "…": "...", "·": "-", "─": "-", "│": "|", "├": "|", "└": "`", "►": ">"}


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in lost), error.end
