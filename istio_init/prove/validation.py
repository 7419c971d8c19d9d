"""Proves the current network namespace with real connections: facts, probes, sending them, judging what was seen."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_network

from istio_init.config.model import Surroundings
from istio_init.errors import IstioInitError, ToolError
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host, Listener, is_usable
from istio_init.netfilter.protocols import protocol_number
from istio_init.observe.host import read_host
from istio_init.observe.snapshot import Snapshot
from istio_init.prove.astray import NOT_LOOKED_AT, Astray
from istio_init.prove.judge import verdict
from istio_init.prove.model import Facts, Plan, Report, Skipped, Verdict
from istio_init.prove.probes import PROBE_PORT, plan, spots
from istio_init.prove.reason import Live
from istio_init.system import namespaces, netlink
from istio_init.system.neighbour import Neighbour
from istio_init.system.privileges import capabilities
from istio_init.system.probing import Run
from istio_init.system.sockets import sockets
from istio_init.system.spots import NO_PORT, Ground, IPAddress, Probe, Seen, Side, Spot
from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from istio_init.dialects.iptables.matches import IPNetwork
    from istio_init.prove.subject import Subject

UNROUTED = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
ANY: dict[Family, IPAddress] = {Family.IPV4: IPv4Address(0), Family.IPV6: IPv6Address(0)}
TURN = 10.0
"""Seconds to wait for another run in the namespace, whose rules or listeners ours would meet."""

NEEDED = ("NET_ADMIN", "SYS_ADMIN")
ALL_NEEDED = (*NEEDED, "SETUID", "SETGID")


def validate(
    subject: Subject,
    around: Surroundings,
    snapshot: Snapshot,
    *,
    timeout: float,
    probe_port: int = PROBE_PORT,
    announce: Callable[[str], None],
    others: Astray = NOT_LOOKED_AT,
) -> Report:
    """Probe what a configuration has to bring about in the current network namespace.

    Args:
        subject: what is to be proved.
        around: the name servers that it holds for.
        snapshot: the namespace as it was read; its rules explain what fails.
        timeout: seconds for each probe.
        probe_port: where the proxy connects to the passthrough address.
        announce: told, before anything is added to the namespace, what that is.
        others: what of all connections goes astray, if that was looked at.

    Raises:
        BusyError: another run is at work in the namespace and does not end.
    """
    turn = namespaces.lock(TURN)
    try:
        facts = _facts(snapshot)
        chosen = plan(subject, around, facts, probe_port)
        try:
            return _carry_out(chosen, subject, facts, snapshot, timeout, announce, others)
        except NeighbourError as error:
            facts = facts.replace(no_neighbour=error.message)
            chosen = plan(subject, around, facts, probe_port)
            return _carry_out(chosen, subject, facts, snapshot, timeout, announce, others)
    finally:
        os.close(turn)


def _host(snapshot: Snapshot, waiting: list[Spot]) -> Host:
    """The namespace as the probes met it: with the link to the second one, and with our listeners."""
    host, _ = read_host(None)
    if host.rules is None:
        host = host.replace(routes=None)
    if (others := snapshot.host.listeners) is None:
        return host
    ours = [
        Listener(protocol_number(spot.protocol), spot.address or ANY[spot.family], spot.port, spot.transparent)
        for spot in waiting
        if spot.side is Side.POD
    ]
    return host.replace(listeners=(*ours, *others))


class NeighbourError(ToolError):
    """There can be no second namespace."""


def _carry_out(
    chosen: Plan,
    subject: Subject,
    facts: Facts,
    snapshot: Snapshot,
    timeout: float,
    announce: Callable[[str], None],
    others: Astray,
) -> Report:
    with ExitStack() as stack:
        neighbour = _neighbour(chosen.ground, announce, stack)
        waiting = spots(chosen.probes, subject, facts)
        run = Run(chosen.probes, waiting, neighbour)
        seen = _probed(run, neighbour, timeout)
        host = _host(snapshot, [spot for spot in waiting if spot not in run.taken | run.busy])
    live = Live(snapshot, host, subject)
    verdicts: list[Verdict] = []
    skipped = list(chosen.skipped)
    for probe, each in zip(chosen.probes, seen, strict=True):
        occupant = _occupant(probe, run, snapshot)
        if probe.protocol == "udp" and occupant is not None:
            why = f"{occupant} listens there already, and over UDP nothing tells who answers"
            skipped.append(Skipped(f"{probe.who} to port {probe.packet.destination_port}/udp", why, probe.family))
        elif (blocked := run.blocked(probe)) is not None or each.failure == NO_PORT:
            why = f"a connection has port {blocked.port} there" if blocked is not None else NO_PORT
            skipped.append(Skipped(f"{probe.who} to port {probe.packet.destination_port}", why, probe.family))
        else:
            verdicts.append(verdict(probe, each, live, occupant))
    problems, doubts = live.elsewhere(
        chosen.probes, subject.tracer().netfilter, is_told=others is not None and bool(others.problems)
    )
    problems = [*problems, *_half_a_proxy(subject, run), *(others.problems if others is not None else ())]
    doubts = [*doubts, *(others.doubts if others is not None else ())]
    lacks = not facts.may.issuperset(ALL_NEEDED)
    return Report(
        tuple(verdicts),
        tuple(skipped),
        tuple(doubts),
        tuple(problems),
        lacks_privileges=lacks,
        wanted=subject.wanted,
    )


def _probed(run: Run, neighbour: Neighbour | None, timeout: float) -> list[Seen]:
    """What was seen of each probe, if their interface was there all the time.

    Raises:
        NeighbourError: somebody renamed, moved or deleted it.
    """
    seen: list[Seen] | None = None
    failure: OSError | None = None
    try:
        seen = run.probe(timeout)
    except OSError as error:
        failure = error
    if neighbour is not None and not neighbour.is_joined():
        what = f"the interface {neighbour.ground.interface} was renamed, moved, changed or deleted meanwhile"
        raise NeighbourError(what)
    if seen is None:
        raise ToolError(f"the probes cannot be sent: {failure.strerror if failure else ''}") from failure
    return seen


def _half_a_proxy(subject: Subject, run: Run) -> Iterator[str]:
    """Where something listens on one of the proxy's two ports, and nothing on the other."""
    heard = {spot.port for spot in run.taken if spot.protocol == "tcp"}
    ports = {"outbound": subject.outbound_port, "inbound": subject.inbound_port}
    for direction, port in ports.items():
        if heard & set(ports.values()) and port not in heard:
            [other] = heard & set(ports.values())
            yield f"something listens on port {other}, but nothing on {port}, where {direction} connections arrive"


def _neighbour(ground: Ground | None, announce: Callable[[str], None], stack: ExitStack) -> Neighbour | None:
    """The second namespace, if one is needed, until the stack ends.

    Raises:
        NeighbourError: it cannot be made.
    """
    if ground is None:
        return None
    addresses = " and ".join(f"{link.ours}/{link.prefix_length}" for link in ground.links.values())
    routes = f", with routes to {', '.join(map(str, ground.further))}" if ground.further else ""
    announce(f"for the time of the probes there is an interface {ground.interface} with {addresses}{routes}")
    try:
        return stack.enter_context(Neighbour(ground))
    except IstioInitError as error:
        raise NeighbourError(error.message) from None


def _occupant(probe: Probe, run: Run, snapshot: Snapshot) -> str | None:
    """Who listens, instead of us, where a probe has to come out."""
    spot = run.occupied(probe)
    if spot is None:
        return None
    found = [each for each in snapshot.listeners if (each.protocol, each.port) == (spot.protocol, spot.port)]
    process = found[0].process if found else None
    return f"{visible(process.name)} (pid {process.pid})" if process is not None else "another program"


def _facts(snapshot: Snapshot) -> Facts:
    found = sockets()
    may = capabilities()
    missing = [f"CAP_{name}" for name in NEEDED if name not in may]
    no_neighbour = f"a second namespace takes {' and '.join(missing)}" if missing else None
    if namespaces.is_host():
        no_neighbour = "the host's own namespace gets no second one beside it"
    usable = [each.address for each in netlink.addresses() if is_usable(each.address)]
    names = [each.name for each in snapshot.interfaces] or [name for _, name in socket.if_nameindex()]
    return Facts(
        addresses=tuple(usable),
        interfaces=tuple(names),
        used=frozenset(each.port for each in found),
        peers=frozenset(each.peer[0] for each in found if not each.listens),
        taken=_taken() if no_neighbour is None else (),
        identity=(os.geteuid(), os.getegid()),
        may=may,
        reaches=_reaches,
        has_user=lambda number: not namespaces.unmapped_ids([(number, number)]),
        has_group=lambda number: not namespaces.unmapped_ids([(number, number)], groups=True),
        no_neighbour=no_neighbour,
        checks_sources=_checks_sources(),
    )


def _checks_sources() -> bool:
    """Whether IPv4 asks of a new interface that it be the way back (kernel: ip-sysctl, rp_filter)."""
    found = []
    for name in ("all", "default"):
        try:
            with open(f"/proc/sys/net/ipv4/conf/{name}/rp_filter") as file:
                found.append(int(file.read()))
        except (OSError, ValueError):
            continue
    return max(found, default=0) == 1


def _taken() -> tuple[IPNetwork, ...]:
    """The ranges that routes lead to, default routes aside, and those of addresses."""
    found: list[IPNetwork] = [
        ip_network(f"{each.address}/{each.prefix_length}", strict=False) for each in netlink.addresses()
    ]
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        for route in ip.get_routes(family=2) + ip.get_routes(family=10):
            if route["dst_len"] and (destination := route.get_attr("RTA_DST")):
                found.append(ip_network(f"{destination}/{route['dst_len']}", strict=False))
    return tuple(dict.fromkeys(found))


def _reaches(address: IPAddress) -> bool:
    """Whether there is a route to an address; asking sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            return asked.connect_ex((str(address), 9)) not in UNROUTED
    except OSError:
        return False
