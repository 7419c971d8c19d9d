"""Text of others made fit to be shown: names, comments and words of rules may hold anything."""

from __future__ import annotations

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_MARKS = [*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
"""Line breaks, and what hides text or turns it around."""

_TABLE = {
    **{number: f"\\x{number:02x}" for number in _CONTROLS},
    **{number: f"\\u{number:04x}" for number in _MARKS},
    **{0xDC00 + number: f"\\x{number:02x}" for number in range(0x80, 0x100)},
}


def visible(text: str) -> str:
    """The text with control characters, line breaks, invisible marks and bytes that are no text written as escapes."""
    return text.translate(_TABLE)
