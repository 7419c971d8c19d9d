"""``istio-init help`` and ``istio-init version``, for those who type them as commands."""

from __future__ import annotations

import click

from istio_init import __version__
from istio_init.cli.lines import say


@click.command("help")
@click.argument("command", required=False)
@click.pass_context
def help_command(ctx: click.Context, command: str | None) -> None:
    """Show the help of a command, as --help does."""
    words = ["--help"] if command is None else [command, "--help"]
    group = ctx.find_root()
    group.command.main(words, prog_name=group.info_name, standalone_mode=False)


@click.command("version")
def version() -> None:
    """Show the version, as --version does."""
    say(f"istio-init {__version__}")
