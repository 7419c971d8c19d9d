"""Programs one target after the other and prints what came of each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from istio_init.cli.lines import say
from istio_init.errors import IstioInitError, ToolError
from istio_init.report.program_json import result_json
from istio_init.report.program_text import result_line
from istio_init.stores.programmer import Done, Manner, Wanted, program
from istio_init.system import namespaces
from istio_init.system.places import Place
from istio_init.system.workers import spread
from istio_init.wording.plan_text import plan_lines

Warn = Callable[[str], None]
Prepare = Callable[[Place], tuple[Callable[[Warn], Wanted], tuple[str, ...]]]
"""For a place: what tells, once inside it, what is wanted there; and warnings."""


class Line(NamedTuple):
    """A line of text, its colour on a terminal, and whether it belongs to the error stream."""

    text: str
    colour: str | None = None
    is_error: bool = False


class Result(NamedTuple):
    """What came of one target, ready to be shown: plain values, as they may come from another process."""

    exit_code: int
    lines: tuple[Line, ...] = ()
    as_json: dict[str, object] | None = None


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
    targets = list(targets)

    def one(number: int) -> Result:
        label, open_place = targets[number]
        warnings: list[str] = []
        done: Done | None = None
        failure: IstioInitError | None = None
        try:
            done = _program_one(open_place, prepare, manner, warnings)
        except IstioInitError as error:
            failure = error
        except (OSError, MemoryError) as error:
            failure = ToolError(f"{label}: {str(error) or 'no memory is left'}")
        code = failure.exit_code if failure else 0
        if form == "json":
            return Result(code, as_json=result_json(command, label, done, failure, tuple(warnings)))
        return Result(code, tuple(_lines(command, label, done, failure, warnings, manner, verbose=verbose)))

    codes: set[int] = set()
    objects = []
    for (label, _), result in zip(targets, _results(len(targets), one), strict=True):
        if isinstance(result, IstioInitError):
            failed = (Line(f"{label}: failed: {result}", "red", True),)
            result = Result(result.exit_code, failed, result_json(command, label, None, result, ()))
        codes.add(result.exit_code)
        objects.append(result.as_json)
        for text, colour, is_error in result.lines if form == "text" else ():
            say(text, fg=colour, err=is_error)
    if form == "json":
        say(json.dumps({"schema": 1, "command": command, "results": objects}, indent=2))
    return codes.pop() if len(codes) == 1 else 1


def _results(count: int, one: Callable[[int], Result]) -> Iterator[Result | IstioInitError]:
    """The result of each target, in order. Many are spread over the processors."""
    processors = len(os.sched_getaffinity(0))
    if count < MANY or processors == 1:
        return map(one, range(count))
    return spread(count, one, workers=processors)


MANY = 8
"""From so many targets on it pays to have a child process for each processor."""


def _lines(
    command: str,
    label: str,
    done: Done | None,
    failure: IstioInitError | None,
    warnings: list[str],
    manner: Manner,
    *,
    verbose: bool,
) -> Iterator[Line]:
    for warning in warnings:
        yield Line(f"warning: {warning}", "yellow", True)
    if failure is not None:
        yield Line(f"{label}: failed: {str(failure).removeprefix(f'{label}: ')}", "red", True)
    if done is not None:
        yield Line(result_line(command, label, done, verbose=verbose))
        if manner.dry_run:
            for text in plan_lines(done.plan):
                yield Line(text, _COLOURS.get(text.strip()[:1]) if text.startswith(" ") else None)


_COLOURS = {"+": "green", "-": "red", "~": "cyan"}


def _program_one(open_place: Callable[[], Place], prepare: Prepare, manner: Manner, warnings: list[str]) -> Done:
    place = open_place()
    try:
        wanted, doubts = prepare(place)
        warnings += doubts
        told = warnings.append
        return namespaces.call_in(place, lambda: program(wanted(told), manner, place.label, told))
    finally:
        place.close()
