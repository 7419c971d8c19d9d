"""``istio-init ps``."""

from __future__ import annotations

import json

import click
from rich.table import Table
from rich.text import Text

from istio_init.cli.console import show
from istio_init.node import scan
from istio_init.report.ps_row import PsRow, ps_json
from istio_init.report.visible import visible

STATE_STYLE = {"captured": "green", "broken": "bold red", "not captured": "dim", "unknown": "yellow"}
PLAIN_WIDTH = 1000
"""Where there is no terminal: a namespace is one line, whatever it holds."""


EVERY = "5"
"""Seconds between two looks, where --watch is given without any."""


@click.command("ps", short_help="List the node's network namespaces.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=EVERY,
    help=f"Look again and again; every {EVERY} s if not said.",
)
@click.option(
    "--metrics", metavar="[ADDRESS]:PORT", help="With --watch: serve what was seen to Prometheus, and log what changes."
)
def ps(form: str, watch: str | None, metrics: str | None) -> int:
    """List the network namespaces of this node and the state of their redirection.

    Those in which a process lives; others are explained by --netns NAME.

    Reads only. Then: istio-init explain --pid PID.
    """
    if watch is not None or metrics is not None:
        from istio_init.cli.ps_watch import watch_node

        return watch_node(watch, metrics, form, show_rows)
    show_rows(scan(), form)
    return 0


def show_rows(rows: list[PsRow], form: str) -> None:
    """Print the lines."""
    if form == "json":
        click.echo(json.dumps({"schema": 1, "namespaces": [ps_json(row) for row in rows]}, indent=2))
    else:
        show(_table(rows), plain_width=PLAIN_WIDTH)


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
