"""``istio-init ps``."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click

from istio_init.cli.findings import known_codes
from istio_init.cli.lines import say
from istio_init.cli.node import not_seen, scan
from istio_init.cli.output import output_options
from istio_init.cli.ps_table import show_table
from istio_init.report.ps_row import STATES, PsRow, ps_json
from istio_init.value import Value
from istio_init.visible import visible

PROBLEMS_FOUND, FAILED, UNPRIVILEGED = 3, 1, 5

EVERY = "5"
"""Seconds between two looks, where --watch is given without any."""


class Wanted(Value):
    """Which namespaces are listed; nothing of a kind is all."""

    states: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    codes: frozenset[str] = frozenset()

    def of(self, rows: Iterable[PsRow]) -> list[PsRow]:
        """Those of the lines that are wanted."""
        return [
            row
            for row in rows
            if (not self.states or row.state.replace(" ", "-") in self.states)
            and (not self.namespaces or row.namespace in self.namespaces)
            and (not self.codes or not self.codes.isdisjoint(row.codes))
        ]


@click.command("ps", short_help="List the node's network namespaces.")
@output_options("text", "wide", "json")
@click.option(
    "--state",
    "states",
    type=click.Choice([each.replace(" ", "-") for each in STATES]),
    multiple=True,
    help="Only namespaces in this state. May be repeated.",
)
@click.option(
    "--namespace", "namespaces", metavar="NAME", multiple=True, help="Only pods of this namespace. May be repeated."
)
@click.option("--code", metavar="CODE", multiple=True, help="Only where this was found. May be repeated.")
@click.option("--check", is_flag=True, help="Exit 3 if any that is listed is broken.")
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
def ps(
    form: str,
    states: tuple[str, ...],
    namespaces: tuple[str, ...],
    code: tuple[str, ...],
    check: bool,
    watch: str | None,
    metrics: str | None,
) -> int:
    """List the network namespaces of this node and the state of their redirection.

    Those in which a process lives, in trouble first. Pods go by the names that
    their processes claim; (?) is behind one that another claims, too. OUTBOUND
    and INBOUND are what becomes of ordinary connections. --output wide has all
    that is known.

    Reads only. Then: istio-init explain POD.
    """
    wanted = Wanted(states, namespaces, known_codes(code, "--code"))
    if watch is not None or metrics is not None:
        from istio_init.cli.ps_watch import watch_node

        if check:
            raise click.UsageError("--check looks once: not with --watch")
        return watch_node(watch, metrics, form, lambda rows, form: show_rows(wanted.of(rows), form))
    every = scan()
    rows = wanted.of(every)
    show_rows(rows, form)
    return _status(rows, list(not_seen(every)), check=check)


def _status(rows: list[PsRow], unseen: list[str], *, check: bool) -> int:
    for each in unseen:
        say(f"not seen: {each}", fg="yellow", err=True)
    if check and any(row.state == "broken" for row in rows):
        return PROBLEMS_FOUND
    if unseen:
        return UNPRIVILEGED
    return FAILED if check and any(row.state == "unknown" for row in rows) else 0


def show_rows(rows: list[PsRow], form: str) -> None:
    """Print the lines."""
    if form == "json":
        say(json.dumps({"schema": 1, "namespaces": [ps_json(row) for row in rows]}, indent=2))
        return
    show_table(rows, wide=form == "wide")
    for name in dict.fromkeys(row.name for row in rows if row.is_shared):
        pids = ", ".join(str(row.pid) for row in rows if name in row.names)
        say(f"{visible(name)}: claimed in several network namespaces, so no name for one: pid {pids}", err=True)
