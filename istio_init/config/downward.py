"""The text of a downward API volume: one ``key="value"`` a line, the value quoted as Go does (fmt's %q)."""

from __future__ import annotations

import re

LINE = re.compile(r'([^="\s]{1,400})="((?:[^"\\]|\\.)*)"')
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
LAST = 0x10FFFF
"""The highest code point."""


def parse(text: str) -> dict[str, str]:
    """The pairs. A line that is none is left out; of a key that comes twice the first counts."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        pair = LINE.fullmatch(line)
        if pair is not None:
            found.setdefault(pair[1], ESCAPE.sub(_character, pair[2]))
    return found


def _character(escape: re.Match[str]) -> str:
    *numbers, octal, plain = escape.groups()
    if plain is not None:
        return PLAIN.get(plain, plain)
    number = int(octal, 8) if octal is not None else next(int(each, 16) for each in numbers if each is not None)
    return chr(number) if number <= LAST else "\ufffd"
