"""The kernel's own trace of packets through nf_tables: which rules matched, as it tells over netlink.

``nft monitor trace`` prints the same messages. Read here they need no parsing of text, and they are heard from the
moment on that the socket is open. Formats: linux/netfilter/nf_tables.h, NFT_MSG_TRACE.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType
from typing import Self

from istio_init.errors import PrivilegeError, ToolError
from istio_init.netfilter.protocols import TCP, UDP
from istio_init.system.netlink import NFT_FAMILIES, messages, parse_attributes, text_of, understood
from istio_init.system.nft_table import open_channel
from istio_init.value import Value

SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
SO_RCVBUFFORCE = 33
NFNLGRP_NFTRACE = 9
NFT_MSG_TRACE = (10 << 8) | 17
TABLE, CHAIN, HANDLE, KIND, ID, NETWORK_HEADER, TRANSPORT_HEADER, IIF, OIF, MARK = 1, 2, 3, 4, 6, 8, 9, 10, 12, 14
RULE = 3
"""Attributes, and the kind of message that tells of a rule."""

LESS = "see which rules trace (meta nftrace set 1, or the target TRACE), or ask istio-init trace without --live"
BUFFER = 1 << 25
IPV6_HEADER = 40
SYN, ACK = 0x02, 0x10


class Headers(Value):
    """What a packet looked like when a base chain began."""

    protocol: int
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int
    destination_port: int
    flags: int = 0
    length: int = 0
    ttl: int = 0
    tos: int = 0

    @property
    def begins(self) -> bool:
        """Whether it is a connection's first packet, as far as the packet tells."""
        return self.protocol != TCP or self.flags & (SYN | ACK) == SYN


class Passage(Value):
    """A packet's way through one base chain and what it calls: the rules that matched, by chain and handle.

    ``family`` is that of the table as nft names it, None for one of other families than IP's; ``chain`` is the base
    chain. Interfaces are indices. ``number`` is the packet's, the same for all its passages from one interface to the
    next.
    """

    number: int
    family: str | None
    table: str
    chain: str
    headers: Headers
    entered_by: int | None
    leaves_by: int | None
    mark: int
    rules: list[tuple[str, int]]
    is_own: bool = False
    """Whether it is of the table that listens."""


class Listener:
    """Hears the trace of the current network namespace while its context lasts."""

    def __init__(self) -> None:
        self._open: dict[int, Passage] = {}

    def __enter__(self) -> Self:
        self._socket = open_channel()
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTRACE)
        except PermissionError:
            self._socket.close()
            fix = "run as root, or with the capability NET_ADMIN"
            raise PrivilegeError("the kernel's trace cannot be read: permission denied", fix=fix) from None
        except OSError as error:
            self._socket.close()
            raise ToolError(f"the kernel's trace cannot be read: {error.strerror}") from error
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except PermissionError:  # It takes a capability over the whole machine; within limits anybody may ask.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def passages(self, *, quiet: float, timeout: float = 5.0) -> list[Passage]:
        """What was told since the last call, until nothing more came for ``quiet`` seconds.

        Raises:
            ToolError: messages were lost, as more came than were read.
        """
        found: list[Passage] = []
        deadline = time.monotonic() + timeout
        while (remaining := deadline - time.monotonic()) > 0:
            self._socket.settimeout(min(quiet, remaining))
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    what = "the kernel's trace is not whole: more packets are traced there than are read"
                    raise ToolError(what, fix=LESS) from None
                raise ToolError(f"the kernel's trace cannot be read: {error.strerror}") from error
            try:
                self.take(data, found)
            except OSError as error:
                raise ToolError(f"the kernel's trace cannot be read: {error.strerror}") from error
        return found

    @understood
    def take(self, data: bytes, found: list[Passage]) -> None:
        """Add what a datagram tells."""
        for kind, _, body in messages(data):
            if kind == NFT_MSG_TRACE:
                attributes = parse_attributes(body, 4)
                number = int.from_bytes(attributes[ID], "big")
                if NETWORK_HEADER in attributes and (headers := _headers(attributes)) is not None:
                    self._open[number] = _passage(number, body[0], attributes, headers)
                    found.append(self._open[number])
                elif NETWORK_HEADER in attributes:
                    self._open.pop(number, None)
                # At the end of a base chain the kernel tells of a rule once more, but of none.
                is_rule = HANDLE in attributes and int.from_bytes(attributes[KIND], "big") == RULE
                if number in self._open and is_rule:
                    rule = text_of(attributes[CHAIN]), int.from_bytes(attributes[HANDLE], "big")
                    self._open[number].rules.append(rule)


def _passage(number: int, family: int, attributes: dict[int, bytes], headers: Headers) -> Passage:
    numbers = {kind: int.from_bytes(attributes[kind], "big") for kind in (IIF, OIF, MARK) if kind in attributes}
    return Passage(
        number,
        NFT_FAMILIES.get(family),
        text_of(attributes[TABLE]),
        text_of(attributes[CHAIN]),
        headers,
        numbers.get(IIF),
        numbers.get(OIF),
        numbers.get(MARK, 0),
        [],
    )


def _headers(attributes: dict[int, bytes]) -> Headers | None:
    """The packet's headers; None for other protocols than TCP and UDP."""
    network, transport = attributes[NETWORK_HEADER], attributes.get(TRANSPORT_HEADER, b"")
    is_ipv4 = network[0] >> 4 == 4
    protocol = network[9] if is_ipv4 else network[6]
    if protocol not in (TCP, UDP) or len(transport) < 4:
        return None
    source, destination = (network[12:16], network[16:20]) if is_ipv4 else (network[8:24], network[24:40])
    flags = transport[13] if protocol == TCP and len(transport) > 13 else 0
    length = int.from_bytes(network[2:4], "big") if is_ipv4 else int.from_bytes(network[4:6], "big") + IPV6_HEADER
    tos = network[1] if is_ipv4 else int.from_bytes(network[0:2], "big") >> 4 & 0xFF
    source_port, destination_port = struct.unpack_from("!HH", transport)
    return Headers(
        protocol,
        ip_address(source),
        ip_address(destination),
        source_port,
        destination_port,
        flags,
        length,
        network[8] if is_ipv4 else network[7],
        tos,
    )
