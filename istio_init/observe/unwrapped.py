"""Text without what terminals, log collectors and tickets put around its lines."""

from __future__ import annotations

import json
import re

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\\\))")
_FENCE = re.compile(r"\s*(?:```|~~~)\w*\s*")
_POD = re.compile(r"\[pod/[^\]\s]+\] ")
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?:\s+std(?:out|err) [FP])?(?:\s|$)"
)
_LEVEL = re.compile(r"\s*(?:info|warn|error|debug|fatal)\s+")
MESSAGES = ("msg", "message", "log")
"""Where JSON logs have the text: of Istio, of others, and of Docker."""

MOST_TIMES = 3
"""Timestamps before a line: a program's own, its container's, and a collector's."""


def unwrapped(text: str) -> list[tuple[int, str]]:
    """The lines that are left, each with the number of the line that it stood in."""
    lines = text.split("\n")
    if _is_quoted(lines):
        lines = [line[1:].removeprefix(" ") for line in lines]
    return [(number, each) for number, line in enumerate(lines, 1) for each in _within(line, MOST_TIMES)]


def _is_quoted(lines: list[str]) -> bool:
    return all(line.startswith(">") for line in lines if line.strip())


def _within(line: str, depth: int) -> list[str]:
    """What a line holds, which are several lines of what a JSON log holds."""
    bare = _bare(line)
    message = _message(bare) if depth else None
    if message is not None:
        return [each for part in message.removesuffix("\n").split("\n") for each in _within(part, depth - 1)]
    return [] if _FENCE.fullmatch(bare) else [bare]


def is_wrapped(text: str) -> bool:
    """Whether something stands around lines that no program that prints rules puts there."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    if _is_quoted(text.split("\n")):
        return True
    return bool(_FENCE.fullmatch(first)) or _bare(first) != first.removesuffix("\r") or _message(first) is not None


def _bare(line: str) -> str:
    line = _POD.sub("", _ANSI.sub("", line).removesuffix("\r"), count=1)
    for _ in range(MOST_TIMES):
        if (time := _TIME.match(line)) is None:
            break
        line = line[time.end() :]
        if (level := _LEVEL.match(line)) is not None:
            line = line[level.end() :]
            break
    return line.strip()


def _message(line: str) -> str | None:
    """The text of a line of a JSON log."""
    if not line.lstrip().startswith("{") or not any(f'"{name}"' in line for name in MESSAGES):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    texts = [record[name] for name in MESSAGES if isinstance(record.get(name), str)]
    return texts[0] if texts else None
