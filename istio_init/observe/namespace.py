"""Collects a snapshot of the current network namespace. Reads only: no table is created, no counter reset.

What cannot be read is said, and the rest still comes.
"""

from __future__ import annotations

import os

from istio_init.errors import IstioInitError
from istio_init.mesh.routing import LiveRouting
from istio_init.observe.connections import who_has
from istio_init.observe.host import read_host
from istio_init.observe.native import holders, raised_from
from istio_init.observe.netfilter import asks_for_sockets
from istio_init.observe.rules import Kept, read_rules
from istio_init.observe.snapshot import Interface, Snapshot
from istio_init.observe.unread import Part, Unread
from istio_init.observe.unread import unread as not_read
from istio_init.system import living, netlink, process, routing, sockets
from istio_init.system.namespaces import is_host
from istio_init.system.places import Place
from istio_init.system.processes import Process
from istio_init.system.proxies import said_by
from istio_init.system.resolv import name_servers
from istio_init.system.running import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

SYSCTLS = (
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
    "net.ipv6.conf.all.disable_ipv6",
    "net.ipv6.conf.lo.disable_ipv6",
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.all.route_localnet",
)
PROGRAMS = ("iptables-nft-save", "iptables-legacy-save", "nft")


def observe(
    place: Place,
    known: tuple[Process, ...] | None = None,
    *,
    versions: bool = True,
    asks: bool = False,
    kept: Kept | None = None,
) -> Snapshot:
    """The namespace that the process is in; ``place`` tells whose files name its servers.

    ``known`` are its processes where the caller has them; ``versions`` asks the reading programs for theirs; ``asks``
    reads what its proxies say that was asked for; ``kept`` are rules of other namespaces, which may be the same.
    """
    unread: list[Unread] = []

    def attempt(part: Part, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (IstioInitError, OSError) as error:
            unread.append(not_read(part, error))
            return otherwise

    no_processes: tuple[Process, ...] = ()
    no_sockets: list[sockets.Socket] = []
    processes, unseen = attempt(Part.PROCESSES, _processes, (no_processes, 0)) if known is None else (known, 0)
    read_sockets = sockets.sockets if kept is None else sockets.sockets_quickly
    found_sockets = attempt(Part.SOCKETS, read_sockets, no_sockets)
    rules = read_rules() if kept is None else kept.read()
    natives = raised_from(rules.ruleset, rules.netfilter)
    unread += rules.unread
    known_sockets = None if any(each.part is Part.SOCKETS for each in unread) else found_sockets
    listeners, outside = who_has(found_sockets, processes)
    host, not_known = read_host(known_sockets, asks_for_sockets=asks_for_sockets(rules.netfilter.tables))
    # In a list of many, a namespace without a rule has nothing that its routing or its name servers decide.
    is_empty = kept is not None and not rules.netfilter.tables
    return Snapshot(
        label=place.label,
        rules=holders(rules.reading.iptables, natives),
        reading=rules.reading,
        registered=rules.netfilter,
        ruleset=rules.ruleset,
        raised=natives,
        host=host,
        routing=LiveRouting()
        if is_empty
        else attempt(Part.ROUTING, lambda: routing.read(frozenset([133])), LiveRouting()),
        unusual_routing=() if is_empty else tuple(attempt(Part.ROUTING_RULES, netlink.unusual_rules, [])),
        interfaces=tuple([Interface(each.name, each.is_up, each.addresses) for each in host.links]),
        listeners=listeners,
        connections=sum(each.protocol == "tcp" and each.state == sockets.ESTABLISHED for each in found_sockets),
        outside=outside,
        processes=processes,
        unseen_owners=sum(each.process is None for each in listeners) if unseen else 0,
        sysctls=_sysctls(),
        invalid_packets=attempt(Part.CONNTRACK_STATISTICS, netlink.invalid_packets, 0),
        dns_servers=() if is_empty else name_servers(place.resolv_conf, place.root),
        knows_servers=not place.own_files and not is_empty,
        is_host=is_host(),
        said=said_by(processes) if asks and not is_host() else (),
        programs=_programs() if versions else {},
        unread=tuple(dict.fromkeys([*unread, *not_known])),
        partial=rules.partial,
    )


def _processes() -> tuple[tuple[Process, ...], int]:
    """The processes of the current namespace, and how many more this process may not look into."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    found, unseen = [], 0
    for each in running():
        try:
            if living.network(each.pid) == here and each.pid != os.getpid():
                found.append(each.process)
        except PermissionError:
            unseen += 1
        except OSError:
            continue
    return tuple(found), unseen


def _sysctls() -> dict[str, int]:
    found = {}
    for name in SYSCTLS:
        try:
            with open(f"/proc/sys/{name.replace('.', '/')}") as file:
                found[name] = int(file.read())
        except (OSError, ValueError):
            continue
    return found


def _programs() -> dict[str, str]:
    """The versions of the programs that read rules, as they print them."""
    found = {}
    for name in PROGRAMS:
        try:
            completed = process.run([name, "--version"], timeout=5)
        except IstioInitError:
            continue
        found[name] = completed.stdout.strip()
    return found
