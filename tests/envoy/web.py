"""A small HTTP server that tells who called it, and clients of it, for use inside namespaces."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from istio_init.testing.entering import User
from istio_init.testing.namespaces import Namespace
from istio_init.testing.traffic import ADDRESS_FAMILIES, Endpoint, connect, family_of

PATIENCE = 15.0
"""Seconds for an answer."""


class _Server(asyncio.Protocol):
    """Answers each request with the path that it asked for and the addresses of both ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            ends = (self.transport.get_extra_info(name)[0] for name in ("peername", "sockname"))
            body = json.dumps([head.split(b" ")[1].decode(), *ends]).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            if b"\r\nconnection: close" in head:
                self.transport.close()


def serve(listening: Sequence[socket.socket]) -> None:
    """Answer on these listening sockets for ever."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(_Server, sock=each, backlog=1024) for each in listening]
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(run())


class Answer(NamedTuple):
    """What a server said: its status, and if it was ours, the path, who called, and under which address."""

    status: int
    path: str
    peer: str
    local: str


def get(namespace: Namespace, user: User, address: Endpoint, path: str) -> Answer:
    """Ask a server for a path, as a user, over a connection of its own."""
    with connect(namespace, user, address) as client:
        status, body = _ask(client, address, path)
    return Answer(status, *(json.loads(body) if status == 200 else ("", "", "")))


def text(namespace: Namespace, address: Endpoint, path: str) -> str:
    """What a server says as root asks for a path."""
    with connect(namespace, User(0, 0), address) as client:
        return _ask(client, address, path)[1].decode()


def _ask(client: socket.socket, address: Endpoint, path: str) -> tuple[int, bytes]:
    client.sendall(f"GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n".encode())
    with client.makefile("rb") as answer:
        data = answer.read()
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        raise ConnectionError("closed without an answer")
    status, headers = int(head.split(b" ", 2)[1]), head.lower()
    return status, _unchunked(body) if b"transfer-encoding: chunked" in headers else body


def _unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body, data = body + data[:length], data[length + 2 :]
    return body


def ask_often(count: int, addresses: Sequence[Endpoint], word: str) -> Counter[str]:
    """Ask these servers in turn, each time over a new connection; how often it was answered, or what failed."""
    os.nice(5)
    met: Counter[str] = Counter()
    for number, address in zip(range(count), itertools.cycle(addresses), strict=False):
        path = f"/{word}/{number}"
        with socket.socket(ADDRESS_FAMILIES[family_of(address)], socket.SOCK_STREAM) as client:
            client.settimeout(PATIENCE)
            # Leave no port in TIME_WAIT behind, as there would soon be none left.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                client.connect(address)
                status, body = _ask(client, address, path)
                met["answered" if status == 200 and json.loads(body)[0] == path else f"status {status}"] += 1
            except (OSError, ValueError) as error:
                met[type(error).__name__] += 1
    return met
