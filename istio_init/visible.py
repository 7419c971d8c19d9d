"""Text of others made fit to be shown: names, comments and words of rules may hold anything."""

from __future__ import annotations

_IGNORED = (
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),  # Khmer inherent vowels
    (0x180B, 0x180F),  # Mongolian selectors
    (0x2800, 0x2800),  # a Braille pattern without dots
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFFA0, 0xFFA0),
    (0xFFFC, 0xFFFC),
    (0x16FE4, 0x16FE4),
    (0x1D159, 0x1D159),
    (0xE0000, 0xE0FFF),  # tags, and more selectors
)
"""Marks and letters that nothing is drawn for, besides what Unicode calls not printable (its Default_Ignorable_…)."""


def visible(text: str) -> str:
    """The text with everything written as escapes that is not seen, or is seen as something else.

    Control characters, line breaks, marks that turn text around, spaces but the usual one, what is invisible or not
    assigned, and bytes that are no text.
    """
    if text.isprintable() and (text.isascii() or not any(map(_is_ignored, text))):
        return text
    return "".join([each if each.isprintable() and not _is_ignored(each) else _escape(each) for each in text])


def visible_lines(text: str) -> str:
    """The same of a text of ours that has lines; only for names that were made visible one by one is a line ours."""
    return "\n".join([visible(line) for line in text.split("\n")])


def _is_ignored(character: str) -> bool:
    number = ord(character)
    return number > 0x34E and any(first <= number <= last for first, last in _IGNORED)


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"  # A byte that is no text.
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
