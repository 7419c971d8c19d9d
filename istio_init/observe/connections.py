"""Who waits on which socket, and which open connections have their other end outside.

A connection that the proxy handles has a counterpart among the namespace's sockets: the proxy's own, whose peer is the
application's end. One without any is handled by nobody here.
"""

from __future__ import annotations

from istio_init.observe.snapshot import Connection, Listener
from istio_init.system import listeners, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from ipaddress import IPv4Address, IPv6Address

    from istio_init.system.processes import Process
    from istio_init.system.sockets import Socket

    End = tuple[IPv4Address | IPv6Address, int]

MOST_SOCKETS = 10_000
"""Where there are more, connections are not looked at: that would take a second reading of all of them."""

MOST_OUTSIDE = 256


def who_has(found: list[Socket], processes: tuple[Process, ...]) -> tuple[tuple[Listener, ...], tuple[Connection, ...]]:
    """The sockets that wait for traffic, and the connections to the outside, with the processes that hold them."""
    by_pid = {each.pid: each for each in processes}
    owners = {inode: by_pid[pid] for inode, pid in sockets.owners(list(by_pid)).items()}
    asked = listeners.options() if any(each.waiting for each in found) else {}
    waiting = tuple(
        Listener(
            each.protocol,
            each.address,
            each.port,
            each.uid,
            owners.get(each.inode),
            each.waiting,
            asked[each.inode].backlog if each.waiting and each.inode in asked else None,
        )
        for each in found
        if each.listens
    )
    return waiting, tuple(_outside(found, owners, waiting))


def _outside(found: list[Socket], owners: Mapping[int, Process], waiting: tuple[Listener, ...]) -> Iterator[Connection]:
    """Those that are there at a second reading, too: what is just being made has no counterpart yet."""
    if len(found) > MOST_SOCKETS:
        return
    served = {each.port: each.process for each in waiting if each.protocol == "tcp"}
    mine = {}
    for each in found:
        if each.protocol == "tcp" and each.state == sockets.ESTABLISHED:
            owner = owners.get(each.inode) if each.inode else served.get(each.port)
            if owner is not None:
                mine[each.address, each.port, each.peer] = owner
    if not mine:
        return
    again = [each for each in sockets.sockets() if each.protocol == "tcp"]
    peers = {_plain(each.peer) for each in (*found, *again)}
    left = MOST_OUTSIDE
    for each in again:
        owner = mine.get((each.address, each.port, each.peer))
        here, there = _plain((each.address, each.port)), _plain(each.peer)
        if owner is None or each.state != sockets.ESTABLISHED or here in peers or there[0].is_loopback:
            continue
        if left:
            left -= 1
            yield Connection(*here, *there, owner, is_inbound=each.port in served, is_accepted=each.inode != 0)


def _plain(end: End) -> End:
    """An IPv4 address as itself, also where a socket of IPv6 has it."""
    mapped = getattr(end[0], "ipv4_mapped", None)
    return end if mapped is None else (mapped, end[1])
