"""The sockets of the current network namespace, from /proc/net (proc(5)), or of many from sock_diag(7)."""

from __future__ import annotations

import errno
import os
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.system import living
from istio_init.system.netlink import dump, understood
from istio_init.value import Value

FILES = (("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6"))
DIAG_MODULE = "/sys/module/tcp_diag"
"""Where it is loaded, which asking would do otherwise."""

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, TCP, ALL_STATES = 4, 20, 6, 0xFFF
LENGTHS = {2: 4, 10: 16}
"""Bytes of an address, by the number of its family."""

LISTEN, ESTABLISHED, UDP_BOUND = "0A", "01", "07"


class Socket(Value):
    """One line of /proc/net: who bound what."""

    protocol: str
    address: IPv4Address | IPv6Address
    port: int
    state: str
    uid: int
    inode: int
    peer: tuple[IPv4Address | IPv6Address, int]
    """The other end; all zeros where there is none."""

    waiting: int = 0
    """Of a listening TCP socket: the connections that nobody has accepted yet."""

    @property
    def listens(self) -> bool:
        """Whether the socket waits for traffic from anybody."""
        return self.state == (LISTEN if self.protocol == "tcp" else UDP_BOUND)


def sockets(*, peer_port: int | None = None) -> list[Socket]:
    """All TCP and UDP sockets, or those whose other end has a port; lines without it are passed over unread.

    Families that the kernel does not have are left out.

    Raises:
        OSError: the kernel prints what is not understood.
    """
    mark = "" if peer_port is None else f":{peer_port:04X} "
    found = [
        each
        for protocol, name in FILES
        for each in parsed(protocol, [line for line in _lines(name) if not mark or mark in line])
    ]
    return found if peer_port is None else [each for each in found if each.peer[1] == peer_port]


def sockets_quickly() -> list[Socket]:
    """The same as all of `sockets`: the kernel writes its table of TCP connections as text in five times the time.

    Raises:
        OSError: the kernel's answer is not understood.
    """
    if not os.path.exists(DIAG_MODULE):
        return sockets()
    try:
        tcp = [each for family in LENGTHS for each in _diagnosed(family)]
    except (FileNotFoundError, PermissionError):
        return sockets()
    return tcp + [each for protocol, name in FILES if protocol == "udp" for each in parsed(protocol, _lines(name))]


@understood
def _diagnosed(family: int) -> list[Socket]:
    """Those of TCP (linux/inet_diag.h, struct inet_diag_msg)."""
    found, length = [], LENGTHS[family]
    asked = struct.pack("=BBBxI", family, TCP, 0, ALL_STATES) + bytes(48)
    for body in dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, asked):
        port, peer_port = struct.unpack_from("!HH", body, 4)
        waiting, _, uid, inode = struct.unpack_from("=IIII", body, 56)
        state = f"{body[1]:02X}"
        here, there = ip_address(body[8 : 8 + length]), ip_address(body[24 : 24 + length])
        waiting = waiting if state == LISTEN else 0
        found.append(Socket("tcp", here, port, state, uid, inode, (there, peer_port), waiting))
    return found


def parsed(protocol: str, lines: list[str]) -> list[Socket]:
    """The sockets of such lines.

    Raises:
        OSError: they are none of /proc/net.
    """
    try:
        return [_parse(protocol, line.split()) for line in lines if line]
    except (LookupError, ValueError) as error:
        raise OSError(errno.EBADMSG, "a line of /proc/net is not understood") from error


def peer_ports() -> frozenset[int]:
    """The ports at which TCP sockets have a client, those in TIME_WAIT included."""
    return frozenset(int(line.split(None, 3)[2][-4:], 16) for name in ("tcp", "tcp6") for line in _lines(name))


def _lines(name: str) -> list[str]:
    try:
        with open(f"/proc/thread-self/net/{name}") as lines:
            return lines.readlines()[1:]
    except FileNotFoundError:
        return []


def _parse(protocol: str, fields: list[str]) -> Socket:
    address, port = _end(fields[1])
    return Socket(protocol, address, port, fields[3], int(fields[7]), int(fields[9]), _end(fields[2]), _waiting(fields))


def _waiting(fields: list[str]) -> int:
    return int(fields[4].partition(":")[2], 16) if fields[3] == LISTEN else 0


def _end(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    address, _, port = text.partition(":")
    words = bytes.fromhex(address)
    packed = b"".join(words[offset : offset + 4][::-1] for offset in range(0, len(words), 4))
    return ip_address(packed), int(port, 16)


def owners(pids: list[int]) -> dict[int, int]:
    """By the inode of a socket, a process that holds it open; of several the first."""
    found: dict[int, int] = {}
    for pid in pids:
        try:
            for descriptor in os.scandir(f"{living.directory(pid)}/fd"):
                target = os.readlink(descriptor.path)
                if target.startswith("socket:["):
                    found.setdefault(int(target[8:-1]), pid)
        except OSError:
            continue
    return found
