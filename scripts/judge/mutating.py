"""Inputs made out of others: spliced, cut, repeated, with other numbers, words and characters. The same for a seed."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any

LONGEST = 4096
"""Characters of an input, but for one in a hundred, which is to show what grows faster than its length."""

VERY_LONG = 64 << 10

NUMBERS = (
    "0", "1", "-1", "7", "127", "128", "255", "256", "32767", "65535", "65536", "2147483648", "4294967294",
    "4294967295", "4294967296", "18446744073709551616", "9" * 40, "1" * 5000, "0x539", "0x", "0xffffffffff", "1e999",
    "1_000", "007", "1.5", "²", "٣", "\uff11", "NaN", "-0",
)  # fmt: skip

CHARACTERS = (
    *"\0\t\n\v\f\r\x1b\x7f \"'`\\!#$%&()*+,-./:;<=>?@[]^_{|}~aZ0",
    "\x85", "\xa0", "\xad", "é", "\u061c", "\u200b", "\u2028", "\u202e", "\ufeff", "\U000e0041", "\ud800", "\udcff",
    "\U0010ffff",
)  # fmt: skip


class Form(Enum):
    """What an input is made of: text; JSON; bytes, written as characters; attributes of netlink behind a header."""

    TEXT = "text"
    JSON = "json"
    BYTES = "bytes"
    NETLINK = "netlink"


_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[^\s\",:{}\[\]]+")


def mutated(chance: random.Random, seeds: Sequence[str], tokens: Sequence[str], form: Form, header: int) -> str:
    """A new input out of one seed or several, mostly of short ones. A netlink message's ``header`` is so long."""
    text = min(chance.choice(seeds), chance.choice(seeds), key=len)
    packed = form in (Form.BYTES, Form.NETLINK)
    if form is Form.JSON and chance.random() < 0.7:
        text = _tree_of_json(chance, text, seeds, tokens)
    if form is Form.NETLINK and chance.random() < 0.7:
        text = _tree_of_attributes(chance, text, seeds, header)
    if form in (Form.JSON, Form.NETLINK) and chance.random() < 0.7:
        return text[:VERY_LONG]
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        text = chance.choice(_WAYS)(chance, text, seeds, tokens, packed)
        if len(text) > LONGEST and (len(text) > VERY_LONG or chance.random() < 0.99):
            text = text[:LONGEST]
    return text[:VERY_LONG]


def _span(chance: random.Random, text: str) -> tuple[int, int]:
    """The ends of a part: most are short."""
    first = chance.randrange(len(text) + 1)
    return first, min(len(text), first + chance.choice((1, 1, 2, 4, 8, 16, 64, 256)))


def _splice(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    other = chance.choice(seeds)
    return text[: chance.randrange(len(text) + 1)] + other[chance.randrange(len(other) + 1) :]


def _cut(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    return text[: chance.randrange(len(text) + 1)]


def _remove(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    first, last = _span(chance, text)
    return text[:first] + text[last:]


def _repeat(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    first, last = _span(chance, text)
    times = chance.choice((2, 2, 3, 8)) if chance.random() < 0.97 else chance.choice((100, 1000, 10000))
    return (text[:first] + text[first:last] * times + text[last:])[:VERY_LONG]


def _move(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    first, last = _span(chance, text)
    rest = text[:first] + text[last:]
    place = chance.randrange(len(rest) + 1)
    return rest[:place] + text[first:last] + rest[place:]


def _flip(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    if not text:
        return text
    place = chance.randrange(len(text))
    number = ord(text[place]) ^ 1 << chance.randrange(8 if packed or text[place] <= "\xff" else 16)
    return text[:place] + chr(number) + text[place + 1 :]


def _character(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    first, last = _span(chance, text)
    last = first if chance.random() < 0.5 else last
    new = chr(chance.choice((0, 1, 2, 4, 8, 0x7F, 0x80, 0xFF, chance.randrange(256))))
    if not packed:
        new = chance.choice(CHARACTERS) if chance.random() < 0.9 else chr(chance.randrange(0x110000))
    return text[:first] + new + text[last:]


def _number(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    if packed:
        place = chance.randrange(len(text) + 1)
        size = chance.choice((1, 2, 4, 8))
        number = chance.choice((0, 1, 2**15, 2**31, 2**63, 2**64 - 1, chance.getrandbits(64))) % (1 << 8 * size)
        new = number.to_bytes(size, chance.choice(("little", "big"))).decode("latin-1")
        return text[:place] + new + text[place + size :]
    found = list(_NUMBER.finditer(text[:LONGEST]))
    if not found:
        return text
    which = chance.choice(found)
    return text[: which.start()] + chance.choice(NUMBERS) + text[which.end() :]


def _token(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    if not tokens:
        return text
    place = chance.randrange(len(text) + 1)
    return text[:place] + chance.choice(tokens) + text[place:]


def _word(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str], packed: bool) -> str:
    """One word in the place of another: of this text, of another seed, or of the parser's own."""
    found = list(_WORD.finditer(text[:LONGEST]))
    if packed or not found:
        return _flip(chance, text, seeds, tokens, packed)
    which = chance.choice(found)
    if tokens and chance.random() < 0.5:
        new = chance.choice(tokens)
    else:
        other = _WORD.findall(chance.choice(seeds)) or [""]
        new = chance.choice(other)
    return text[: which.start()] + new + text[which.end() :]


_WAYS = (_splice, _cut, _remove, _repeat, _move, _flip, _character, _character, _number, _number, _token, _word, _word)


@lru_cache(maxsize=256)
def _values_of(text: str) -> tuple[str, ...]:
    """Every value within a seed, as JSON."""
    top = json.loads(text)
    return tuple([json.dumps(holder[key]) for holder, key in _places(top)])


def _tree_of_json(chance: random.Random, text: str, seeds: Sequence[str], tokens: Sequence[str]) -> str:
    """The same with some of its values replaced, moved, left out or repeated."""
    try:
        top, donors = json.loads(text), _values_of(chance.choice(seeds))
    except ValueError:
        return text
    places = _places(top)
    for _ in range(min(len(places), chance.choice((1, 1, 2, 3, 5)))):
        holder, key = chance.choice(places)
        # What was left out or moved meanwhile is changed where nobody sees it, or has gone.
        if key in holder if isinstance(holder, dict) else key < len(holder):
            new = json.loads(chance.choice(donors)) if donors else None
            _change(chance, holder, key, new, tokens)
    try:
        return json.dumps(top)
    except RecursionError:
        return text


def _change(chance: random.Random, holder: Any, key: Any, new: Any, tokens: Sequence[str]) -> None:
    character = chance.choice(CHARACTERS)
    scalars: tuple[Any, ...] = (None, True, 0, -1, 1 << 32, 1 << 80, 1.5, "", "*", "@s", [], {}, [[]], character)
    match chance.randrange(7):
        case 0:
            del holder[key]
        case 1:
            holder[key] = chance.choice(scalars)
        case 2:
            holder[key] = chance.choice(
                ([holder[key]], {"elem": holder[key]}, {"set": [holder[key]]}, {"|": [holder[key]]})
            )
        case 3 if isinstance(holder, dict):
            holder[chance.choice(tokens or ("x",)).strip('"').partition('"')[0]] = holder.pop(key)
        case 4 if isinstance(holder, list):
            holder[key:key] = [holder[key]] * chance.choice((1, 2, 50))
        case 5 if isinstance(holder[key], str):
            holder[key] = chance.choice(
                (chance.choice(tokens or ("x",)).strip('"'), chance.choice(NUMBERS[:-12]), holder[key] * 2)
            )
        case _:
            holder[key] = new


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every value within, by what holds it and where."""
    found: list[tuple[Any, Any]] = []
    holders = [value] if isinstance(value, (dict, list)) else []
    for each in holders:
        inside = each.items() if isinstance(each, dict) else enumerate(each)
        for key, inner in inside:
            found.append((each, key))
            if isinstance(inner, (dict, list)):
                holders.append(inner)
    return found


_Attributes = list[tuple[int, "bytes | _Attributes"]]


def _tree_of_attributes(chance: random.Random, text: str, seeds: Sequence[str], header: int) -> str:
    """The same with some of its attributes replaced, moved, left out or repeated; lengths are right."""
    packed, other = text.encode("latin-1"), chance.choice(seeds).encode("latin-1")
    top = _unpacked(packed[header:], 0)
    lists = list(_lists(top))
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        where = chance.choice(lists)
        if not where:
            break
        at = chance.randrange(len(where))
        kind, body = where[at]
        match chance.randrange(6):
            case 0:
                del where[at]
            case 1:
                where[at] = (chance.choice((kind ^ 1 << chance.randrange(6), kind ^ 0x8000)), body)
            case 2 if isinstance(body, bytes):
                cut = body[: chance.randrange(len(body) + 1)]
                where[at] = (kind, chance.choice((cut, body + body, bytes(len(body)), b"\xff" * len(body))))
            case 3:
                where.append(chance.choice(chance.choice(list(_lists(_unpacked(other[header:], 0)))) or where))
            case 4:
                where[at:at] = [where[at]] * chance.choice((1, 2, 50))
            case _:
                where[at] = (kind, bytes(chance.randrange(256) for _ in range(chance.choice((0, 1, 2, 4, 8, 16)))))
    return (packed[:header] + _packed(top)).decode("latin-1")


def _lists(attributes: _Attributes) -> Iterator[_Attributes]:
    yield attributes
    for _, body in attributes:
        if isinstance(body, list):
            yield from _lists(body)


def _unpacked(packed: bytes, depth: int) -> _Attributes:
    found: _Attributes = []
    offset = 0
    while offset + 4 <= len(packed):
        length, kind = struct.unpack_from("=HH", packed, offset)
        if length < 4:
            break
        body = packed[offset + 4 : offset + length]
        found.append((kind, _unpacked(body, depth + 1) if kind & 0x8000 and depth < 8 else body))
        offset += (length + 3) & ~3
    return found


def _packed(attributes: _Attributes) -> bytes:
    parts = []
    for kind, body in attributes:
        flat = (body if isinstance(body, bytes) else _packed(body))[:0xFFF0]
        parts.append(struct.pack("=HH", 4 + len(flat), kind & 0xFFFF) + flat + bytes(-len(flat) % 4))
    return b"".join(parts)
