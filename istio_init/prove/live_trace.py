"""Sends a connection's first packet from inside a namespace and collects what the kernel does with it.

This is the only part of the inspector that touches anything: a table of its own, which has the kernel trace that one
connection and goes away with the process at the latest, and the connection itself.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from istio_init.errors import IstioInitError, PrivilegeError, ToolError
from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Packet
from istio_init.netfilter.protocols import TCP, UDP
from istio_init.netfilter.rules import Store
from istio_init.netfilter.stages import NFT_FAMILIES
from istio_init.stores.legacy import IptablesLegacy
from istio_init.system import namespaces, netlink, nft_table
from istio_init.system.listening import AT_ONCE
from istio_init.system.nft_table import NETWORK, TRANSPORT, Expression, OwnedTable
from istio_init.system.nft_trace import Listener, Passage
from istio_init.system.privileges import acting_as
from istio_init.system.workers import in_child
from istio_init.trace.describe import OWN_TTL
from istio_init.trace.observed import Observed, Place
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.system.places import Place as Namespace

TABLE_NAME = "istio-init-trace"
BEFORE_ALL, AFTER_ALL = -(1 << 31), (1 << 31) - 2
"""Priorities before all others, and behind all but the one that confirms a connection."""

LO = 1
"""The index of lo."""

FAMILIES = {Family.IPV4: (socket.AF_INET, 2), Family.IPV6: (socket.AF_INET6, 10)}
"""The families of sockets and of nf_tables."""

KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
ICMP = {Family.IPV4: (1, 28), Family.IPV6: (58, 48)}
"""The protocol that tells of errors, and where in its message the source port of the packet stands that it is about."""

SOURCE_AT = {Family.IPV4: 12, Family.IPV6: 8}
TOS = {Family.IPV4: (socket.IPPROTO_IP, socket.IP_TOS), Family.IPV6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}
TTL = {Family.IPV4: (socket.IPPROTO_IP, socket.IP_TTL), Family.IPV6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
QUIET = 0.15
"""Seconds without news after which a packet is taken to have arrived or to be gone."""

SENT_ANYWAY = frozenset([0, errno.EINPROGRESS, errno.EPERM])
"""What connecting and sending say where a packet went out, or was dropped by a rule."""


class Sent(Value):
    """The packet as it really was, and what the kernel did with it."""

    packet: Packet
    seen: Observed


def send(packet: Packet, chosen: frozenset[str], place: Namespace, *, counts: bool) -> Sent:
    """Send a packet from the current network namespace, which is ``place``, and watch it.

    ``chosen`` are the fields that have to be as they are; of the others the kernel chooses source and interface.
    ``counts``: legacy holds rules, which tell of a packet by their counters alone.

    Raises:
        IstioInitError: it cannot be sent, or not be watched.
    """
    with open_socket(packet, place) as made, Listener() as listener:
        port = _bind(made, packet, chosen)
        with OwnedTable(TABLE_NAME) as table:
            _watch(table, packet, port)
            counters = _Counters(packet.family) if counts else None
            if counts:
                _keep_answers_away(table, packet, port)
            code = _send(made, packet)
            passages = _ours(listener.passages(quiet=QUIET), packet, port, table.name)
            if not passages and code not in SENT_ANYWAY:
                raise IstioInitError(f"nothing can be sent to {packet.destination}: {os.strerror(code)}")
            rose = counters.rose() if counters is not None else None
            seen = traced(passages, netlink.nft_rule_numbers())
            translated = any(each.headers.source_port != port for each in passages)  # Its answers are not known before.
            return Sent(_real(packet, port, passages), seen.replace(counts=rose, with_answers=translated))


def open_socket(packet: Packet, place: Namespace) -> socket.socket:
    """A socket of the packet's family and protocol, which belongs to its user and group and leaves nothing behind.

    Rules look at who made a socket. A child makes it, as in a pod with a user namespace of its own that one has to be
    entered, and passes it on.

    Raises:
        PrivilegeError: acting as that user is denied.
    """
    here, there = socket.socketpair()
    family, kind = FAMILIES[packet.family][0], KINDS[packet.protocol]

    def make() -> None:
        try:
            with acting_as((packet.uid or 0, packet.gid or 0)), socket.socket(family, kind) as made:
                socket.send_fds(there, [b"socket"], [made.fileno()])
        except OSError as error:
            what = f"no socket as user {packet.uid}, group {packet.gid}: {error.strerror}"
            fix = "run as root; in a user namespace they have to be mapped"
            raise PrivilegeError(what, fix=fix) from None

    with here, there:
        in_child(lambda: namespaces.call_in(place, make))
        made = socket.socket(fileno=socket.recv_fds(here, 16, 1)[1][0])
    if packet.protocol == TCP:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    return made


def _bind(made: socket.socket, packet: Packet, chosen: frozenset[str]) -> int:
    """Take the source that is asked for, or any free port. The port."""
    if packet.mark:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", packet.mark))
    if packet.tos:
        made.setsockopt(*TOS[packet.family], packet.tos)
    if packet.priority:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, packet.priority)
    if packet.ttl not in (None, OWN_TTL):
        made.setsockopt(*TTL[packet.family], packet.ttl)
    host = str(packet.source) if "source" in chosen else ""
    port = packet.source_port if "source_port" in chosen else 0
    try:
        made.bind((host, port))
    except OSError as error:
        fix = "give an address of the namespace and a free port, or leave out --src"
        what = f"no connection can come from {host or '*'} port {port}: {error.strerror}"
        raise IstioInitError(what, fix=fix) from None
    bound: int = made.getsockname()[1]
    return bound


def _send(made: socket.socket, packet: Packet) -> int:
    """Send it. The error's number, 0 without one."""
    made.setblocking(False)
    try:
        code = made.connect_ex((str(packet.destination), packet.destination_port))
        if code == 0 and packet.protocol == UDP:
            made.send(b"")
    except OSError as error:
        code = error.errno or 0
    return code


def _watch(table: OwnedTable, packet: Packet, port: int) -> None:
    """Have the connection traced where it leaves, and where it comes in again via lo, to the end of its way."""
    length = len(packet.destination.packed)
    target = nft_table.payload_is(NETWORK, SOURCE_AT[packet.family] + length, packet.destination.packed)
    ports = nft_table.payload_is(TRANSPORT, 0, struct.pack("!HH", port, packet.destination_port))
    table.add("OUTPUT", BEFORE_ALL, [*_kind(packet), *target, *ports, *nft_table.trace()])
    on_lo = nft_table.meta_is(nft_table.META_IIF, struct.pack("=I", LO))
    source_port = nft_table.payload_is(TRANSPORT, 0, struct.pack("!H", port))
    table.add("PREROUTING", BEFORE_ALL, [*_kind(packet), *on_lo, *source_port, *nft_table.trace()])
    table.add("POSTROUTING", AFTER_ALL)
    table.add("INPUT", AFTER_ALL)


def _kind(packet: Packet) -> list[Expression]:
    """A packet of the same family and protocol."""
    family = nft_table.meta_is(nft_table.META_FAMILY, bytes([FAMILIES[packet.family][1]]))
    return [*family, *nft_table.meta_is(nft_table.META_PROTOCOL, bytes([packet.protocol]))]


def _ours(passages: list[Passage], packet: Packet, port: int, table: str) -> list[Passage]:
    """Those of the packet, also with another source port; own are those through chains of ours, named as hooks are."""
    numbers: set[int] = set()
    ports = {port}
    found = []
    for each in passages:
        headers = each.headers
        if not headers.begins or headers.protocol != packet.protocol or each.family not in NFT_FAMILIES[packet.family]:
            continue
        if each.number in numbers or headers.source_port in ports:
            numbers.add(each.number)
            ports.add(headers.source_port)
            found.append(each.replace(is_own=(each.family, each.table) == ("inet", table)))
    return found


def _real(packet: Packet, port: int, passages: list[Passage]) -> Packet:
    """The packet as the kernel made it: with its source, its interface, and what stands in its headers."""
    first = next((each for each in passages if each.is_own and each.chain == "OUTPUT"), None)
    if first is None or first.leaves_by is None:
        raise ToolError("the kernel reports nothing about the packet", fix="see whether nft monitor trace works here")
    headers = first.headers
    return packet.replace(
        source=headers.source,
        source_port=port,
        interface=socket.if_indextoname(first.leaves_by),
        tcp_flags=headers.flags if packet.protocol == TCP else None,
        length=headers.length,
        ttl=headers.ttl,
        tos=headers.tos,
    )


def traced(passages: list[Passage], numbers: dict[tuple[str, str, str, int], int]) -> Observed:
    """What the passages of one packet tell, without those of its repetitions."""
    legs: list[list[Place]] = [[]]
    seen: set[tuple[str | None, str, str]] = set()
    for each in passages:
        if each.entered_by is not None and len(legs) == 1:
            legs.append([])
        chain = each.family, each.table, each.chain
        if each.family is None or chain in seen or each.is_own:
            continue
        seen.add(chain)
        family = each.family
        rules = [(name, numbers.get((family, each.table, name, handle), 0)) for name, handle in each.rules]
        legs[-1] += [(Store.NFT, family, each.table, name, number) for name, number in rules]
    return Observed(tuple(map(tuple, legs)), port=arrived_at(passages))


def arrived_at(passages: list[Passage]) -> int | None:
    """The port at which the packet arrived, or with which it left; None where it was stopped before."""
    own = [each for each in passages if each.is_own]
    ends = [each for each in own if each.chain == "INPUT" or (each.chain == "POSTROUTING" and each.leaves_by != LO)]
    return ends[0].headers.destination_port if ends else None


def _keep_answers_away(table: OwnedTable, packet: Packet, port: int) -> None:
    """Drop what comes back to the socket before any rule counts it, errors too."""
    protocol, offset = ICMP[packet.family]
    answer = [*_kind(packet), *nft_table.payload_is(TRANSPORT, 2, struct.pack("!H", port)), *nft_table.drop()]
    family = nft_table.meta_is(nft_table.META_FAMILY, bytes([FAMILIES[packet.family][1]]))
    error = [
        *family,
        *nft_table.meta_is(nft_table.META_PROTOCOL, bytes([protocol])),
        *nft_table.payload_is(TRANSPORT, offset, struct.pack("!H", port)),
        *nft_table.drop(),
    ]
    for hook in ("PREROUTING", "OUTPUT"):
        table.add_rules(hook, answer, error)


class _Counters:
    """The counters of a family's legacy rules, from one moment on."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._legacy = IptablesLegacy(1.0, binding=False)
        self._before = self._read()

    def rose(self) -> tuple[tuple[Place, int], ...]:
        """By how much each has risen."""
        now = self._read()
        return tuple((place, now[place] - each) for place, each in self._before.items() if now.get(place, each) != each)

    def _read(self) -> dict[Place, int]:
        family = "ip" if self.family is Family.IPV4 else "ip6"
        return {
            (Store.LEGACY, family, table.value, chain.name, number): entry.counters.packets
            for table, chain, number, entry in self._legacy.read(self.family, counters=True).entries()
            if entry.counters is not None
        }
