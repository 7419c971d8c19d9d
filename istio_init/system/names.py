"""Names of users, groups and services, from the files of a root or from the system's own name service."""

from __future__ import annotations

from istio_init.config.parse import Names
from istio_init.system.rooted import read_text

DIGITS, HIGHEST = 10, 2**32 - 2
"""The largest id; the one after it means none (credentials(7))."""


class FileNames(Names):
    """Names as the files below a root give them; ``/`` asks the system's name service, as iptables would."""

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self._texts: dict[str, str] = {}

    def service(self, name: str) -> int | None:
        import _socket

        try:
            return _socket.getservbyname(name)
        except OSError:
            return None

    def user(self, name: str) -> int | None:
        if self.root == "/":
            import pwd

            try:
                return pwd.getpwnam(name).pw_uid
            except KeyError:
                return None
        return self._id_in("passwd", name)

    def group(self, name: str) -> int | None:
        if self.root == "/":
            import grp

            try:
                return grp.getgrnam(name).gr_gid
            except KeyError:
                return None
        return self._id_in("group", name)

    def _id_in(self, file: str, name: str) -> int | None:
        """The number in the third field of passwd(5) and group(5)."""
        if file not in self._texts:
            self._texts[file] = read_text(self.root, f"/etc/{file}") or ""
        for line in self._texts[file].split("\n"):
            fields = line.split(":")
            if fields[0] == name and len(fields) > 2 and (number := _id(fields[2])) is not None:
                return number
        return None


def _id(text: str) -> int | None:
    """A user or group id in decimal; None where the text, which others wrote, is none."""
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS):
        return None
    number = int(text)
    return number if number <= HIGHEST else None
