"""Serves the metrics of ``istio-init ps``: many clients at once and none for long, in the one thread that there is."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable

from istio_init.errors import IstioInitError

MOST_CLIENTS = 64
"""Connections at a time; of more the oldest is let go."""

PATIENCE = 5.0
"""Seconds that a client has for its request and its answer."""

LONGEST_REQUEST = 8192
EVERYWHERE = "*"

Answer = Callable[[], tuple[str, bytes]]
"""The type and the text of the metrics as they are now."""


class _Client:
    """A connection: what it said so far, what it is still to be told, and until when."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.until = time.monotonic() + PATIENCE
        self.said = b""
        self.left = b""


class MetricsServer:
    """Listens on an address and port; ``*`` is every address.

    Raises:
        IstioInitError: nothing can listen there.
    """

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        self._answer = answer
        self._clients: dict[int, _Client] = {}
        self._selector = selectors.DefaultSelector()
        everywhere = host == EVERYWHERE
        both = everywhere and socket.has_dualstack_ipv6()
        where = ("::" if both else "0.0.0.0") if everywhere else host
        family = socket.AF_INET6 if ":" in where else socket.AF_INET
        try:
            self._socket = socket.create_server((where, port), family=family, backlog=128, dualstack_ipv6=both)
        except OSError as error:
            raise IstioInitError(f"--metrics: nothing can listen on {where} port {port}: {error.strerror}") from None
        self._socket.setblocking(False)
        self._selector.register(self._socket, selectors.EVENT_READ)

    def serve(self, until: float) -> None:
        """Answer until a time of the monotonic clock."""
        while (now := time.monotonic()) < until:
            nearest = min([until, *(client.until for client in self._clients.values())])
            for key, _ in self._selector.select(max(0.0, nearest - now)):
                if key.fileobj is self._socket:
                    self._accept()
                elif key.fd in self._clients:
                    self._go_on(self._clients[key.fd])
            now = time.monotonic()
            for client in [each for each in self._clients.values() if each.until <= now]:
                self._let_go(client)

    def _accept(self) -> None:
        try:
            channel, _ = self._socket.accept()
        except OSError:
            return  # It is gone already, or there are no descriptors left for it.
        if len(self._clients) >= MOST_CLIENTS:
            self._let_go(min(self._clients.values(), key=lambda each: each.until))
        channel.setblocking(False)
        self._clients[channel.fileno()] = _Client(channel)
        self._selector.register(channel, selectors.EVENT_READ)

    def _go_on(self, client: _Client) -> None:
        try:
            if client.left:
                client.left = client.left[client.channel.send(client.left) :]
                if not client.left:
                    self._let_go(client)
                return
            more = client.channel.recv(LONGEST_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            self._let_go(client)
            return
        client.said += more
        if b"\r\n\r\n" in client.said or b"\n\n" in client.said:
            client.left = self._told(client.said)
            self._selector.modify(client.channel, selectors.EVENT_WRITE)
        elif not more or len(client.said) > LONGEST_REQUEST:
            self._let_go(client)

    def _told(self, request: bytes) -> bytes:
        method = request.partition(b" ")[0]
        if method not in (b"GET", b"HEAD"):
            return b"HTTP/1.0 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nContent-Length: 0\r\n\r\n"
        kind, text = self._answer()
        head = f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n".encode()
        return head if method == b"HEAD" else head + text

    def _let_go(self, client: _Client) -> None:
        self._clients.pop(client.channel.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client.channel)
        client.channel.close()
