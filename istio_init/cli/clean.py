"""``istio-init clean``."""

from __future__ import annotations

import click

from istio_init.cli.each import program_each
from istio_init.cli.targets import RUN_OPTIONS, TARGET_OPTIONS, manner, openers, with_options
from istio_init.stores.surroundings import NOTHING


@click.command(short_help="Remove everything that is ours.")
@with_options(TARGET_OPTIONS)
@with_options(RUN_OPTIONS)
def clean(
    pids: tuple[int, ...],
    netns: tuple[str, ...],
    allow_host_network: bool,
    backend: str | None,
    wait: str,
    dry_run: bool,
    form: str,
    verbose: bool,
) -> int:
    """Remove everything that is ours from network namespaces.

    Rules and chains, routing rules, routes and ::6 on lo, in both families and
    both backends, whichever configuration put them there. Nothing else is
    touched.
    """
    how = manner(allow_host=allow_host_network, backend=backend, wait=wait, dry_run=dry_run)
    targets = openers(pids, netns)
    return program_each("clean", targets, lambda place: (lambda warn: NOTHING, ()), how, form=form, verbose=verbose)
