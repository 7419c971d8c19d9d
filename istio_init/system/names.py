"""Names of users, groups and services, from the files of a root or from the system's own name service."""

from __future__ import annotations

from istio_init.config.parse import Names
from istio_init.system.rooted import read_text


class FileNames(Names):
    """Names as the files below a root give them; ``/`` asks the system's name service, as iptables would."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

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
        for line in (read_text(self.root, f"/etc/{file}") or "").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 2 and fields[2].isdigit():
                return int(fields[2])
        return None
