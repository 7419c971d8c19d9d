"""Random packets at the boundaries of what wild rules test, and sending them."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any

from judge.wild_lab import LIBC, Lab
from judge.wild_pools import (
    ICMP_TYPES,
    LINKS,
    LOOPBACK,
    MACS,
    PEER,
    PEER_MACS,
    POD,
    STRANGERS,
    TOSES,
    TTLS,
    Draw,
    local_addresses,
)

NUMBERS = {("tcp", 4): 6, ("tcp", 6): 6, ("udp", 4): 17, ("udp", 6): 17, ("icmp", 4): 1, ("icmp", 6): 58}
FIN, SYN, RST, PUSH, ACK = 1, 2, 4, 8, 16
ODD_FLAGS = (RST, FIN | ACK, ACK, SYN | ACK, 0, SYN | FIN, PUSH | ACK, FIN)
HEADERS = {4: 20, 6: 40}
ODD_SOURCES = {4: ("0.1.2.3", "0.0.0.0"), 6: ("ff02::1", "fe80::77")}
"""From which something comes that the kernel may not take, or not send on."""


@dataclass
class Packet:
    """One packet, as it begins; what is None is not known or does not apply."""

    direction: str
    family: int
    proto: str
    src: str | None
    sport: int | None
    dst: str
    dport: int | None
    uid: int | None = None
    gid: int | None = None
    interface: str | None = None
    mark: int = 0
    type: int | None = None
    code: int | None = None
    payload: int = 0
    length: int | None = None
    ttl: int | None = None
    tos: int = 0
    flags: int | None = None
    pkttype: str | None = None
    priority: int | None = None
    raw: bool = False
    """Made by hand, not by a socket of its protocol."""
    bound: str | None = None
    """The device to which its socket is bound."""
    transparent: bool = False
    """Whether its socket is transparent."""
    leaves_source: bool = False
    """Whether its socket left its source to the kernel."""

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def draw_packet(draw: Draw) -> Packet:
    """Any packet."""
    while True:
        family = draw.family()
        made = _outbound(draw, family) if draw.maybe(0.6) else _inbound(draw, family)
        if made.sport is None or made.sport != made.dport:
            return made


def _outbound(draw: Draw, family: int) -> Packet:
    local = draw.maybe(0.3)
    peers = (PEER["eth0", family], PEER["net1", family])
    dst = draw.address(family, local_addresses(family) if local else (*STRANGERS[family], *peers))
    here = local_addresses(family)
    src = draw.one((6, None), (2, draw.address(family, here[:2])), (1, draw.address(family, here[2:4])))
    if local:
        src = draw.one((3, src), (2, draw.choice(LOOPBACK[family])))
    uid = draw.number()
    gid = uid if draw.maybe(0.6) else draw.number()
    made = Packet("outbound", family, "", src, None, dst, None, uid, gid)
    made.mark = draw.mark() if draw.maybe(0.2) else 0
    _vary(draw, made)
    made.bound = draw.choice(LINKS) if draw.maybe(0.05) and not local else None
    made.transparent = draw.maybe(0.06)
    if made.transparent and draw.maybe() and not made.raw:
        made.src = draw.choice(STRANGERS[family])
    return made


def _inbound(draw: Draw, family: int) -> Packet:
    link = draw.one((3, "eth0"), (1, "net1"))
    own = POD[link, family]
    other = POD["net1" if link == "eth0" else "eth0", family]
    dst = draw.one(
        (7, own[0]),
        (1, own[1]),
        (1, other[0]),
        (3, draw.address(family, STRANGERS[family])),
        (0.4, draw.choice(LOOPBACK[family])),
    )
    strange = (*STRANGERS[family], PEER["net1", family], own[1], *ODD_SOURCES[family])
    src = draw.one((8, PEER[link, family]), (1.5, draw.address(family, strange)), (0.1, LOOPBACK[family][0]))
    made = Packet("inbound", family, "", src, None, dst, None, interface=link, pkttype="host", raw=True)
    _vary(draw, made)
    made.raw, made.ttl = True, made.ttl or 64
    kind = draw.one((50, ""), (1, "broadcast"), (1, "multicast"), (1, "otherhost"))
    if kind:
        made.pkttype = kind
    if kind in ("broadcast", "multicast") and draw.maybe(0.7):
        made.dst = {"broadcast4": "10.1.255.255", "multicast4": "224.0.0.1"}.get(f"{kind}{family}", "ff02::1")
    if made.proto == "tcp":
        made.flags = SYN if made.flags is None else made.flags
    return made


def _vary(draw: Draw, made: Packet) -> None:
    """Protocol, ports, and what is unusual."""
    kind = draw.one((10, "tcp"), (6, "udp"), (1.5, "icmp"), (1.3, "odd"))
    made.proto = "tcp" if kind == "odd" else kind
    if kind == "icmp":
        made.raw, made.type, made.code = True, ICMP_TYPES[made.family][0], 0
        if draw.maybe(0.3):
            made.type = draw.choice(ICMP_TYPES[made.family])
        made.payload = draw.choice([0, 20, 48])
    else:
        made.sport = draw.one((3, draw.port()), (5, draw.randint(20000, 60000)))
        made.dport = draw.port() if draw.maybe(0.9) else draw.randint(1, 65535)
    if kind == "odd":
        made.raw, made.flags = True, draw.choice(ODD_FLAGS)
    if kind == "udp":
        made.payload = draw.choice([0, 1, 12, 20, 32, 52, 72, 472])
    made.ttl = draw.choice(TTLS) if draw.maybe(0.15) else None
    made.tos = draw.choice(TOSES) if draw.maybe(0.15) else 0


def send(lab: Lab, packet: Packet) -> str:
    """Send it; the name of the error where the kernel says one."""
    try:
        if packet.direction == "inbound":
            lab.inject(packet.interface or "", _frame(packet))
            return ""
        code = errno.EADDRINUSE if packet.raw else _send(packet)
        if code == errno.EADDRINUSE:
            packet.raw, packet.flags = True, SYN if packet.flags is None else packet.flags
            code = _send_raw(packet)
    except OSError as error:
        code = error.errno or 0
    return errno.errorcode[code] if code not in (0, errno.EINPROGRESS) else ""


def _opened(packet: Packet, kind: int, protocol: int) -> socket.socket:
    six = packet.family == 6
    LIBC.setfsgid(packet.gid)
    LIBC.setfsuid(packet.uid)
    try:
        made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind, protocol)
    finally:
        LIBC.setfsuid(0)
        LIBC.setfsgid(0)
    level = socket.IPPROTO_IPV6 if six else socket.SOL_IP
    if packet.mark:
        made.setsockopt(socket.SOL_SOCKET, 36, struct.pack("=I", packet.mark))  # SO_MARK
    if packet.bound:
        made.setsockopt(socket.SOL_SOCKET, 25, packet.bound.encode() + b"\0")  # SO_BINDTODEVICE
    if packet.transparent:
        made.setsockopt(level, 75 if six else 19, 1)  # IP*_TRANSPARENT
    if packet.ttl is not None:
        made.setsockopt(level, 16 if six else 2, packet.ttl)  # IPV6_UNICAST_HOPS, IP_TTL
    if packet.tos:
        made.setsockopt(level, 67 if six else 1, packet.tos)  # IPV6_TCLASS, IP_TOS
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setblocking(False)
    packet.priority = made.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
    return made


def _send(packet: Packet) -> int:
    with _opened(packet, socket.SOCK_STREAM if packet.proto == "tcp" else socket.SOCK_DGRAM, 0) as made:
        try:
            made.bind((packet.src or "", packet.sport))
        except OSError as error:
            return error.errno or 0
        code = made.connect_ex((packet.dst, packet.dport))
        if code == 0 and packet.proto == "udp":
            made.send(b"x" * packet.payload)
        return code


def _send_raw(packet: Packet) -> int:
    """With all headers by hand, but for addresses that the kernel has to choose."""
    with _opened(packet, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        if packet.src is None:
            with _opened(packet, socket.SOCK_DGRAM, 0) as asked, contextlib.suppress(OSError):
                asked.connect((packet.dst, 9))
                packet.src = asked.getsockname()[0]
        if packet.src is None:
            return errno.ENETUNREACH
        made.bind((packet.src, 0))
        made.sendto(_datagram(packet), (packet.dst, 0))
        return 0


def _frame(packet: Packet) -> bytes:
    link = packet.interface or ""
    to = {"host": MACS[link], "broadcast": "ff:ff:ff:ff:ff:ff", "multicast": "01:00:5e:00:00:01"}
    macs = to.get(packet.pkttype or "", "02:00:00:00:00:77"), PEER_MACS[link]
    ends = b"".join(bytes.fromhex(each.replace(":", "")) for each in macs)
    return ends + struct.pack("!H", 0x0800 if packet.family == 4 else 0x86DD) + _datagram(packet)


def _datagram(packet: Packet) -> bytes:
    number = NUMBERS[packet.proto, packet.family]
    src, dst = ip_address(packet.src or "").packed, ip_address(packet.dst).packed
    body = _segment(packet)
    pseudo = src + dst + struct.pack("!II", len(body), number)
    at = {"tcp": 16, "udp": 6, "icmp": 2}[packet.proto]
    total = _checksum(body if number == 1 else pseudo + body)
    body = body[:at] + struct.pack("!H", total or 0xFFFF) + body[at + 2 :]
    hops = 64 if packet.ttl is None else packet.ttl
    if packet.family == 6:
        return struct.pack("!IHBB", 6 << 28 | packet.tos << 20, len(body), number, hops) + src + dst + body
    head = struct.pack("!BBHHHBBH", 0x45, packet.tos, 20 + len(body), 1, 0x4000, hops, number, 0) + src + dst
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + body


def _segment(packet: Packet) -> bytes:
    data = b"x" * packet.payload
    if packet.proto == "tcp":
        flags = packet.flags or 0
        answers = 1 if flags & ACK else 0
        return struct.pack("!HHIIBBHHH", packet.sport, packet.dport, 1, answers, 5 << 4, flags, 1024, 0, 0) + data
    if packet.proto == "udp":
        return struct.pack("!HHHH", packet.sport, packet.dport, 8 + len(data), 0) + data
    return struct.pack("!BBHHH", packet.type, packet.code, 0, 7, 1) + data


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(payload: bytes) -> dict[str, Any]:
    """What a logged packet's headers say."""
    four = payload[0] >> 4 == 4
    at = (payload[0] & 15) * 4 if four else 40
    src, dst = (payload[12:16], payload[16:20]) if four else (payload[8:24], payload[24:40])
    number = payload[9] if four else payload[6]
    tos = payload[1] if four else int.from_bytes(payload[:2], "big") >> 4 & 0xFF
    length = int.from_bytes(payload[2:4], "big") if four else 40 + int.from_bytes(payload[4:6], "big")
    found: dict[str, Any] = {"src": str(ip_address(src)), "dst": str(ip_address(dst)), "tos": tos, "length": length}
    found |= {"ttl": payload[8] if four else payload[7], "sport": None, "dport": None}
    if number in (6, 17):
        found["sport"], found["dport"] = struct.unpack_from("!HH", payload, at)
    if number == 6:
        found["flags"] = payload[at + 13]
    return found
