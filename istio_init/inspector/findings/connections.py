"""Connections as they are now: some that nobody accepts, and some that the rules came too late for."""

from __future__ import annotations

from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.evaluated import evaluated_of
from istio_init.inspector.findings.model import Finding, Severity, View
from istio_init.inspector.findings.namespace import PROXY_NAMES, is_exempt
from istio_init.inspector.findings.rules import limited
from istio_init.inspector.reader import proxy_ports
from istio_init.mesh.mode import Mode
from istio_init.trace.describe import filled
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.observe.snapshot import Connection, Listener

CAPTURED = frozenset([Kind.REDIRECT, Kind.TPROXY])
MOST_TRACED = 64


def accept_queue_full(view: View) -> Iterator[Finding]:
    """A listener to which more connections came than it may leave waiting: the kernel drops further ones."""
    if not (view.inferred or view.ambient):
        return
    full = [each for each in view.snapshot.listeners if each.backlog is not None and each.waiting > each.backlog]
    if full:
        ports = {*proxy_ports(view), 15008}
        is_proxy = any(each.port in ports for each in full)
        evidence = [f"{each}: {_waiting(each)}" for each in full]
        yield Finding(catalogue.ACCEPT_QUEUE_FULL, limited(evidence), worse=None if is_proxy else Severity.WARNING)


def stopped_proxy(view: View) -> Iterator[Finding]:
    """A proxy whose process is stopped: the kernel establishes connections to it, and nobody accepts them."""
    if not (view.inferred or view.ambient):
        return
    waiting = {each.process for each in view.snapshot.listeners if each.port in proxy_ports(view)}
    stopped = sorted(each.pid for each in waiting if each is not None and each.is_stopped)
    names = {each.pid: each.name for each in waiting if each is not None}
    if stopped:
        yield Finding(catalogue.STOPPED_PROXY, limited([f"pid {pid} ({names[pid]})" for pid in stopped]))


def _waiting(listener: Listener) -> str:
    return f"{listener.waiting} connections wait to be accepted, its limit is {listener.backlog}"


def open_bypass(view: View) -> Iterator[Finding]:
    """Connections that bypass the proxy, such as would be captured if they were opened now."""
    found = view.inferred or view.ambient
    if found is None or not view.snapshot.is_live or view.snapshot.partial:
        return
    config = view.inferred.config if view.inferred else None
    mine = [
        each
        for each in view.snapshot.outside
        if each.is_accepted or view.mode is not Mode.TPROXY
        if each.process.name not in PROXY_NAMES and not (config is not None and is_exempt(config, each.process))
    ]
    if not mine:
        return
    evaluated = evaluated_of(view)
    tracer = evaluated.live_tracer
    late = []
    for each in mine[:MOST_TRACED]:
        packet = filled(_described(each), evaluated.host)[0]
        if tracer.trace(packet).delivered.kind in CAPTURED:
            late.append(str(each))
    if late:
        yield Finding(catalogue.OPEN_BYPASS, limited(late))


def _described(connection: Connection) -> dict[str, object]:
    here, there = (str(connection.address), connection.port), (str(connection.peer), connection.peer_port)
    source, destination = (there, here) if connection.is_inbound else (here, there)
    owner = {} if connection.is_inbound else {"uid": connection.process.uid, "gid": connection.process.gid}
    direction = "inbound" if connection.is_inbound else "outbound"
    return {
        "direction": direction,
        "proto": "tcp",
        "src": source[0],
        "sport": source[1],
        "dst": destination[0],
        "dport": destination[1],
        **owner,
    }
