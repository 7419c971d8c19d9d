"""The options that name namespaces, and running something in each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import click

from istio_init.cli.completing import complete_netns, complete_pid, target_argument
from istio_init.cli.lines import say
from istio_init.cli.output import output_options
from istio_init.cli.target import Chosen, resolve
from istio_init.config import values
from istio_init.mesh.ownership import NAMES
from istio_init.plan.model import NATIVE
from istio_init.stores.programmer import Manner
from istio_init.system.places import Place

F = TypeVar("F", bound=Callable[..., Any])

ALLOW_HOST = "ISTIO_INIT_ALLOW_HOST_NETWORK"

TARGET_OPTIONS = [
    target_argument(files=False, several=True),
    click.option(
        "--pid",
        "pids",
        shell_complete=complete_pid,
        type=int,
        multiple=True,
        metavar="PID",
        help="Enter the network namespace of this process. May be repeated.",
    ),
    click.option(
        "--netns",
        "netns",
        multiple=True,
        metavar="NAME-OR-PATH",
        shell_complete=complete_netns,
        help="Enter this network namespace. May be repeated.",
    ),
    click.option(
        "--allow-host-network",
        is_flag=True,
        help=f"Allow the host's own namespace, as on a virtual machine. [{ALLOW_HOST}]",
    ),
]

RUN_OPTIONS = [
    click.option(
        "--force-iptables-binary",
        "backend",
        type=click.Choice(["nft", "legacy"]),
        help="Use this iptables instead of detecting which.",
    ),
    click.option(
        "--wait",
        default="10s",
        show_default=True,
        metavar="DURATION",
        help="How long to wait for a held lock or a concurrent writer.",
    ),
    click.option("--dry-run", "-n", is_flag=True, help="Show the plan, and change nothing."),
    output_options("text", "json", short=False),
    click.option("--verbose", "-v", is_flag=True, help="Also say how it was done."),
]


REPLACE_OPTION = [
    click.option(
        "--replace-other",
        "replace_other",
        type=click.Choice(NAMES),
        multiple=True,
        metavar="NAME",
        help="Remove the rules of the other kind of pod, or of another mesh, instead of refusing a namespace with "
        f"them: {', '.join(NAMES)}. May be repeated.",
    ),
]


def with_options(options: list[Callable[[F], F]]) -> Callable[[F], F]:
    """Add options to a command, shown in this order."""
    return lambda function: reduce(lambda done, option: option(done), reversed(options), function)


def openers(
    words: tuple[str, ...], pids: tuple[int, ...], netns: tuple[str, ...]
) -> list[tuple[str, Callable[[], Place]]]:
    """For each target its label and how to open it; without any target the namespace that we are in.

    Raises:
        click.UsageError: words stand beside options.
        NamespaceError: a word names nothing, or several things.
    """
    if words and (pids or netns):
        raise click.UsageError("give targets, or --pid and --netns, not both")
    chosen = [resolve(word, files=False) for word in words]
    chosen += [*(Chosen(pid=pid) for pid in pids), *(Chosen(netns=name) for name in netns)]
    return [(each.label, each.open) for each in chosen or [Chosen()]]


def manner(
    *,
    allow_host: bool,
    backend: str | None,
    wait: str,
    dry_run: bool,
    reconcile: bool = True,
    native: bool = False,
    replace_other: tuple[str, ...] = (),
) -> Manner:
    """How to program, from the options.

    Raises:
        click.BadParameter: the wait is not a duration.
    """
    try:
        seconds = values.duration(wait)
    except values.BadValue as bad:
        raise click.BadParameter(f"{wait!r}: {bad.why}; {bad.fix}", param_hint="--wait") from None
    allowed = allows_host(allow_host)
    return Manner(
        reconcile=reconcile,
        dry_run=dry_run,
        allow_host=allowed,
        backend=NATIVE if native else backend,
        replace_other=frozenset(replace_other),
        wait=seconds,
    )


def allows_host(flag: bool) -> bool:
    """Whether the host's own namespace is allowed, by the flag or by the environment."""
    text = os.environ.get(ALLOW_HOST, "")
    if text and text not in values.BOOLEANS:
        say(
            f"warning: {ALLOW_HOST} {text!r}: not a boolean, taken for false; write true or false",
            fg="yellow",
            err=True,
        )
    return flag or (text in values.BOOLEANS and values.boolean(text))
