"""The table of ``istio-init ps``: as much of it as there is room for."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from istio_init.cli.console import show, width
from istio_init.report.ps_row import NONE, PsRow
from istio_init.visible import visible

STATE_STYLE = {"captured": "green", "broken": "bold red", "not captured": "dim", "unknown": "yellow"}
OUTCOME_STYLE = {"proxied": "green", NONE: "dim"}

PLAIN_WIDTH = 1000
"""Where there is no terminal: a namespace is one line, whatever it holds."""

ROOMY = 110
"""Columns from which on a pod's name and its process have columns of their own."""

NARROW = ("POD", "STATE", "MODE", "OUTBOUND", "INBOUND", "FINDING")
NORMAL = ("NAMESPACE", "POD", "PID", "STATE", "MODE", "STORE", "OUTBOUND", "INBOUND", "FINDING")
WIDE = (*NORMAL, "PROCESS", "CONTAINER", "ADDRESSES", "NETNS", "NOT READ")

WHOLE = {"STATE", "MODE", "STORE", "PID", "CONTAINER", "NETNS"}
"""Columns that are never broken."""

LEAST = {"POD": 14, "FINDING": 11, "OUTBOUND": 8, "INBOUND": 7}


def show_table(rows: list[PsRow], *, wide: bool) -> None:
    """Print the lines; ``wide`` is all that is known, in lines as long as that takes."""
    columns = PLAIN_WIDTH if wide else width(PLAIN_WIDTH)
    show(table(rows, columns, wide=wide), plain_width=PLAIN_WIDTH, least=columns if wide else 0)


def table(rows: list[PsRow], columns: int, *, wide: bool = False) -> Table:
    """The lines for so many columns."""
    names = WIDE if wide else NORMAL if columns >= ROOMY else NARROW
    padding = (0, 1) if columns >= ROOMY else (0, 1, 0, 0)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=padding)
    for name in names:
        made.add_column(name, no_wrap=wide or name in WHOLE, min_width=LEAST.get(name), overflow="fold")
    for row in rows:
        cells = dict(_cells(row, wide=wide, narrow=names == NARROW))
        made.add_row(*(cells[name] for name in names))
    return made


def _cells(row: PsRow, *, wide: bool, narrow: bool) -> Iterator[tuple[str, str | Text]]:
    mark = " (?)" if row.is_shared else ""
    pod = row.pod or f"({row.process})"
    yield "NAMESPACE", row.namespace or NONE
    yield "POD", Text(visible((row.name if narrow else pod) + mark))
    yield "PID", str(row.pid)
    yield "STATE", Text(row.state, style=STATE_STYLE[row.state])
    yield "MODE", row.mode
    yield "STORE", row.backend
    yield "OUTBOUND", _outcome(row.outbound)
    yield "INBOUND", _outcome(row.inbound)
    yield "FINDING", ", ".join(dict.fromkeys(row.codes)) or NONE if wide else _worst(row)
    yield "PROCESS", Text(visible(row.process))
    yield "CONTAINER", Text(visible(row.container or NONE) if wide else visible((row.container or NONE)[:12]))
    yield "ADDRESSES", " ".join(row.addresses) or NONE
    yield "NETNS", str(row.inode)
    yield "NOT READ", Text(visible(row.error or NONE))


def _outcome(word: str) -> Text:
    return Text(word, style=OUTCOME_STYLE.get(word, "yellow"))


def _worst(row: PsRow) -> str:
    """The code of the most severe finding, and how many others there are."""
    if row.worst is None:
        return NONE
    more = len(set(row.codes)) - 1
    return f"{row.worst} +{more}" if more else row.worst
