"""Prints lines of text: nothing that is printed here acts on a terminal, whoever wrote it."""

from __future__ import annotations

import sys

import click

from istio_init.visible import visible_lines


def say(text: str, *, fg: str | None = None, bold: bool = False, err: bool = False, nl: bool = True) -> None:
    """Print lines of text."""
    click.secho(visible_lines(text), fg=fg, bold=bold or None, err=err, nl=nl)


def hand_over(data: str) -> None:
    """Print text that is to be read again: byte by byte as it is, but for a terminal."""
    if sys.stdout.isatty():
        say(data, nl=False)
    else:
        click.echo(data.encode(errors="surrogateescape"), nl=False)
