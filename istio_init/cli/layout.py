"""How help is laid out: as wide as the terminal, and on a narrow one with each description beneath its subject."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import click

NARROW = 58
"""Columns below which two beside each other leave too little for the second."""
NARROWEST = 30
BENEATH = 4
"""Columns by which a description beneath is indented further than what it describes."""


class Layout(click.HelpFormatter):
    """What click makes, which takes 50 columns for granted and 30 for the names of options."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        fits = min(shutil.get_terminal_size().columns, max_width or 80) - 2
        super().__init__(indent_increment, width or max(fits, NARROWEST), max_width)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        beside = self.width >= NARROW
        super().write_dl(list(rows), col_max if beside else 1, col_spacing if beside else BENEATH - 1)


class Laid(click.Context):
    """A context whose help is laid out so."""

    formatter_class = Layout
