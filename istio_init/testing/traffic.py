"""Connections and listeners inside namespaces, and what each end can tell about them."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from istio_init.netfilter.family import Family
from istio_init.system.transparent import make_transparent, original_destination
from istio_init.testing.entering import ROOT, User
from istio_init.testing.hiding import tells_of_the_test
from istio_init.testing.namespaces import Namespace

__tracebackhide__ = tells_of_the_test

TIMEOUT = 5.0
"""Seconds after which traffic that did not arrive counts as lost."""


class Endpoint(NamedTuple):
    """An address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


ADDRESS_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


def family_of(address: Endpoint) -> Family:
    """The family of an address."""
    return Family.IPV6 if ":" in address.host else Family.IPV4


def connect(namespace: Namespace, user: User, address: Endpoint, *, source: str | None = None) -> socket.socket:
    """Connect by TCP from inside a namespace, as a user, from an address of the namespace's if one is given."""
    made = namespace.open_socket(ADDRESS_FAMILIES[family_of(address)], socket.SOCK_STREAM, user)
    made.settimeout(TIMEOUT)
    if source is not None:
        made.bind((source, 0))
    made.connect(address)
    return made


def talk(one: socket.socket, other: socket.socket) -> None:
    """Check that what either end of a connection sends arrives at the other."""
    for sender, receiver, words in ((one, other, b"hello"), (other, one, b"welcome")):
        sender.sendall(words)
        arrived = receiver.recv(64)
        assert arrived == words


def close_without_trace(one: socket.socket, other: socket.socket) -> None:
    """Close both ends of a connection, leaving neither in TIME_WAIT: a port that is used again begins anew."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    other.close()


@dataclass(frozen=True)
class Accepted:
    """A connection as the accepting end sees it."""

    connection: socket.socket
    peer: Endpoint
    local: Endpoint
    """Its own name, which is the original destination where TPROXY delivered it."""

    original: Endpoint
    """The destination that the connection tracker remembers, from before any REDIRECT."""


class _Server:
    """A socket that is closed when its context ends."""

    socket: socket.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()


class Listener(_Server):
    """A TCP listener on every address of a namespace; a transparent one also takes connections to other addresses."""

    def __init__(self, namespace: Namespace, family: Family, port: int, *, transparent: bool = False) -> None:
        self._namespace = namespace
        self.family = family
        self.port = port
        self.socket = namespace.open_socket(ADDRESS_FAMILIES[family], socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is Family.IPV6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            make_transparent(self.socket)
        self.socket.bind(("", port))
        self.socket.listen(1024)
        self.socket.settimeout(TIMEOUT)

    def accept(self) -> Accepted:
        """Wait for the next connection."""
        try:
            connection, peer = self.socket.accept()
        except TimeoutError:
            raise AssertionError(f"no connection came to {self.family.value} port {self.port}") from None
        self._namespace.adopt(connection).settimeout(TIMEOUT)
        local = Endpoint(*connection.getsockname()[:2])
        return Accepted(connection, Endpoint(*peer[:2]), local, Endpoint(*original_destination(connection)))


class Datagrams(_Server):
    """A UDP server on one address of a namespace."""

    def __init__(self, namespace: Namespace, address: Endpoint, user: User = ROOT) -> None:
        self.address = address
        self.socket = namespace.open_socket(ADDRESS_FAMILIES[family_of(address)], socket.SOCK_DGRAM, user)
        self.socket.bind(address)
        self.socket.settimeout(TIMEOUT)

    def answer(self, words: bytes) -> bytes:
        """Wait for a datagram and answer it; what it said."""
        try:
            question, asker = self.socket.recvfrom(512)
        except TimeoutError:
            raise AssertionError(f"no datagram came to {self.address}") from None
        self.socket.sendto(words, asker)
        return question


def ask(namespace: Namespace, user: User, address: Endpoint, words: bytes) -> socket.socket:
    """Send a datagram from a connected socket, as a user; the answer can be received from the result."""
    made = namespace.open_socket(ADDRESS_FAMILIES[family_of(address)], socket.SOCK_DGRAM, user)
    made.settimeout(TIMEOUT)
    made.connect(address)
    made.send(words)
    return made
