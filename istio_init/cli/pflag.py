"""The grammar of Go's pflag, which istio-iptables' callers write in.

``--flag value``, ``--flag=value``, ``-f value``, ``-fvalue``, ``-f=value``, several short booleans in one word,
``--`` ends the flags. Words that belong to no flag mean nothing to the reference. The last of a repeated flag holds.
"""

from __future__ import annotations

from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.options import Option


class UsageError(ValueError):
    """A word that is not of the grammar."""


def parse_flags(argv: list[str], options: Iterable[Option]) -> tuple[dict[str, str], list[str]]:
    """The values given, by long flag, and the words that belong to no flag.

    Raises:
        UsageError: a flag is not known, or its value is missing.
    """
    options = list(options)
    long = {option.flag: option for option in options if option.flag}
    short = {option.short: option for option in options if option.short}
    given: dict[str, str] = {}
    stray: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            stray += words
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            option = long.get(name)
            if option is None:
                raise UsageError(f"unknown flag: {visible(name)}{_hint(name, long)}")
            given[name] = value if equals else "true" if option.is_flag else _next(words, name)
        elif word.startswith("-") and len(word) > 1:
            _parse_short(word, words, short, given)
        else:
            stray.append(word)
    return given, stray


def _hint(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.lower().replace("_", "-"), known, 1, 0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _parse_short(word: str, words: list[str], short: dict[str, Option], given: dict[str, str]) -> None:
    rest = word[1:]
    while rest:
        flag, rest = f"-{rest[0]}", rest[1:]
        option = short.get(flag)
        if option is None:
            raise UsageError(f"unknown shorthand flag: {flag[1]!r} in {visible(word)}")
        assert option.flag is not None
        if rest.startswith("="):
            given[option.flag], rest = rest[1:], ""
        elif option.is_flag:
            given[option.flag] = "true"
        else:
            given[option.flag] = rest or _next(words, flag)
            rest = ""


def _next(words: list[str], flag: str) -> str:
    if not words:
        raise UsageError(f"flag needs an argument: {flag}")
    return words.pop(0)
