"""Sends a connection's first packet from inside a namespace and collects what the kernel does with it.

This is the only part of the inspector that touches anything: a table of its own, which has the kernel trace that one
connection and goes away with the process at the latest, and the connection itself.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from istio_init.dialects.iptables.tables import Table
from istio_init.errors import IstioInitError, PrivilegeError, ToolError
from istio_init.netfilter.family import Family
from istio_init.stores.legacy import IptablesLegacy
from istio_init.system import namespaces, netlink, nft_table
from istio_init.system.listening import AT_ONCE
from istio_init.system.nft_table import NETWORK, TRANSPORT, Expression, OwnedTable
from istio_init.system.nft_trace import Listener, Passage
from istio_init.system.privileges import acting_as
from istio_init.system.workers import in_child
from istio_init.trace.observed import Observed, Place
from istio_init.trace.packet import Packet
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.system.places import Place as Namespace

TABLE_NAME = "istio-init-trace"
BEFORE_RAW = -350
"""Between defragmentation (-400) and raw (-300)."""

AFTER_ALL = 300
"""Behind the last table of iptables, nat of INPUT and POSTROUTING (100)."""

LO = 1
"""The index of lo."""

FAMILIES = {Family.IPV4: (socket.AF_INET, 2), Family.IPV6: (socket.AF_INET6, 10)}
"""The families of sockets and of nf_tables."""

KINDS = {"tcp": (socket.SOCK_STREAM, 6), "udp": (socket.SOCK_DGRAM, 17)}
ICMP = {Family.IPV4: (1, 28), Family.IPV6: (58, 48)}
"""The protocol that tells of errors, and where in its message the source port of the packet stands that it is about."""

SOURCE_AT = {Family.IPV4: 12, Family.IPV6: 8}
IPTABLES = frozenset(table.value for table in Table)
OUTGOING = frozenset(["OUTPUT", "POSTROUTING"])
HOOKS = OUTGOING | frozenset(["PREROUTING", "INPUT", "FORWARD"])
QUIET = 0.15
"""Seconds without news after which a packet is taken to have arrived or to be gone."""

SENT_ANYWAY = frozenset([0, errno.EINPROGRESS, errno.EPERM])
"""What connecting and sending say where a packet went out, or was dropped by a rule."""


class Sent(Value):
    """The packet as it really was, and what the kernel did with it."""

    packet: Packet
    seen: Observed


def send(packet: Packet, chosen: frozenset[str], backend: str, place: Namespace) -> Sent:
    """Send a packet from the current network namespace, which is ``place``, and watch it.

    ``chosen`` are the fields that have to be as they are; of the others the kernel chooses source and interface.

    Raises:
        IstioInitError: it cannot be sent, or not be watched.
    """
    with open_socket(packet, place) as made, Listener() as listener:
        port = _bind(made, packet, chosen)
        with OwnedTable(TABLE_NAME) as table:
            _watch(table, packet, port)
            if backend == "legacy":
                return _by_counters(made, packet, port, table, listener)
            _send(made, packet)
            passages = _ours(listener.passages(quiet=QUIET), packet, port)
            real = _real(made, packet, port, passages)
            return Sent(real, traced(passages, netlink.nft_rule_numbers(), packet.family))


def open_socket(packet: Packet, place: Namespace) -> socket.socket:
    """A socket of the packet's family and protocol, which belongs to its user and group and leaves nothing behind.

    Rules look at who made a socket. A child makes it, as in a pod with a user namespace of its own that one has to be
    entered, and passes it on.

    Raises:
        PrivilegeError: nobody here may act as that user.
    """
    here, there = socket.socketpair()
    family, kind = FAMILIES[packet.family][0], KINDS[packet.protocol][0]

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
    if packet.protocol == "tcp":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    return made


def _bind(made: socket.socket, packet: Packet, chosen: frozenset[str]) -> int:
    """Take the source that is asked for, or any free port. The port."""
    if packet.mark:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", packet.mark))
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


def _send(made: socket.socket, packet: Packet) -> None:
    made.setblocking(False)
    try:
        code = made.connect_ex((str(packet.destination), packet.destination_port))
        if code == 0 and packet.protocol == "udp":
            made.send(b"")
    except OSError as error:
        code = error.errno or 0
    if code not in SENT_ANYWAY:
        raise IstioInitError(f"nothing can be sent to {packet.destination}: {os.strerror(code)}")


def _watch(table: OwnedTable, packet: Packet, port: int) -> None:
    """Have the connection traced where it leaves, and where it comes in again by lo, to the end of its way."""
    length = len(packet.destination.packed)
    target = nft_table.payload_is(NETWORK, SOURCE_AT[packet.family] + length, packet.destination.packed)
    ports = nft_table.payload_is(TRANSPORT, 0, struct.pack("!HH", port, packet.destination_port))
    table.add("OUTPUT", BEFORE_RAW, [*_kind(packet), *target, *ports, *nft_table.trace()])
    on_lo = nft_table.meta_is(nft_table.META_IIF, struct.pack("=I", LO))
    source_port = nft_table.payload_is(TRANSPORT, 0, struct.pack("!H", port))
    table.add("PREROUTING", BEFORE_RAW, [*_kind(packet), *on_lo, *source_port, *nft_table.trace()])
    table.add("POSTROUTING", AFTER_ALL)
    table.add("INPUT", AFTER_ALL)


def _kind(packet: Packet) -> list[Expression]:
    """A packet of the same family and protocol."""
    family = nft_table.meta_is(nft_table.META_FAMILY, bytes([FAMILIES[packet.family][1]]))
    return [*family, *nft_table.meta_is(nft_table.META_PROTOCOL, bytes([KINDS[packet.protocol][1]]))]


def _ours(passages: list[Passage], packet: Packet, port: int) -> list[Passage]:
    """Those of the packet, also with another source port, through the base chains of iptables and of our table."""
    numbers: set[int] = set()
    ports = {port}
    found = []
    for each in passages:
        headers = each.headers
        if not headers.begins or headers.protocol != packet.protocol or not _names_its_hook(each, packet.family):
            continue
        if each.number in numbers or headers.source_port in ports:
            numbers.add(each.number)
            ports.add(headers.source_port)
            found.append(each)
    return found


def _names_its_hook(passage: Passage, family: Family) -> bool:
    """Whether it is a base chain that is named like its hook; others name theirs as they like."""
    if passage.hook not in HOOKS:
        return False
    if passage.family is None:
        return passage.table == TABLE_NAME
    return passage.family is family and passage.table in IPTABLES


def _real(made: socket.socket, packet: Packet, port: int, passages: list[Passage]) -> Packet:
    """The packet with the source and the interface that the kernel chose."""
    first = next((each for each in passages if each.hook == "OUTPUT"), None)
    if first is None or first.leaves_by is None:
        raise ToolError("the kernel tells nothing of the packet", fix="see whether nft monitor trace works here")
    interface = socket.if_indextoname(first.leaves_by)
    return packet.replace(source=first.headers.source, source_port=port, interface=interface)


def traced(passages: list[Passage], numbers: dict[tuple[Family, str, str, int], int], family: Family) -> Observed:
    """What the passages of one packet tell, without those of its repetitions."""
    legs: list[list[Place]] = [[]]
    seen: set[tuple[str, str]] = set()
    leaves = bool(passages) and passages[0].hook in OUTGOING
    for each in passages:
        if leaves and each.hook not in OUTGOING and len(legs) == 1:
            legs.append([])
        if each.family is family and (each.table, each.hook) not in seen:
            seen.add((each.table, each.hook))
            rules = [(chain, numbers.get((family, each.table, chain, handle), 0)) for chain, handle in each.rules]
            legs[-1] += [(each.table, chain, number) for chain, number in rules]
    return Observed(tuple(map(tuple, legs)), port=arrived_at(passages))


def arrived_at(passages: list[Passage]) -> int | None:
    """The port at which the packet arrived, or with which it left; None where it was stopped before."""
    own = [each for each in passages if each.family is None]
    ends = [each for each in own if each.hook == "INPUT" or (each.hook == "POSTROUTING" and each.leaves_by != LO)]
    return ends[0].headers.destination_port if ends else None


def _by_counters(made: socket.socket, packet: Packet, port: int, table: OwnedTable, listener: Listener) -> Sent:
    """Send, and compare the counters of legacy rules; answers are kept from meeting them."""
    _keep_answers_away(table, packet, port)
    legacy = IptablesLegacy(1.0, binding=False)
    before = _counters(legacy, packet.family)
    _send(made, packet)
    passages = _ours(listener.passages(quiet=QUIET), packet, port)
    after = _counters(legacy, packet.family)
    rose = {place: count - before.get(place, 0) for place, count in after.items() if count != before.get(place, 0)}
    real = _real(made, packet, port, passages)
    translated = any(each.headers.source_port != port for each in passages)  # Its answers are not known beforehand.
    return Sent(real, Observed(None, tuple(rose.items()), port=arrived_at(passages), with_answers=translated))


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


def _counters(legacy: IptablesLegacy, family: Family) -> dict[Place, int]:
    return {
        (table.value, chain.name, number): entry.counters.packets
        for table, chain, number, entry in legacy.read(family, counters=True).entries()
        if entry.counters is not None
    }
