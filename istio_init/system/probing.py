"""Sends probes and collects where they come out: one loop over all sockets of both namespaces, without threads.

Each probe is given a moment of its own, so that its latency is its own, and then goes on beside the next ones; so all
of them together take no longer than one that times out.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
import time
from functools import partial

from istio_init.netfilter.family import Family
from istio_init.system.listening import TOKEN, Listener, listen, new_socket
from istio_init.system.process import LONGEST
from istio_init.system.sockets import LISTEN, peer_ports, sockets
from istio_init.system.spots import NO_PORT, NO_SOURCE, REFUSED, TIMED_OUT, Arrival, Probe, Seen, Side, Spot
from istio_init.system.transparent import make_transparent
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address

    from istio_init.system.neighbour import Neighbour

MOMENT = 0.05
"""Seconds that a probe has for itself."""

ARRIVING = 5
"""Milliseconds for a connection, which its sender takes to be made, to come to its listener, too."""

FAILURES = {
    errno.ECONNREFUSED: REFUSED,
    errno.ETIMEDOUT: TIMED_OUT,
    errno.ECONNRESET: "it was reset",
    errno.EADDRNOTAVAIL: NO_SOURCE,
}
PENDING = (errno.EINPROGRESS, errno.EAGAIN)

ANY = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}

PORTS_TRIED = 1000

IP_BIND_ADDRESS_NO_PORT = 24
"""The port is chosen when it connects, so that connections to others may share it (ip(7))."""


class _Client:
    """One probe on its way."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.token = secrets.token_hex(TOKEN // 2).encode()
        self.socket: socket.socket | None = None
        self.began = 0.0
        self.source: tuple[str, int] | None = None
        self.arrival: Arrival | None = None
        self.latency: float | None = None
        self.failure: str | None = None
        self.is_connected = False
        self.is_done = False

    def start(self, remembered: frozenset[int]) -> None:
        """Connect, or ask, from a port that is none of those that others remember a client by."""
        packet = self.probe.packet
        try:
            self.socket = self._made(remembered)
        except OSError as error:
            self.fail(error.errno or errno.EIO)
            return
        self.began = time.monotonic()
        code = self.socket.connect_ex((str(packet.destination), packet.destination_port))
        self.source = self.socket.getsockname()[:2]
        if code and code not in PENDING:
            self.fail(code, NO_PORT if code == errno.EADDRNOTAVAIL else None)

    def _made(self, remembered: frozenset[int]) -> socket.socket:
        """A socket of the probe's user, bound where it has to be; else connecting chooses its port."""
        packet, family = self.probe.packet, self.probe.family
        ids = (packet.uid, packet.gid) if packet.uid is not None and packet.gid is not None else None
        for _ in range(PORTS_TRIED if remembered else 0):
            made = self._new(ids)
            try:
                made.bind((str(self.probe.bind or ANY[family]), 0))
            except OSError as error:
                made.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                break  # No port is free; a shared one serves, too.
            if made.getsockname()[1] not in remembered:
                return made
            made.close()
        made = self._new(ids)
        if self.probe.bind is not None:
            made.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            made.bind((str(self.probe.bind), 0))
        return made

    def _new(self, ids: tuple[int, int] | None) -> socket.socket:
        probe = self.probe
        device = probe.device if probe.begins is Side.POD else None
        made = new_socket(probe.family, probe.protocol, ids, mark=probe.packet.mark, device=device)
        if probe.is_transparent:
            make_transparent(made)
        return made

    def fail(self, code: int, words: str | None = None) -> None:
        """The kernel said no."""
        self.failure = words or FAILURES.get(code, os.strerror(code))
        self.is_done = True

    def seen(self) -> Seen:
        """What there is to say in the end."""
        failure = self.failure or (None if self.is_done else TIMED_OUT)
        return Seen(self.source, self.arrival, self.latency, failure)


class Run:
    """Probes and the listeners for them, in the current network namespace and, if there is one, the second one.

    ``taken`` are the spots on which another program listens, ``busy`` those whose port another connection uses.
    """

    def __init__(self, probes: tuple[Probe, ...], spots: tuple[Spot, ...], neighbour: Neighbour | None) -> None:
        self.neighbour = neighbour
        self._clients = [_Client(probe) for probe in probes]
        self._by_token = {client.token: client for client in self._clients}
        self._listeners: list[Listener] = []
        self.taken: set[Spot] = set()
        self.busy: set[Spot] = set()
        self._spots = spots
        self._remembered: frozenset[int] | None = None

    def probe(self, timeout: float) -> list[Seen]:
        """Send everything; ``timeout`` is in seconds, for each probe."""
        try:
            for spot in self._spots:
                made = self._at(spot.side, lambda spot=spot: listen(spot, self._arrived))  # type: ignore[misc]
                if made is not None:
                    self._listeners.append(made)
                elif spot.side is Side.POD and _has_connection_alone(spot):
                    self.busy.add(spot)
                else:
                    self.taken.add(spot)
            for client in self._clients:
                is_occupied = self.occupied(client.probe) is not None
                if client.probe.protocol == "udp" and is_occupied:
                    client.is_done = True  # Nothing would tell who answers.
                    continue
                if self.blocked(client.probe) is not None:
                    client.is_done = True
                    continue
                if is_occupied and self._remembered is None:
                    self._remembered = peer_ports()
                remembered = self._remembered if is_occupied else None
                self._at(client.probe.begins, partial(client.start, remembered or frozenset()))
                self._wait([client], time.monotonic() + min(MOMENT, timeout))
            last = max((client.began for client in self._clients), default=0.0)
            self._wait(self._clients, last + timeout)
            return [client.seen() for client in self._clients]
        finally:
            self._close()

    def _at(self, side: Side, function: Callable[[], object]) -> Listener | None:
        """Call a function on a side."""
        if side is Side.NEIGHBOUR:
            assert self.neighbour is not None
            return self.neighbour.call(function)  # type: ignore[return-value]
        return function()  # type: ignore[return-value]

    def _close(self) -> None:
        for client in self._clients:
            if client.socket is not None:
                client.socket.close()
        for listener in self._listeners:
            listener.close()

    def _arrived(self, token: bytes, arrival: Arrival) -> bool:
        """A listener was told this token; whether it is one of ours."""
        client = self._by_token.get(token)
        if client is None:
            return False
        client.arrival = arrival
        return True

    def _wait(self, clients: list[_Client], deadline: float) -> None:
        """Serve every socket until these probes are done."""
        while not all(client.is_done for client in clients):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._serve(left)

    def _serve(self, seconds: float) -> None:
        """Wait for something to happen, once."""
        poll = select.poll()
        waiting: dict[int, Callable[[], None]] = {}
        for listener in self._listeners:
            for descriptor in listener.descriptors:
                poll.register(descriptor, select.POLLIN)
                waiting[descriptor] = lambda each=listener, number=descriptor: each.ready(number)  # type: ignore[misc]
        for client in self._clients:
            if client.socket is not None and not client.is_done and client.began:
                poll.register(client.socket, select.POLLIN if client.is_connected else select.POLLOUT)
                waiting[client.socket.fileno()] = lambda each=client: self._go_on(each)  # type: ignore[misc]
        for descriptor, _ in poll.poll(min(max(1, seconds * 1000), LONGEST)):
            waiting[descriptor]()

    def _go_on(self, client: _Client) -> None:
        """A probe is connected, or has its answer."""
        assert client.socket is not None
        if code := client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            client.fail(code)
            return
        try:
            if client.is_connected:
                self._answered(client, client.socket.recv(TOKEN))
                return
            client.is_connected = True
            if self.occupied(client.probe) is not None:
                self._look(client)
            if not client.is_done:
                client.socket.send(client.token)
        except OSError as error:
            client.fail(error.errno or errno.EIO)

    @staticmethod
    def _answered(client: _Client, answer: bytes) -> None:
        if answer == client.token and client.arrival is not None:
            client.latency = time.monotonic() - client.began
        elif client.arrival is None:
            client.failure = "another program answered" if answer else "another program took it, and closed it"
        client.is_done = True

    def occupied(self, probe: Probe) -> Spot | None:
        """The spot where a probe has to come out, if another program listens there."""
        return self._among(self.taken, probe)

    def blocked(self, probe: Probe) -> Spot | None:
        """The spot where a probe has to come out, if no listener can be opened there."""
        return self._among(self.busy, probe)

    @staticmethod
    def _among(spots: set[Spot], probe: Probe) -> Spot | None:
        side = Side.POD if probe.is_captured else probe.waits
        port = probe.expected.port if probe.is_captured else probe.packet.destination_port
        for spot in spots:
            place = spot.side, spot.protocol, spot.family, spot.port
            if place == (side, probe.protocol, probe.family, port):
                return spot
        return None

    def _look(self, client: _Client) -> None:
        """See in the kernel's list of sockets where a connection came out that is not ours to accept."""
        assert client.socket is not None
        self._accept()
        source = client.socket.getsockname()[:2]
        if any(listener.holds(source) for listener in self._listeners):
            return
        packet, expected = client.probe.packet, client.probe.expected
        for each in sockets(peer_port=source[1]):
            if each.protocol == "tcp" and each.state != LISTEN and (_plain(each.peer[0]), each.peer[1]) == source:
                # A transparent socket bears the name that was called, not that of its listener.
                is_transparent = expected.kind is Kind.TPROXY and each.port == packet.destination_port
                port = expected.port if is_transparent and expected.port is not None else each.port
                client.arrival = Arrival(Side.POD, port)
                client.latency = time.monotonic() - client.began
                client.is_done = True
                return

    def _accept(self) -> None:
        """Let our listeners accept what has come to them by now."""
        poll = select.poll()
        by_descriptor = {listener.socket.fileno(): listener for listener in self._listeners}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(ARRIVING):
            by_descriptor[descriptor].ready(descriptor)


def _has_connection_alone(spot: Spot) -> bool:
    """Whether sockets here have the port of a spot, and none of them listens."""
    place = spot.protocol, spot.port
    if any(each.listens and (each.protocol, each.port) == place for each in sockets(peer_port=0)):
        return False
    return any((each.protocol, each.port) == place for each in sockets())


def _plain(address: IPv4Address | IPv6Address) -> str:
    """The address as a socket of its own family has it."""
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)
