"""``istio-init clean``."""

from __future__ import annotations

import click

from istio_init.cli.each import program_each
from istio_init.cli.targets import REPLACE_OPTION, RUN_OPTIONS, TARGET_OPTIONS, manner, openers, with_options
from istio_init.mesh.roles.recognise import MeshKind
from istio_init.stores.programmer import Wanted


@click.command(short_help="Remove Istio's redirection.")
@with_options(TARGET_OPTIONS)
@with_options(REPLACE_OPTION)
@with_options(RUN_OPTIONS)
@click.option(
    "--sidecar", is_flag=True, help="Clean up after a sidecar, and refuse an ambient pod. Default: whichever is there."
)
@click.option("--ambient", is_flag=True, help="Clean up after an ambient pod, and refuse a sidecar's.")
def clean(
    target: tuple[str, ...],
    pids: tuple[int, ...],
    netns: tuple[str, ...],
    allow_host_network: bool,
    replace_other: tuple[str, ...],
    backend: str | None,
    wait: str,
    dry_run: bool,
    form: str,
    verbose: bool,
    sidecar: bool,
    ambient: bool,
) -> int:
    """Remove Istio's redirection from network namespaces.

    Rules and chains, routing rules, routes and ::6 on lo, in both families and
    every store, whichever configuration put them there. Nothing else is
    touched. TARGET is a pod, a process or container id, an address, or a
    network namespace, as explain takes it.
    """
    if sidecar and ambient:
        raise click.UsageError("give one of --sidecar and --ambient, or neither for whichever is there")
    how = manner(
        allow_host=allow_host_network, backend=backend, wait=wait, dry_run=dry_run, replace_other=replace_other
    )
    nothing = Wanted(kind=MeshKind.SIDECAR if sidecar else MeshKind.AMBIENT if ambient else None)
    targets = openers(target, pids, netns)
    return program_each("clean", targets, lambda place: (lambda warn: nothing, ()), how, form=form, verbose=verbose)
