"""Programs one target after the other and prints what came of each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import click

from istio_init.errors import IstioInitError
from istio_init.kernel import namespaces
from istio_init.kernel.namespaces import Place
from istio_init.kernel.workers import spread
from istio_init.programmer import Done, Manner, Wanted, program
from istio_init.report.plan_text import plan_lines
from istio_init.report.program_json import result_json
from istio_init.report.program_text import result_line

Warn = Callable[[str], None]
Prepare = Callable[[Place], tuple[Callable[[Warn], Wanted], tuple[str, ...]]]
"""For a place: what tells, once inside it, what is wanted there; and warnings."""


@dataclass(frozen=True)
class Result:
    """What came of one target."""

    label: str
    done: Done | None = None
    failure: IstioInitError | None = None
    warnings: tuple[str, ...] = ()


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
    shown = []
    for result in _results(list(targets), prepare, manner):
        codes.add(result.failure.exit_code if result.failure else 0)
        if form == "json":
            shown.append(result_json(command, result.label, result.done, result.failure, result.warnings))
        else:
            _print(command, result, manner, verbose=verbose)
    if form == "json":
        click.echo(json.dumps({"schema": 1, "command": command, "results": shown}, indent=2))
    return codes.pop() if len(codes) == 1 else 1


def _results(targets: list[tuple[str, Callable[[], Place]]], prepare: Prepare, manner: Manner) -> Iterator[Result]:
    """The result of each target, in order. Many are spread over the processors."""

    def one(number: int) -> Result:
        label, open_place = targets[number]
        warnings: list[str] = []
        try:
            return Result(label, _program_one(open_place, prepare, manner, warnings), None, tuple(warnings))
        except IstioInitError as error:
            return Result(label, None, error, tuple(warnings))

    processors = len(os.sched_getaffinity(0))
    if len(targets) < MANY or processors == 1:
        yield from map(one, range(len(targets)))
        return
    for (label, _), result in zip(targets, spread(len(targets), one, workers=processors), strict=True):
        yield Result(label, failure=result) if isinstance(result, IstioInitError) else result


MANY = 8
"""From so many targets on it pays to have a child process for each processor."""


def _print(command: str, result: Result, manner: Manner, *, verbose: bool) -> None:
    for warning in result.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    if result.failure is not None:
        said = str(result.failure).removeprefix(f"{result.label}: ")
        click.secho(f"{result.label}: failed: {said}", fg="red", err=True)
    if result.done is not None:
        click.echo(result_line(command, result.label, result.done, verbose=verbose))
        if manner.dry_run:
            for line in plan_lines(result.done.plan):
                click.secho(line, fg=_COLOURS.get(line.strip()[:1]) if line.startswith(" ") else None)


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
