"""Programs one target after the other and prints what came of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import click

from istio_init.errors import IstioInitError
from istio_init.kernel import namespaces
from istio_init.kernel.namespaces import Place
from istio_init.programmer import Done, Manner, Wanted, program
from istio_init.report.plan_text import plan_lines
from istio_init.report.program_json import result_json
from istio_init.report.program_text import result_line

Warn = Callable[[str], None]
Prepare = Callable[[Place], tuple[Callable[[Warn], Wanted], tuple[str, ...]]]
"""For a place: what tells, once inside it, what is wanted there; and warnings."""


def program_each(
    command: str,
    targets: Iterable[tuple[str, Callable[[], Place]]],
    prepare: Prepare,
    manner: Manner,
    *,
    form: str,
    verbose: bool,
) -> int:
    """Program each target; one that fails does not stop the rest. The exit status."""
    codes: set[int] = set()
    results = []
    for label, open_place in targets:
        warnings: list[str] = []
        done: Done | None = None
        failure: IstioInitError | None = None
        try:
            done = _program_one(open_place, prepare, manner, warnings)
        except IstioInitError as error:
            failure = error
        codes.add(failure.exit_code if failure else 0)
        if form == "json":
            results.append(result_json(command, label, done, failure, tuple(warnings), manner))
            continue
        for warning in warnings:
            click.secho(f"warning: {warning}", fg="yellow", err=True)
        if failure is not None:
            click.secho(f"{label}: failed: {str(failure).removeprefix(f'{label}: ')}", fg="red", err=True)
        if done is not None:
            click.echo(result_line(command, label, done, manner, verbose=verbose))
            if manner.dry_run:
                for line in plan_lines(done.plan):
                    click.secho(line, fg=_COLOURS.get(line.strip()[:1]) if line.startswith(" ") else None)
    if form == "json":
        click.echo(json.dumps({"schema": 1, "command": command, "results": results}, indent=2))
    return codes.pop() if len(codes) == 1 else 1


_COLOURS = {"+": "green", "-": "red", "~": "cyan"}


def _program_one(open_place: Callable[[], Place], prepare: Prepare, manner: Manner, warnings: list[str]) -> Done:
    place = open_place()
    try:
        wanted, doubts = prepare(place)
        warnings += doubts

        def work() -> tuple[Done, list[str]]:
            # It may run in a child process, so what it says comes back with its result.
            said: list[str] = []
            return program(wanted(said.append), manner, label=place.label), said

        done, said = namespaces.call_in(place, work)
        warnings += said
        return done
    finally:
        place.close()
