"""Text of others made fit to be shown: names, comments and words of rules may hold anything."""

from __future__ import annotations

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_TABLE = {
    **{number: f"\\x{number:02x}" for number in _CONTROLS},
    **{number: f"\\u{number:04x}" for number in (0x2028, 0x2029)},
    **{0xDC00 + number: f"\\x{number:02x}" for number in range(0x80, 0x100)},
}


def visible(text: str) -> str:
    """The text with control characters, line breaks and bytes that are no text written as escapes."""
    return text.translate(_TABLE)
