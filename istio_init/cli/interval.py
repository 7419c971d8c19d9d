"""The time between two looks of a command that watches."""

from __future__ import annotations

import click

from istio_init.config import values

LONGEST = 86400.0
"""Seconds: what is shown is to be of today."""


def watch_seconds(text: str, *, shortest: float) -> float:
    """A duration such as 1m30s, or plain seconds, within reason.

    Raises:
        click.BadParameter: it is neither, or no time at all.
    """
    try:
        wanted = values.duration(text)
    except values.BadValue as bad:
        raise click.BadParameter(f"{text!r}: {bad.why}; {bad.fix}", param_hint="--watch") from None
    if wanted <= 0:
        raise click.BadParameter(f"{text!r}: give a time between two looks, such as 5s", param_hint="--watch")
    return min(max(wanted, shortest), LONGEST)
