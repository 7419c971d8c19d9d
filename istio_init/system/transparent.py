"""Sockets on the proxy's side of a redirection: where a connection was meant to go, and names that are not ours."""

from __future__ import annotations

import errno
import socket
import struct

SO_ORIGINAL_DST = 80
"""Also IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h)."""

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75


def make_transparent(made: socket.socket) -> None:
    """Let a socket have names that are not addresses of its namespace, as TPROXY needs. Takes CAP_NET_ADMIN.

    Raises:
        PermissionError: that capability is missing.
    """
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)


def original_destination(connection: socket.socket) -> tuple[str, int]:
    """The address and port that the other end of an accepted TCP connection meant, from before any REDIRECT.

    Where no connection tracker watches the namespace, or the kernel has none, nothing was translated: then it is the
    connection's own name, which is also what TPROXY leaves as it was.
    """
    try:
        return _tracked(connection)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOPROTOOPT):
            raise
        host, port, *_ = connection.getsockname()
        return host, port


def _tracked(connection: socket.socket) -> tuple[str, int]:
    if connection.family == socket.AF_INET6:
        packed = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        port, _, address = struct.unpack_from("!2xHI16s", packed)
    else:
        packed = connection.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
        port, address = struct.unpack_from("!2xH4s", packed)
    return socket.inet_ntop(connection.family, address), port
