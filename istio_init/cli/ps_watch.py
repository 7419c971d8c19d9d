"""``istio-init ps --watch``: looks at the node again and again, for a person, a log, or Prometheus."""

from __future__ import annotations

import ipaddress
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from istio_init.cli.interval import watch_seconds
from istio_init.cli.lines import say
from istio_init.cli.node import Names, scan
from istio_init.cli.ps_serve import EVERYWHERE, MetricsServer
from istio_init.errors import IstioInitError
from istio_init.report.ps_row import PsRow
from istio_init.system import waiting
from istio_init.visible import visible

if TYPE_CHECKING:
    from istio_init.report.node_metrics import NodeMetrics

SHORTEST = 0.5
"""Seconds between two looks at least, as each enters every namespace of the node."""

LOOPBACK = "127.0.0.1"

Show = Callable[[list[PsRow], str], None]


def watch_node(watch: str | None, metrics: str | None, form: str, show: Show) -> int:
    """Look until a signal ends it.

    Between looks the metrics are served by the same thread: looking forks, which threads and their locks do not stand.

    Raises:
        click.UsageError: an option has no meaning.
        IstioInitError: the metrics cannot be served there.
    """
    if watch is None:
        raise click.UsageError("--metrics serves what --watch sees: add --watch")
    if metrics is not None and form != "text":
        raise click.UsageError("--metrics prints no list that could have a format: not with --format")
    every = watch_seconds(watch, shortest=SHORTEST)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    waiting.remember()
    names: Names = {}
    if metrics is None:
        while True:
            rows = scan(quiet=True, names=names)
            if form == "text":
                click.clear()
            show(rows, form)
            for line in not_answering(rows, waiting.collect()):
                say(line, fg="yellow", err=True)
            time.sleep(every)
    server, collector = _serve(*_address(metrics))
    before: list[PsRow] = []
    silent: set[int] = set()
    while True:
        start = time.monotonic()
        rows = scan(quiet=True, names=names)
        took = time.monotonic() - start
        was_silent, silent = silent, waiting.collect()
        collector.update(rows, took, time.time(), not_answering=len(silent))
        for line in [*changes(before, rows), *not_answering(rows, silent - was_silent)]:
            say(line, err=True)
        before = rows
        # As long as the look took at least, so that nobody waits for answers on a node with much to look at.
        server.serve(until=start + max(every, 2 * took))


def changes(before: list[PsRow], after: list[PsRow]) -> list[str]:
    """What is new, gone or different, a line each."""
    old, new = ({row.inode: row for row in rows} for rows in (before, after))
    lines = []
    for inode in {**old, **new}:
        one, other = old.get(inode), new.get(inode)
        states = [_state(each) for each in (one, other)]
        if states[0] != states[1]:
            row = other or one
            assert row is not None
            where = _place(row)
            lines.append(f"{where}: {states[1]}" if one is None else f"{where}: {states[0]} -> {states[1]}")
    return lines


def not_answering(rows: list[PsRow], silent: set[int]) -> list[str]:
    """A line for each namespace whose own file system keeps a process of ours waiting."""
    return [
        f"{_place(row)}: not answering: its files are not read again until it does; its rules are"
        for row in rows
        if row.inode in silent
    ]


def _place(row: PsRow) -> str:
    name = f"{visible(row.name)}, " if row.pod else ""
    return f"{name}netns {row.inode}, pid {row.pid} ({visible(row.process)})"


def _state(row: PsRow | None) -> str:
    if row is None:
        return "gone"
    return row.state + (f" [{', '.join(dict.fromkeys(row.codes))}]" if row.codes else "")


def _address(text: str) -> tuple[str, int]:
    """Where to listen: on loopback if no address is given, everywhere if it is ``*``."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if host and host != EVERYWHERE:
            ipaddress.ip_address(host)
        number = int(port) if port.isdecimal() and port.isascii() else 0
        if not 0 < number < 65536:
            raise ValueError
    except ValueError:
        fix = "write :9469, [::1]:9469, or *:9469 for every address"
        raise click.BadParameter(f"{text!r}: not an address and a port; {fix}", param_hint="--metrics") from None
    return host or LOOPBACK, number


def _serve(host: str, port: int) -> tuple[MetricsServer, NodeMetrics]:
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        from istio_init.report.node_metrics import NodeMetrics
    except ModuleNotFoundError:
        fix = "pip install 'istio-init[metrics]'"
        raise IstioInitError("--metrics needs the package prometheus-client", fix=fix) from None
    collector = NodeMetrics()
    registry = CollectorRegistry()
    registry.register(collector)
    return MetricsServer(host, port, lambda: (CONTENT_TYPE_LATEST, generate_latest(registry))), collector


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End at once: nothing is held that would have to be given back."""
    os._exit(0)
