"""Prints what rich draws: in colour on a terminal, else as plain text that a log or a pipe can take."""

from __future__ import annotations

import os

import click
from rich.console import Console, RenderableType


def show(renderable: RenderableType, *, plain_width: int) -> None:
    """Print to stdout; ``plain_width`` is the width where there is neither a terminal nor ``$COLUMNS``.

    What must not be broken (``no_wrap``) is wider where it has to be, so that it can be copied.
    """
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(renderable, crop=False)
        return
    plain = Console(highlight=False, width=width(plain_width), color_system=None, force_terminal=False)
    with plain.capture() as captured:
        plain.print(renderable, crop=False)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def width(plain_width: int) -> int:
    """The columns that there are to print to."""
    console = Console()
    columns = os.environ.get("COLUMNS", "")
    if console.is_terminal:
        return console.width
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) else plain_width
