"""Whatever text of others is shown is seen as it is: nothing acts on a terminal, hides or turns around."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.visible import visible, visible_lines

EVERYTHING = st.text(st.characters(exclude_categories=()))
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def is_seen(character: str) -> bool:
    return character == " " or unicodedata.category(character) not in UNSEEN


@given(EVERYTHING)
def test_all_that_is_shown_is_seen(text: str) -> None:
    shown = visible(text)

    assert all(map(is_seen, shown))
    assert "\n" not in shown
    assert visible(shown) == shown
    shown.encode()


@given(EVERYTHING)
def test_what_is_seen_anyway_stays_as_it_is(text: str) -> None:
    kept = "".join(each for each in text if each.isascii() and is_seen(each))

    assert visible(kept) == kept


@given(EVERYTHING)
def test_lines_of_ours_stay_lines_and_nothing_else_makes_one(text: str) -> None:
    shown = visible_lines(text)

    assert shown.count("\n") == text.count("\n")
    assert len(shown.splitlines()) <= text.count("\n") + 1
    assert all(is_seen(each) or each == "\n" for each in shown)


def test_every_character_of_unicode_is_seen_or_escaped() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        shown = visible(character)
        assert all(map(is_seen, shown)), hex(number)
        assert shown == character or (shown[0] == "\\" and shown.isascii() and len(shown) in (4, 6, 10)), hex(number)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\ufeffb", "a\\ufeffb"),
        ("a\u061cb", "a\\u061cb"),
        ("a\u00adb", "a\\xadb"),
        ("a\U000e0041b", "a\\U000e0041b"),
        ("a\ufe0fb", "a\\ufe0fb"),
        ("a\u3164b", "a\\u3164b"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u00a0b", "a\\xa0b"),
        ("a\x85b", "a\\x85b"),
        ("a\udcffb", "a\\xffb"),
        ("a\ud800b", "a\\ud800b"),
        ("naïve π 名前 \\", "naïve π 名前 \\"),
    ],
    ids=ascii,
)
def test_what_is_not_seen_is_written_as_its_number(text: str, shown: str) -> None:
    assert visible(text) == shown
