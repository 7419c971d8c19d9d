"""Feeds parsers what nobody would write, and holds each to what it promises."""

from __future__ import annotations

import gc
import json
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from istio_init.errors import IstioInitError
from istio_init.visible import visible_lines

from .mutating import Form, mutated

CORPUS = Path(__file__).resolve().parents[2] / "tests" / "fuzz" / "corpus"
"""A file for each parser: a seed a line, as JSON; of bytes their hexadecimal digits."""

LONGEST = 2.0
"""Seconds of a processor for one input."""

SHORTENING = 2000
"""Attempts to find a shorter input that fails likewise."""


class Parser(NamedTuple):
    """Something that takes data of others.

    ``check`` gives an input to it, and raises for whatever it must not do. ``refusals`` are the errors by which it says
    no. ``tokens`` are words that mean something to it. ``header`` bytes stand before the attributes of netlink.
    """

    name: str
    check: Callable[[str], object]
    refusals: tuple[type[Exception], ...] = ()
    tokens: Sequence[str] = ()
    form: Form = Form.TEXT
    header: int = 0

    @property
    def is_packed(self) -> bool:
        """Whether its inputs are bytes, written as characters."""
        return self.form in (Form.BYTES, Form.NETLINK)

    def seeds(self) -> list[str]:
        """The corpus."""
        lines = (CORPUS / f"{self.name}.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [bytes.fromhex(each).decode("latin-1") for each in found] if self.is_packed else found


class Failure(NamedTuple):
    """An input that a parser did not stand."""

    parser: str
    number: int
    """Which input of the seed's; negative for one of the corpus."""
    what: str
    text: str
    trace: str


class SlowError(BaseException):
    """An input takes too long."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise SlowError(f"more than {LONGEST:g} s of a processor")


@contextmanager
def timed() -> Iterator[None]:
    """Have every input that takes too long fail."""
    before = signal.signal(signal.SIGVTALRM, _too_long)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def attempt(parser: Parser, text: str) -> tuple[str, str] | None:
    """What is wrong with how a parser took an input, and the trace of that; within `timed`."""
    refusals: tuple[type[Exception], ...] = (IstioInitError, *parser.refusals)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
        try:
            parser.check(text)
        except refusals as error:
            refused(error)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except (Exception, SlowError) as error:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if "/istio_init/" in each.filename]
        place = f"{frames[-1].filename.rpartition('/istio_init/')[2]}:{frames[-1].name}" if frames else ""
        return f"{type(error).__name__} {place}", "".join(traceback.format_exception(error)[-6:])
    return None


def refused(error: Exception) -> None:
    """An error's text is one message: none of its lines is somebody else's."""
    text = str(error)
    assert text.strip(), "an error without a word"
    for line in visible_lines(text).split("\n")[1:]:
        assert line.startswith("  "), f"a line that is not ours: {line!r} in {text!r}"


def fuzz(parser: Parser, seed: str, numbers: range, until: float = float("inf")) -> tuple[int, list[Failure]]:
    """Give a parser its corpus and these inputs of a seed, until a time of the clock: how many, and what failed.

    Of failures alike the first is kept, as short as it was found to be.
    """
    seeds = parser.seeds()
    found: dict[str, Failure] = {}
    done = 0
    gc.freeze()  # What was imported stays, and need not be looked at again and again.
    with timed():
        for number in [*range(-len(seeds), 0), *numbers] if numbers.start == 0 else numbers:
            if number >= 0 and number % 256 == 0 and time.monotonic() > until:
                break
            text = seeds[number] if number < 0 else an_input(parser, seeds, seed, number)
            done += number >= 0
            if (what := attempt(parser, text)) is not None and what[0] not in found:
                shorter = text if "SlowError" in what[0] else shortened(parser, text, what[0])
                found[what[0]] = Failure(parser.name, number, what[0], shorter, what[1])
    return done, list(found.values())


def an_input(parser: Parser, seeds: Sequence[str], seed: str, number: int) -> str:
    """One input of a seed, by its number."""
    chance = random.Random(f"{seed}/{parser.name}/{number}")
    return mutated(chance, seeds, parser.tokens, parser.form, parser.header)


def shortened(parser: Parser, text: str, what: str) -> str:
    """A part of an input that fails likewise."""
    tries, size = 0, max(1, len(text) // 2)
    while tries < SHORTENING:
        for first in range(0, len(text), size):
            tries += 1
            shorter = text[:first] + text[first + size :]
            if (same := attempt(parser, shorter)) is not None and same[0] == what:
                text = shorter
                break
        else:
            if size == 1:
                break
            size //= 2
    return text


def told(failure: Failure, parser: Parser, seed: str) -> str:
    """A failure, with the line that its regression takes in the corpus."""
    line = json.dumps(failure.text.encode("latin-1").hex() if parser.is_packed else failure.text)
    return f"{parser.name}: input {failure.number} of seed {seed}: {failure.what}\n  {line}\n{failure.trace}"
