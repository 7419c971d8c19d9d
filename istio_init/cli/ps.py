"""``istio-init ps``."""

from __future__ import annotations

import json
import os

import click
from rich.table import Table
from rich.text import Text

from istio_init.cli.console import show
from istio_init.errors import IstioInitError, NamespaceError
from istio_init.inspector.explain import explain
from istio_init.kernel import namespaces
from istio_init.kernel.namespaces import Place
from istio_init.kernel.observe import observe
from istio_init.kernel.pods import PodNamespace, pod_namespaces
from istio_init.kernel.workers import spread
from istio_init.report.ps_row import PsRow, ps_json, ps_row, unreadable_row
from istio_init.report.visible import visible

STATE_STYLE = {"captured": "green", "broken": "bold red", "not captured": "dim", "unknown": "yellow"}
PLAIN_WIDTH = 1000
"""Where there is no terminal: a namespace is one line, whatever it holds."""


@click.command("ps", short_help="List the node's network namespaces.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def ps(form: str) -> int:
    """List every network namespace of this node and the state of its redirection.

    Reads only. Then: istio-init explain --pid PID.
    """
    pods = pod_namespaces()
    processors = len(os.sched_getaffinity(0))
    results = spread(len(pods), lambda n: _row(pods[n]), workers=processors)
    rows = [
        unreadable_row(pod, result) if isinstance(result, IstioInitError) else result
        for pod, result in zip(pods, results, strict=True)
        if result is not None
    ]
    if form == "json":
        click.echo(json.dumps({"schema": 1, "namespaces": [ps_json(row) for row in rows]}, indent=2))
        return 0
    show(_table(rows), plain_width=PLAIN_WIDTH)
    return 0


def _row(pod: PodNamespace) -> PsRow | None:
    """The line of a namespace; None where its processes ended meanwhile, and it with them."""
    place = _enterable(pod)
    if place is None:
        return None
    try:
        snapshot = namespaces.call_in(place.replace(userns=None), lambda: observe(place, pod.processes, versions=False))
    finally:
        place.close()
    return ps_row(pod, explain(snapshot))


def _enterable(pod: PodNamespace) -> Place | None:
    """The namespace by the oldest of its processes that still lives, and is still in it."""
    for process in pod.processes:
        try:
            place = namespaces.of_pid(process.pid)
        except NamespaceError:
            continue
        assert place.netns is not None
        if os.fstat(place.netns).st_ino == pod.inode:
            return place
        place.close()
    return None


def _table(rows: list[PsRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("NETNS", "PID", "PROCESS", "CONTAINER", "ADDRESSES", "MODE", "BACKEND", "STATE", "FINDINGS"):
        table.add_column(name, no_wrap=name != "ADDRESSES")
    for row in rows:
        table.add_row(
            str(row.inode),
            str(row.pid),
            visible(row.process),
            (row.container or "-")[:12],
            " ".join(row.addresses) or "-",
            row.mode,
            row.backend,
            Text(row.state, style=STATE_STYLE[row.state]),
            str(row.findings),
        )
    return table
