"""A tar of small files, in the plainest of its forms (POSIX ustar): written, and read from whoever made it.

Only regular files with names that are asked for are taken. What else tar knows (links, devices, directories, sparse
files, extended headers) is refused, so that nothing of an archive ever names a file of ours, or grows when it is read.
"""

from __future__ import annotations

import io
import tarfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = 512
MAGIC_AT, MAGIC = 257, b"ustar"
LONGEST = 64 << 20
"""Bytes of an archive that is read."""

MOST_FILES = 100


class ArchiveError(ValueError):
    """The bytes are no archive that is taken; says why."""


def is_archive(data: bytes) -> bool:
    """Whether data begins as an archive does."""
    return data[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def pack(files: Mapping[str, bytes], seconds: int) -> bytes:
    """An archive of files by their names, all of one time."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), seconds, 0o644
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an archive by their names.

    Raises:
        ArchiveError: it is damaged, or holds anything but files.
    """
    found: dict[str, bytes] = {}
    at = 0
    while at + BLOCK <= len(data):
        header = data[at : at + BLOCK]
        if not any(header):
            return found
        name, size = _header(header, at)
        at += BLOCK
        if size > len(data) - at:
            raise ArchiveError(f"it ends within the file {name!r}")
        if name in found:
            raise ArchiveError(f"it holds the file {name!r} twice")
        if len(found) == MOST_FILES:
            raise ArchiveError(f"it holds more than {MOST_FILES} files")
        found[name] = data[at : at + size]
        at += -(-size // BLOCK) * BLOCK
    raise ArchiveError("it ends before its end mark")


def _header(header: bytes, at: int) -> tuple[str, int]:
    """The name and the size of a file."""
    if not is_archive(header) or _number(header[148:156]) != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise ArchiveError(f"there is no header of a file at byte {at}")
    name = b"/".join([each for each in (_text(header[345:500]), _text(header[:100])) if each])
    shown = name.decode(errors="backslashreplace")
    if header[156:157] not in (b"0", b"\0"):
        raise ArchiveError(f"{shown!r} is no regular file, but something else that tar knows")
    return shown, _number(header[124:136])


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits or set(digits) - set(b"01234567"):
        raise ArchiveError("a number in a header is none")
    return int(digits, 8)
