"""A namespace of a pod and the far ends of its links, in which wild rules are live and what becomes of packets is seen.

The namespaces have no names: they go with the process that made them, however it ends. A table of nf_tables of its own
logs what passes the ends of the hooks, lets nobody but processes send (no answers, no neighbour discovery), and drops
what leaves. It does not enable connection tracking. A frame that follows each packet through the same queue tells when
the kernel has done with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from judge.wild_load import LabError, Loader, add_legacy, run, set_sysctl
from judge.wild_netlink import Netlink, Place
from judge.wild_pools import LENGTHS, LINKS, LOOPBACK, MACS, PEER, PEER_MACS, POD

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_NET = 0x40000000
GROUP = 7
SENTINEL = 0x88B5
PATIENCE = 5.0
OWN = "judge"
OWN_TABLE = f"""\
table inet {OWN} {{
  chain a {{ type filter hook output priority -10000; meta skuid 0-4294967294 log prefix "output" group {GROUP} accept
    drop; }}
  chain b {{ type filter hook output priority 10000; log prefix "output end" group {GROUP}; }}
  chain c {{ type filter hook prerouting priority -10000; log prefix "prerouting" group {GROUP}; }}
  chain d {{ type filter hook prerouting priority 10000; log prefix "prerouting end" group {GROUP}; }}
  chain e {{ type filter hook input priority 10000; log prefix "input end" group {GROUP}; }}
  chain f {{ type filter hook forward priority 10000; log prefix "forward end" group {GROUP}; }}
  chain g {{ type filter hook postrouting priority 10000; log prefix "postrouting end" group {GROUP}
    oifname != "lo" drop; }}
}}
"""
SETTINGS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}


class Listener(NamedTuple):
    """A socket that takes what comes to it, unseen by whoever sent it."""

    protocol: str
    address: str
    port: int
    transparent: bool
    uid: int
    remote: str | None = None
    """Address and port, with a blank between, to which alone it is connected."""


class Lab:
    """Make it with `Lab.create`."""

    def __init__(self, stack: contextlib.ExitStack, lacking: Mapping[str, Sequence[str]]) -> None:
        self._stack = stack
        home = _current(stack)
        stack.callback(_enter, home)
        self.peer = _new(stack)
        self.pod = _new(stack)
        self._listeners: list[tuple[Listener, socket.socket]] = []
        self.loader = Loader(lacking)
        self._wire()
        self._settle_links()
        self.names = dict(socket.if_nameindex())
        self.netlink = Netlink(GROUP)
        stack.callback(self.netlink.close)
        self._sentinel = self._packet_socket("lo", SENTINEL)
        self._sentinel.settimeout(PATIENCE)
        self._beats = 0
        _enter(self.peer)
        self._wires = {link: self._packet_socket(link, 0) for link in LINKS}
        _enter(self.pod)
        run("nft", "-f", "-", stdin=OWN_TABLE)

    @classmethod
    @contextlib.contextmanager
    def create(cls, lacking: Mapping[str, Sequence[str]] | None = None) -> Iterator[Lab]:
        """New namespaces for the time of the context, in the pod's of which the process then is."""
        with contextlib.ExitStack() as stack:
            yield cls(stack, lacking or {})

    def _packet_socket(self, link: str, protocol: int) -> socket.socket:
        made = self._stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        made.bind((link, protocol))
        return made

    def _wire(self) -> None:
        far = f"/proc/{os.getpid()}/fd/{self.peer}"
        for name, value in SETTINGS.items():
            set_sysctl(name, value)
        ours = ["link set lo up"]
        for link in LINKS:
            ends = f"peer name {link} address {PEER_MACS[link]} netns {far}"
            ours += [f"link add {link} address {MACS[link]} type veth {ends}"]
        ours += [f"link set {link} up" for link in LINKS]
        for (link, family), addresses in POD.items():
            nodad = " nodad" if family == 6 else ""
            ours += [f"addr add {each}/{LENGTHS[link, family]} dev {link}{nodad}" for each in addresses]
        ours.append(f"addr add {LOOPBACK[6][1]}/128 dev lo nodad")
        ours += [f"route add default via {PEER['eth0', family]} dev eth0" for family in (4, 6)]
        run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in ours))
        _enter(self.peer)
        set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")
        set_sysctl("net.ipv6.conf.default.disable_ipv6", "1")
        run("ip", "-batch", "-", stdin="".join(f"link set {link} up arp off\n" for link in LINKS))
        _enter(self.pod)

    def _settle_links(self) -> None:
        for _ in range(200):
            found = json.loads(run("ip", "-j", "addr"))
            tentative = any(each.get("tentative") for link in found for each in link["addr_info"])
            links = [link for link in found if link["ifname"] in LINKS]
            local = all(any(each.get("scope") == "link" for each in link["addr_info"]) for link in links)
            if local and not tentative and all(link["operstate"] == "UP" for link in links):
                return
            LIBC.usleep(2000)
        raise LabError(f"the links do not come up: {found}")

    def listen(self, listener: Listener) -> None:
        """Have a listener, as its user; it counts what comes and drops it, so that there are no answers."""
        family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
        kind = socket.SOCK_STREAM if listener.protocol == "tcp" else socket.SOCK_DGRAM
        LIBC.setfsuid(listener.uid)
        try:
            made = self._stack.enter_context(socket.socket(family, kind))
        finally:
            LIBC.setfsuid(0)
        nothing = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))
        made.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(nothing)))  # SO_ATTACH_FILTER
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if listener.transparent:
            six = family == socket.AF_INET6
            made.setsockopt(socket.IPPROTO_IPV6 if six else socket.SOL_IP, 75 if six else 19, 1)  # IP*_TRANSPARENT
        made.bind((listener.address, listener.port))
        if listener.remote:
            address, port = listener.remote.split()
            made.connect((address, int(port)))
        if listener.protocol == "tcp":
            made.listen(16)
        self._listeners.append((listener, made))

    def listeners(self) -> list[Listener]:
        """Those that there are."""
        return [listener for listener, _ in self._listeners]

    def counters(self) -> dict[Place, int]:
        """How often each rule of all stores matched."""
        found = self.netlink.counters()
        for program, family in self.loader.legacy():
            add_legacy(found, family, run(program, "-c"))
        return found

    def drops(self) -> list[int]:
        """What each listener got."""
        memory = (made.getsockopt(socket.SOL_SOCKET, 55, 36) for _, made in self._listeners)  # SO_MEMINFO
        return [struct.unpack_from("=9I", each)[8] for each in memory]

    def inject(self, link: str, frame: bytes) -> None:
        """Send a frame from the far end of a link."""
        self._wires[link].send(frame)

    def forget(self) -> None:
        """Undo what a packet leaves behind: its connection, and what rules added to sets."""
        self.netlink.forget_connections()
        self.loader.reset()

    def settle(self) -> None:
        """Return when all that was queued before has been dealt with."""
        self._beats += 1
        frame = struct.pack("!12xHQ", SENTINEL, self._beats) + bytes(40)
        self._sentinel.send(frame)
        while self._sentinel.recv(200) != frame:
            pass


def _current(stack: contextlib.ExitStack) -> int:
    opened = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, opened)
    return opened


def _new(stack: contextlib.ExitStack) -> int:
    if LIBC.unshare(NEW_NET):
        raise LabError(f"no new namespace: {os.strerror(ctypes.get_errno())}")
    return _current(stack)


def _enter(opened: int) -> None:
    if LIBC.setns(opened, NEW_NET):
        raise LabError(f"cannot enter a namespace: {os.strerror(ctypes.get_errno())}")
