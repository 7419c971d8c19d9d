"""``istio-init ps``."""

from __future__ import annotations

import json

import click
from rich.table import Table
from rich.text import Text

from istio_init.cli.console import show, width
from istio_init.cli.lines import say
from istio_init.cli.node import scan
from istio_init.report.ps_row import PsRow, ps_json
from istio_init.visible import visible

STATE_STYLE = {"captured": "green", "broken": "bold red", "not captured": "dim", "unknown": "yellow"}
PLAIN_WIDTH = 1000
"""Where there is no terminal: a namespace is one line, whatever it holds."""

NARROW, WIDE = 80, 110
"""Columns at which what is broken is as narrow as can be, and from which on all is shown."""

COLUMNS = {
    "NETNS": (10, True),
    "PID": (5, True),
    "PROCESS": (7, False),
    "CONTAINER": (12, True),
    "ADDRESSES": (15, False),
    "MODE": (8, True),
    "BACKEND": (7, True),
    "STATE": (12, True),
    "FINDINGS": (8, True),
}
"""Of each column its least width, and whether it is never broken."""

EVERY = "5"
"""Seconds between two looks, where --watch is given without any."""


@click.command("ps", short_help="List the node's network namespaces.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--watch",
    metavar="[DURATION]",
    is_flag=False,
    flag_value=EVERY,
    help=f"Look again and again; every {EVERY} s if not said.",
)
@click.option(
    "--metrics",
    metavar="[ADDRESS|*]:PORT",
    help="With --watch: serve what was seen to Prometheus, on loopback if no address is given, and log what changes; "
    "* is every address.",
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
        say(json.dumps({"schema": 1, "namespaces": [ps_json(row) for row in rows]}, indent=2))
    else:
        show(_table(rows, width(PLAIN_WIDTH)), plain_width=PLAIN_WIDTH)


def _table(rows: list[PsRow], columns: int) -> Table:
    """The list; where it is narrow without what explain tells of one namespace, so that the rest stays whole."""
    left_out = () if columns >= WIDE else ("CONTAINER", "BACKEND")
    spare = max(0, columns - NARROW) // 2
    most = {"PROCESS": 8 + spare, "ADDRESSES": 15 + spare} if left_out else {}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, (least, whole) in COLUMNS.items():
        if name not in left_out:
            table.add_column(name, no_wrap=whole, min_width=least, max_width=most.get(name), overflow="fold")
    for row in rows:
        cells: dict[str, str | Text] = {
            "NETNS": str(row.inode),
            "PID": str(row.pid),
            "PROCESS": Text(visible(row.process)),
            "CONTAINER": Text(visible((row.container or "-")[:12])),
            "ADDRESSES": " ".join(row.addresses) or "-",
            "MODE": row.mode,
            "BACKEND": row.backend,
            "STATE": Text(row.state, style=STATE_STYLE[row.state]),
            "FINDINGS": str(row.findings),
        }
        table.add_row(*(cell for name, cell in cells.items() if name not in left_out))
    return table
