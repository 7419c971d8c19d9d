"""The options of every command that say in which form results are printed, and where to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LONG = ("--output", "--format")
SHORT = "-o"
HELP = "How results are printed."


def output_options(*forms: str, short: bool = True) -> Callable[[F], F]:
    """``--format`` under all its names, and ``--output-file``; not ``-o`` where that is another option of a command."""
    names = (*([SHORT] if short else []), *LONG)
    options = [
        click.option(
            *names,
            "form",
            type=click.Choice(forms),
            default=forms[0],
            show_default=True,
            help=HELP,
        ),
        click.option(
            "--output-file",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            expose_value=False,
            callback=_redirect,
            help="Write results to this file instead of standard output.",
        ),
    ]
    return lambda function: reduce(lambda done, option: option(done), reversed(options), function)


def _redirect(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Have all that the command prints go to a file."""
    if path is None or ctx.resilient_parsing:
        return
    try:
        file = open(path, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - the context closes it
    except OSError as error:
        raise click.BadParameter(f"{path}: it cannot be written: {error.strerror}", ctx, param) from None
    ctx.with_resource(file)
    ctx.with_resource(contextlib.redirect_stdout(file))


def asks_for_json(argv: Sequence[str]) -> bool:
    """Whether results are wanted as JSON, told from arguments that may be no good."""
    short = () if argv[:1] == ["apply"] else (SHORT,)
    attached = {f"{name}=json" for name in LONG} | {f"{name}json" for name in short}
    apart = {(name, "json") for name in (*LONG, *short)}
    return not (attached.isdisjoint(argv) and apart.isdisjoint(pairwise(argv)))
