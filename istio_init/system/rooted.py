"""Files below another root, such as a process's: a symbolic link there may not lead out into our own files."""

from __future__ import annotations

import os
import stat

MAX_LINKS = 40
"""As many links as the kernel itself follows (path_resolution(7))."""


def read_text(root: str, path: str) -> str | None:
    """The text of a regular file at ``path`` as a process whose root is ``root`` sees it; None where there is none."""
    found = resolve(root, path)
    try:
        if found is None or not stat.S_ISREG(os.stat(found).st_mode):
            return None
        with open(found, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def resolve(root: str, path: str) -> str | None:
    """The path below our own root at which the file really lies; None where links lead nowhere."""
    if root == "/":
        return path
    pending = path.strip("/").split("/")[::-1]
    found: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            found = found[:-1]
            continue
        try:
            target = os.readlink("/".join([root, *found, part]))
        except OSError:
            found.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            return None
        if target.startswith("/"):
            found = []
        pending += target.strip("/").split("/")[::-1]
    return "/".join([root, *found])
