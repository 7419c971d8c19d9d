"""What is asked of netlink directly, as programs would be too slow: logged packets, rules' counters, connections."""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETLINK_NETFILTER = 12
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
ERROR, DONE = 2, 3
LOG_CONFIG, LOG_PACKET = 0x401, 0x400
CT_DELETE = 0x102
DUMPS = {"tables": 0xA01, "chains": 0xA04, "rules": 0xA07, "sets": 0xA0A}
GET_ELEMENTS = 0xA0D
BIND, COPY_PACKET = 1, 2
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

Place = tuple[str, str, str, str, int]
"""Store, family, table, chain and number of a rule."""


class Logged(NamedTuple):
    """A packet at one of the hooks of the laboratory's own table."""

    hook: str
    came: int
    leaves: int
    mark: int
    payload: bytes


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in a message."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += max(4, length + 3 & ~3)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages in a datagram, by their types."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        yield kind, data[offset + 16 : offset + length]
        offset += max(16, length + 3 & ~3)


def request(kind: int, flags: int, group: int = 0, body: bytes = b"", family: int = 0) -> bytes:
    """A message of netfilter's."""
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, 1, 0, family, 0, socket.htons(group)) + body


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    made.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
    made.bind((0, 0))
    return made


class Netlink:
    """Sockets of one namespace."""

    def __init__(self, group: int) -> None:
        self._log, self._asks = _socket(), _socket()
        parts = (
            attribute(1, struct.pack("B", BIND)),
            attribute(2, struct.pack("!IBx", 0xFFFF, COPY_PACKET)),
            attribute(5, struct.pack("!I", 1)),
        )
        for part in parts:
            self._log.send(request(LOG_CONFIG, REQUEST | ACK, group, part))
            self._acknowledged(self._log)
        self._log.setblocking(False)

    def close(self) -> None:
        """Give the sockets back."""
        self._log.close()
        self._asks.close()

    def logged(self) -> list[Logged]:
        """What was logged since, in order."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                for kind, body in messages(self._log.recv(1 << 17)):
                    if kind == LOG_PACKET:
                        found.append(_logged(dict(attributes(body[4:]))))
        return found

    def forget_connections(self) -> None:
        """Empty the table of connections."""
        self._asks.send(request(CT_DELETE, REQUEST | ACK))
        self._acknowledged(self._asks)

    def counters(self) -> dict[Place, int]:
        """How often each rule of nf_tables matched."""
        found: dict[Place, int] = {}
        numbers: dict[tuple[str, str, str], int] = {}
        for body in self._dump(DUMPS["rules"]):
            parts = dict(attributes(body[4:]))
            where = (FAMILIES.get(body[0], str(body[0])), _text(parts[1]), _text(parts[2]))
            numbers[where] = numbers.get(where, 0) + 1
            found["nft", *where, numbers[where]] = _count(parts.get(4, b""))
        return found

    def dumped(self, without: str) -> dict[str, list[str]]:
        """The messages about tables, chains, rules, sets and their elements, as they come, but for one table's."""
        found: dict[str, list[str]] = {}
        for name, kind in DUMPS.items():
            found[name] = []
            for body in self._dump(kind):
                parts = dict(attributes(body[4:]))
                if _text(parts[1]) == without:
                    continue
                found[name].append(base64.b64encode(body).decode())
                if name == "sets":
                    which = attribute(1, parts[1]) + attribute(2, parts[2])
                    elements = self._dump(GET_ELEMENTS, body[0], which)
                    found.setdefault("elements", []).extend(base64.b64encode(each).decode() for each in elements)
        return found

    def _dump(self, kind: int, family: int = 0, body: bytes = b"") -> list[bytes]:
        self._asks.send(request(kind, REQUEST | DUMP, body=body, family=family))
        found: list[bytes] = []
        while True:
            for reply, content in messages(self._asks.recv(1 << 17)):
                if reply == DONE:
                    return found
                if reply == ERROR:
                    raise OSError(f"a dump is refused: {content[:4]!r}")
                found.append(content)

    @staticmethod
    def _acknowledged(made: socket.socket) -> None:
        for kind, body in messages(made.recv(1 << 16)):
            if kind == ERROR and (code := struct.unpack_from("=i", body)[0]):
                raise OSError(-code, "netlink refuses")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode()


def _count(expressions: bytes) -> int:
    """The packets of a rule's first counter."""
    for _, element in attributes(expressions):
        parts = dict(attributes(element))
        if parts.get(1) == b"counter\0":
            return int.from_bytes(dict(attributes(parts[2]))[2], "big")
    return 0


def _logged(parts: dict[int, bytes]) -> Logged:
    came, leaves, mark = (int.from_bytes(parts.get(kind, b""), "big") for kind in (4, 5, 2))
    return Logged(_text(parts.get(10, b"")), came, leaves, mark, parts.get(9, b""))
