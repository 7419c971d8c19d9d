"""Prints what rich draws: in colour on a terminal, else as plain text that a log or a pipe can take."""

from __future__ import annotations

import os

from rich.console import Console, RenderableType
from rich.segment import Segment, Segments

from istio_init.cli.lines import say
from istio_init.visible import visible_lines


def show(renderable: RenderableType, *, plain_width: int, least: int = 0) -> None:
    """Print to stdout; ``plain_width`` is the width where there is neither a terminal nor ``$COLUMNS``.

    ``least`` is the width whatever the terminal's, which breaks lines by itself.
    What must not be broken (``no_wrap``) is wider where it has to be, so that it can be copied.
    """
    console = Console(
        highlight=False,
        markup=False,
        emoji=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",  # Else what is bold would still be.
    )
    if console.is_terminal:
        if least:
            console.width = max(least, console.width)
        console.print(_seen(console, renderable), end="", crop=False)
        return
    plain = Console(
        highlight=False,
        markup=False,
        emoji=False,
        width=max(least, width(plain_width)),
        color_system=None,
        force_terminal=False,
    )
    with plain.capture() as captured:
        plain.print(renderable, crop=False)
    say("\n".join(line.rstrip(" ") for line in captured.get().removesuffix("\n").split("\n")))


def _seen(console: Console, renderable: RenderableType) -> Segments:
    """What is drawn, with all text in it visible; only what rich itself means for the terminal stays."""
    return Segments(
        Segment(each.text if each.control else visible_lines(each.text), each.style, each.control)
        for each in console.render(renderable)
    )


def width(plain_width: int) -> int:
    """The columns that there are to print to."""
    console = Console()
    columns = os.environ.get("COLUMNS", "")
    if console.is_terminal:
        return console.width
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) else plain_width
