"""The drop-in as a command of the group, for its listing and for calls that the fast path does not see."""

from __future__ import annotations

import click


@click.command(
    "istio-iptables",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    short_help="The drop-in for Istio's istio-iptables: same flags.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def istio_iptables(words: tuple[str, ...]) -> int:
    """Run as Istio's own istio-iptables does."""
    from istio_init.cli.dropin import run

    return run(list(words))
