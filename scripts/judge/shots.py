"""Connections that can really be sent in the lab, and sending them."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import Any, NamedTuple

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.netfilter.family import Family
from istio_init.system.transparent import make_transparent
from istio_init.trace.depends import candidates
from istio_init.trace.packet import Direction
from judge.draw import Draw
from judge.lab import LINKS, PEER, POD

LIBC = ctypes.CDLL(None, use_errno=True)
ADDRESS_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
SENT = frozenset([0, errno.EINPROGRESS, errno.EPERM])
SYN_AND_FIN = 0x03
"""TCP flags that no connection begins with: the tracker calls such a packet invalid."""

SO_BINDTODEVICE = 25
LOCAL = {
    Family.IPV4: ["127.0.0.1", "127.0.0.1", "127.0.0.5", POD["eth0", Family.IPV4], POD["net1", Family.IPV4]],
    Family.IPV6: ["::1", "::1", POD["eth0", Family.IPV6], POD["net1", Family.IPV6]],
}
LOCAL_SOURCES = {
    Family.IPV4: ["127.0.0.1", "127.0.0.6", "127.0.0.6", "127.0.0.5", POD["eth0", Family.IPV4]],
    Family.IPV6: ["::1", "::6", "::6", POD["eth0", Family.IPV6]],
}
PROXY_PORTS = [80, 443, 53, 53, 8080, 15001, 15006, 15008, 15053, 15090]
FIRST_PORT = 20000


class Shot(NamedTuple):
    """One connection: what is asked of the kernel. No source: the kernel chooses."""

    direction: Direction
    family: Family
    protocol: str
    source: str | None
    destination: str
    source_port: int
    destination_port: int
    uid: int = 0
    gid: int = 0
    mark: int = 0
    link: str = "eth0"
    invalid: bool = False

    @property
    def key(self) -> tuple[Family, str, int]:
        """What tells it from all others of its lab."""
        return self.family, self.protocol, self.source_port


class Targets:
    """Draws connections whose values are those at which the rules' answers change."""

    def __init__(self, draw: Draw, rules: dict[Family, RuleSet], local_marks: dict[Family, frozenset[int]]) -> None:
        self.draw = draw
        self.pools: dict[Family, dict[str, list[Any]]] = {
            family: {name: sorted(found, key=str) for name, found in candidates(each).items()}
            for family, each in rules.items()
        }
        self.local_marks = local_marks
        self.used: set[tuple[Family, str, int]] = set()
        self._next = FIRST_PORT

    def shots(self) -> Iterator[Shot]:
        """Connections without end."""
        while True:
            family = self.draw.random.choice(list(Family))
            shot = self._outbound(family) if self.draw.maybe(0.65) else self._inbound(family)
            to_itself = (shot.source, shot.source_port) == (shot.destination, shot.destination_port)
            if shot.key not in self.used and _is_unicast(shot.destination) and not to_itself:
                self.used.add(shot.key)
                yield shot

    def _outbound(self, family: Family) -> Shot:
        pick, pools = self.draw.random.choice, self.pools[family]
        local = self.draw.maybe(0.3)
        destination = pick(LOCAL[family]) if local else str(pick(pools["destination"]))
        source = pick([None, *LOCAL_SOURCES[family]]) if local else pick([None, POD["eth0", family]])
        protocol = pick(["tcp", "tcp", "udp"])
        uid = pick([*pools["uid"], 1337, 1337, 1000, 1000, 1000, 0])
        gid = uid if self.draw.maybe(0.6) else pick([*pools["gid"], 1337, 0])
        mark = pick([*pools["mark"], *self.local_marks[family], 0, 0]) if self.draw.maybe(0.2) else 0
        return Shot(
            Direction.OUTBOUND, family, protocol, source, destination, *self._ports(family, protocol), uid, gid, mark
        )

    def _inbound(self, family: Family) -> Shot:
        pick, pools = self.draw.random.choice, self.pools[family]
        link = pick(LINKS)
        stranger = link == "net1" and self.draw.maybe(0.3)
        destination = str(pick(pools["destination"])) if stranger else POD[link, family]
        source = str(pick(pools["source"])) if self.draw.maybe(0.3) else PEER[link, family]
        if not _is_unicast(source) or source in POD.values() or ip_address(source).is_loopback:
            source = PEER[link, family]
        if ip_address(destination).is_loopback or destination in PEER.values():
            destination = POD[link, family]
        protocol = pick(["tcp", "tcp", "tcp", "udp"])
        invalid = protocol == "tcp" and self.draw.maybe(0.05)
        ports = self._ports(family, protocol)
        return Shot(Direction.INBOUND, family, protocol, source, destination, *ports, link=link, invalid=invalid)

    def _ports(self, family: Family, protocol: str) -> tuple[int, int]:
        """A source port that nothing else has yet, now and then one that rules test, and a destination port."""
        pick, pools = self.draw.random.choice, self.pools[family]
        to = pick([*PROXY_PORTS, *(port for port in pools["destination_port"] if port)])
        special = [port for port in pools["source_port"] if port and (family, protocol, port) not in self.used]
        if special and self.draw.maybe(0.2):
            return pick(special), to
        self._next += 1
        return self._next, to


def _is_unicast(text: str) -> bool:
    address = ip_address(text)
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    if isinstance(address, IPv4Address):
        return 1 <= int(address) >> 24 < 240 and int(address) & 0xFF not in (0, 255)
    # REDIRECT drops inbound packets to IPv4-compatible addresses, as it finds none of their scope (nf_nat_redirect).
    return address.is_loopback or int(address) >= 1 << 32


def fire(shot: Shot) -> bool:
    """Send from the current namespace. False where the kernel has no such connection to send."""
    if shot.invalid:
        return _fire_raw(shot)
    LIBC.setfsgid(shot.gid)
    LIBC.setfsuid(shot.uid)
    try:
        made = socket.socket(ADDRESS_FAMILIES[shot.family], KINDS[shot.protocol])
    finally:
        LIBC.setfsuid(0)
        LIBC.setfsgid(0)
    with made:
        try:
            _prepare(made, shot)
            made.bind((shot.source or "", shot.source_port))
            made.setblocking(False)
            code = made.connect_ex((shot.destination, shot.destination_port))
            if code == 0 and shot.protocol == "udp":
                made.send(b"")
        except OSError as error:
            code = error.errno or 0
    return code in SENT


def _prepare(made: socket.socket, shot: Shot) -> None:
    if shot.mark:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", shot.mark))
    if shot.direction is Direction.INBOUND:
        made.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, shot.link.encode() + b"\0")
        make_transparent(made)


def _fire_raw(shot: Shot) -> bool:
    """Send a TCP segment with flags that make no sense."""
    header = struct.pack("!HHIIBBHHH", shot.source_port, shot.destination_port, 1, 0, 5 << 4, SYN_AND_FIN, 1024, 0, 0)
    source, destination = (ip_address(text).packed for text in (shot.source or "", shot.destination))
    pseudo = source + destination + struct.pack("!II", len(header), socket.IPPROTO_TCP)
    header = header[:16] + struct.pack("!H", _checksum(pseudo + header)) + header[18:]
    with socket.socket(ADDRESS_FAMILIES[shot.family], socket.SOCK_RAW, socket.IPPROTO_TCP) as made:
        try:
            _prepare(made, shot)
            made.bind((shot.source or "", 0))
            made.sendto(header, (shot.destination, 0))
        except OSError:
            return False
    return True


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
