"""The drop-in as a command of the group, for its listing and for calls that the fast path does not see."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from istio_init.options import DROPIN_OPTIONS, OPTIONS


class DropIn(click.Command):
    """A command whose flags are not click's: it completes those of the option table."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The flags that begin so, with what they mean."""
        return [
            CompletionItem(name, help=option.help)
            for option in (*OPTIONS, *DROPIN_OPTIONS)
            for name in (option.flag, option.short)
            if name and name.startswith(incomplete or "-")
        ]


@click.command(
    "istio-iptables",
    cls=DropIn,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    short_help="The drop-in for Istio's istio-iptables: same flags.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def istio_iptables(words: tuple[str, ...]) -> int:
    """Run as Istio's own istio-iptables does."""
    from istio_init.cli.dropin import run

    return run(list(words))
