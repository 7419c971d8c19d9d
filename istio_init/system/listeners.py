"""The sockets that wait for traffic, with what decides whether TPROXY gives them a packet (sock_diag(7)).

Asking may load the kernel modules tcp_diag and udp_diag, so that it is done only for rules that depend on it.
"""

from __future__ import annotations

import struct
import sys

from istio_init.netfilter.host import Listener
from istio_init.system.netlink import dump, parse_attributes, understood
from istio_init.system.sockets import ESTABLISHED
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from istio_init.system.sockets import Socket

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
AF_INET, AF_INET6 = 2, 10
PROTOCOLS = {"tcp": 6, "udp": 17}
STATES = {6: 1 << 10, 17: 1 << 7}
"""TCP_LISTEN, and TCP_CLOSE, which is that of a UDP socket that has no peer (net/tcp_states.h)."""

MESSAGE, INTERFACE = 72, 40
"""Bytes of struct inet_diag_msg, and where in it the interface is."""

SKV6ONLY, SOCKOPT = 11, 22
TRANSPARENT = 1 << 5 if sys.byteorder == "little" else 1 << 2
"""In the first byte of struct inet_diag_sockopt (linux/inet_diag.h; since Linux 5.10)."""


class Options(Value):
    """What a socket was told. ``is_transparent`` is None where the kernel does not say."""

    is_transparent: bool | None
    is_ipv6_only: bool
    backlog: int = 0
    """How many connections may wait to be accepted; the queue is full where more than that do."""

    is_of_interface: bool = False
    """Whether it is bound to one."""


def options() -> dict[int, Options]:
    """The options of all sockets that wait for traffic, by inode; none where the kernel cannot tell."""
    found: dict[int, Options] = {}
    for family in (AF_INET, AF_INET6):
        for protocol, states in STATES.items():
            try:
                found |= _told(struct.pack("=BBBxI", family, protocol, 0, states) + bytes(48))
            except OSError:
                continue
    return found


@understood
def _told(request: bytes) -> dict[int, Options]:
    found = {}
    for each in dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, request):
        backlog, _, inode = struct.unpack_from("=III", each, MESSAGE - 12)
        attributes = parse_attributes(each, MESSAGE)
        told = attributes.get(SOCKOPT)
        transparent = bool(told[0] & TRANSPARENT) if told else None
        [interface] = struct.unpack_from("=I", each, INTERFACE)
        found[inode] = Options(transparent, any(attributes.get(SKV6ONLY, b"")), backlog, interface != 0)
    return found


def connected(sockets: Iterable[Socket]) -> tuple[int, ...]:
    """The local ports of UDP sockets that have a peer."""
    return tuple(sorted({each.port for each in sockets if each.protocol == "udp" and each.state == ESTABLISHED}))


def listeners(sockets: Iterable[Socket], known: Mapping[int, Options]) -> tuple[Listener, ...]:
    """Those of the sockets that wait for traffic; without options an IPv6 wildcard takes IPv4's, too."""
    nothing = Options(None, False)
    return tuple(
        Listener(
            PROTOCOLS[each.protocol],
            each.address,
            each.port,
            (told := known.get(each.inode, nothing)).is_transparent,
            takes_ipv4_too=each.address.version == 6 and each.address.is_unspecified and not told.is_ipv6_only,
            is_of_interface=told.is_of_interface,
        )
        for each in sockets
        if each.listens
    )
