"""Where a connection or a datagram that is really sent comes out, seen by listeners at every place it may come out."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import selectors
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from istio_init.system.transparent import make_transparent, original_destination
from istio_init.testing.entering import User
from istio_init.testing.hiding import tells_of_the_test
from istio_init.testing.namespaces import Namespace
from istio_init.testing.traffic import ADDRESS_FAMILIES, Endpoint, close_without_trace, family_of

__tracebackhide__ = tells_of_the_test

SOCKETS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
TOKEN_BYTES = 16

REFUSALS = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ECONNRESET)
"""What a sender gets where a rule, or a machine on the way, answers that it will not have it."""


class Spot(NamedTuple):
    """A port of a namespace where something may come out."""

    namespace: Namespace
    port: int


class Fate(Enum):
    """What became of what was sent."""

    ARRIVED = "arrived"
    REFUSED = "refused"
    LOST = "lost"
    UNSENT = "unsent"
    UNSEEN = "unseen"
    """It was accepted where the test already had a listener of its own."""


@dataclass(frozen=True)
class Arrival:
    """What came out, as the accepting end sees it."""

    spot: Spot
    peer: Endpoint
    """Who sent it, by the address and port that the accepting end sees."""

    original: Endpoint | None
    """The destination from before any REDIRECT; None for a datagram, of which the kernel does not tell it."""


@dataclass(frozen=True)
class Sending:
    """What shall be sent: from where, as whom, where to, how long to wait, in seconds, and with what mark."""

    namespace: Namespace
    user: User
    protocol: str
    destination: Endpoint
    within: float
    mark: int = 0


@dataclass(frozen=True)
class Sent:
    """What became of it. ``source`` is the sender's name where it had one; ``reason`` the error that it met."""

    fate: Fate
    source: Endpoint | None = None
    arrival: Arrival | None = None
    reason: str = ""


def send(sending: Sending, spots: Iterable[Spot]) -> Sent:
    """Send, and see at which of these spots it comes out."""
    family, kind = ADDRESS_FAMILIES[family_of(sending.destination)], SOCKETS[sending.protocol]
    with contextlib.ExitStack() as stack:
        watched: dict[socket.socket, Spot] = {}
        taken: list[Spot] = []
        for spot in dict.fromkeys(spots):
            made = stack.enter_context(spot.namespace.open_socket(family, kind))
            if _listens(made, spot.port):
                watched[made] = spot
            else:
                taken.append(spot)
        user = sending.namespace.outside(sending.user)
        client = stack.enter_context(sending.namespace.open_socket(family, kind, user))
        if sending.mark:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, sending.mark)
        return _send(client, sending, watched, taken)


def _listens(made: socket.socket, port: int) -> bool:
    """Bind a socket to every address, also for TPROXY; whether the port was free."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, made.type == socket.SOCK_STREAM)
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    make_transparent(made)
    try:
        made.bind(("", port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    if made.type == socket.SOCK_STREAM:
        made.listen()
    made.setblocking(False)
    return True


def _send(client: socket.socket, sending: Sending, watched: dict[socket.socket, Spot], taken: list[Spot]) -> Sent:
    deadline = time.monotonic() + sending.within
    token = secrets.token_bytes(TOKEN_BYTES)
    client.settimeout(sending.within)
    source = None
    try:
        client.connect(sending.destination)
        source = Endpoint(*client.getsockname()[:2])
        # A datagram that is dropped on its way out is EPERM; where it was rejected, the answer is yet to be read.
        with contextlib.suppress(PermissionError):
            client.sendall(token)
        return _arrived(client, source, token, watched, taken, deadline)
    except OSError as error:
        return _failed(error, source or _name(client))


def _arrived(
    client: socket.socket,
    source: Endpoint,
    token: bytes,
    watched: dict[socket.socket, Spot],
    taken: list[Spot],
    deadline: float,
) -> Sent:
    """Wait for the token; it is ours among whatever else comes.

    Raises:
        OSError: the sender met an error meanwhile.
    """
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        selector.register(client, selectors.EVENT_READ)
        for listening, spot in watched.items():
            selector.register(listening, selectors.EVENT_READ, spot)
        while (left := deadline - time.monotonic()) > 0:
            # The sender's own socket comes last: what has arrived counts, whatever it is told.
            for key, _ in sorted(selector.select(left), key=lambda each: each[0].data is None):
                arrival = None
                match key.data, key.fileobj:
                    case Spot() as spot, socket.socket(type=socket.SOCK_DGRAM) as listening:
                        arrival = _received(listening, spot, token)
                    case Spot() as spot, socket.socket() as listening:
                        visitor = _accepted(listening, spot)
                        if visitor is not None:
                            stack.enter_context(visitor.connection)
                            selector.register(visitor.connection, selectors.EVENT_READ, visitor)
                    case _Visitor() as visitor, _:
                        if visitor.is_done():
                            selector.unregister(visitor.connection)
                            arrival = _recognised(visitor, client, token)
                    case _:
                        # An error of the sender's, such as a refused datagram, is told by its own socket.
                        if not client.recv(64):
                            selector.unregister(client)
                if arrival is not None:
                    return Sent(Fate.ARRIVED, source, arrival)
    if taken:
        spots = ", ".join(f"port {spot.port} of {spot.namespace.label}" for spot in taken)
        return Sent(Fate.UNSEEN, source, reason=spots)
    return Sent(Fate.LOST, source)


@dataclass
class _Visitor:
    """Somebody whose connection was accepted, and what they have said so far."""

    connection: socket.socket
    spot: Spot
    peer: Endpoint
    said: bytes = b""

    def is_done(self) -> bool:
        """Listen once more; whether they have said enough, or say no more."""
        try:
            words = self.connection.recv(TOKEN_BYTES - len(self.said))
        except BlockingIOError:
            return False
        except OSError:  # Theirs, and not the sender's.
            return True
        self.said += words
        return not words or len(self.said) == TOKEN_BYTES


def _received(listening: socket.socket, spot: Spot, token: bytes) -> Arrival | None:
    """The datagram that came to a socket, if it is what was sent."""
    try:
        words, peer = listening.recvfrom(TOKEN_BYTES)
    except OSError:
        return None
    return Arrival(spot, Endpoint(*peer[:2]), None) if words == token else None


def _accepted(listening: socket.socket, spot: Spot) -> _Visitor | None:
    """Whoever came to a listener, unless they have gone again."""
    try:
        connection, peer = listening.accept()
    except OSError:
        return None
    connection.setblocking(False)
    return _Visitor(connection, spot, Endpoint(*peer[:2]))


def _recognised(visitor: _Visitor, client: socket.socket, token: bytes) -> Arrival | None:
    """The arrival of what was sent, if that is what they said; the connection ends in either case."""
    if visitor.said != token:
        visitor.connection.close()
        return None
    original = Endpoint(*original_destination(visitor.connection))
    close_without_trace(visitor.connection, client)
    return Arrival(visitor.spot, visitor.peer, original)


def _failed(error: OSError, source: Endpoint | None) -> Sent:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error, TimeoutError):
        return Sent(Fate.LOST, source, reason=reason)
    return Sent(Fate.REFUSED if error.errno in REFUSALS else Fate.UNSENT, source, reason=reason)


def _name(client: socket.socket) -> Endpoint | None:
    host, port = client.getsockname()[:2]
    return None if host in ("0.0.0.0", "::") else Endpoint(host, port)
