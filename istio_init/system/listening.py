"""Short-lived listeners on both sides, which tell where our own probes come out, and answer only them."""

from __future__ import annotations

import errno
import os
import socket
import struct

from istio_init.netfilter.family import Family
from istio_init.system.privileges import acting_as
from istio_init.system.spots import Arrival, Spot
from istio_init.system.transparent import make_transparent, original_destination

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

TOKEN = 16
"""Bytes of the random token that tells our own probes from everything else."""

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing leaves nothing behind, neither TIME_WAIT nor a connection that holds its namespace."""


def new_socket(
    family: Family, protocol: str, owner: tuple[int, int] | None, *, mark: int = 0, device: str | None = None
) -> socket.socket:
    """A socket that belongs to a user and a group, does not block, and leaves nothing behind.

    ``mark`` is what it puts on packets, ``device`` the interface that it is bound to.

    Raises:
        OSError: it cannot be made, or not be theirs, or lacks the privilege for a mark.
    """
    with acting_as(owner):
        made = socket.socket(FAMILIES[family], KINDS[protocol] | socket.SOCK_NONBLOCK)
    try:
        if protocol == "tcp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        if mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if device is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(device))
    except OSError:
        made.close()
        raise
    return made


class Listener:
    """One listener, on a spot of the current network namespace.

    ``arrived`` is called with the token and where it came out, and says whether the token is one of ours.

    Raises:
        OSError: it cannot listen there; EADDRINUSE where another program does.
    """

    def __init__(self, spot: Spot, arrived: Callable[[bytes, Arrival], bool]) -> None:
        self.spot = spot
        self._arrived = arrived
        self._waiting: dict[int, tuple[socket.socket, tuple[str, int]]] = {}
        self.socket = new_socket(spot.family, spot.protocol, spot.owner, mark=spot.mark, device=spot.device)
        try:
            self._listen()
        except OSError:
            self.socket.close()
            raise

    def _listen(self) -> None:
        made, spot = self.socket, self.spot
        if spot.family is Family.IPV6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if spot.transparent:
            make_transparent(made)
        if spot.protocol == "tcp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Past connections of others do not count.
        made.bind(("" if spot.address is None else str(spot.address), spot.port))
        if spot.protocol == "tcp":
            made.listen(64)

    @property
    def descriptors(self) -> list[int]:
        """What to wait for: the listener, and connections that have not said anything yet."""
        return [self.socket.fileno(), *self._waiting]

    def ready(self, descriptor: int) -> None:
        """Something came to one of them."""
        if descriptor in self._waiting:
            self._read(descriptor)
        elif descriptor == self.socket.fileno():
            self._answer() if self.spot.protocol == "udp" else self._accept()

    def holds(self, peer: tuple[str, int]) -> bool:
        """Whether a connection from there has come to it and not said anything yet."""
        return any(name == peer for _, name in self._waiting.values())

    def close(self) -> None:
        """End it with everything that came to it."""
        for connection, _ in self._waiting.values():
            connection.close()
        self._waiting.clear()
        self.socket.close()

    def _accept(self) -> None:
        try:
            with acting_as(self.spot.owner):
                connection, peer = self.socket.accept()
        except OSError:
            return
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self._waiting[connection.fileno()] = connection, (peer[0], peer[1])

    def _read(self, descriptor: int) -> None:
        """Take the token of a connection and give it back; a connection that says something else is closed."""
        connection, peer = self._waiting[descriptor]
        try:
            token = connection.recv(TOKEN)
            arrival = Arrival(self.spot.side, self.spot.port, original_destination(connection), peer[0])
            if self._arrived(token, arrival):
                connection.send(token)
                return  # The other end closes it.
        except OSError:
            pass
        del self._waiting[descriptor]
        connection.close()

    def _answer(self) -> None:
        try:
            token, asker = self.socket.recvfrom(TOKEN)
            if self._arrived(token, Arrival(self.spot.side, self.spot.port, None, asker[0])):
                self.socket.sendto(token, asker)
        except OSError:
            return


def listen(spot: Spot, arrived: Callable[[bytes, Arrival], bool]) -> Listener | None:
    """A listener on a spot; None where another program listens there, or it may not be listened on."""
    try:
        return Listener(spot, arrived)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL):
            return None
        raise
