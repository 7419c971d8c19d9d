"""From a configuration and the facts of a namespace to the probes that prove it."""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.prove.ambient import ambient
from istio_init.prove.inbound import inbound
from istio_init.prove.inside import inside
from istio_init.prove.model import Plan
from istio_init.prove.outbound import outbound
from istio_init.prove.planner import LOOPBACK, Planner, SidecarPlanner
from istio_init.system.spots import Side, Spot
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.model import Surroundings
    from istio_init.prove.model import Facts
    from istio_init.prove.subject import Subject
    from istio_init.system.spots import Ids, Probe

PROBE_PORT = 15002
"""Where Istio's validation connects, unless told otherwise (--iptables-probe-port)."""


def plan(subject: Subject, around: Surroundings, facts: Facts, probe_port: int = PROBE_PORT) -> Plan:
    """Everything that can be probed of a configuration, and what cannot."""
    config = subject.config
    planner: Planner
    if isinstance(config, AmbientConfig):
        planner = Planner(subject, facts)
        for family in subject.families:
            ambient(planner, config, family)
    else:
        planner = sidecar = SidecarPlanner(config, around, subject, facts)
        for family in subject.families:
            outbound(sidecar, family)
            inside(sidecar, family, probe_port)
            inbound(sidecar, family)
    unique = tuple(dict.fromkeys(planner.probes))
    return Plan(unique, tuple(planner.skipped), planner.ground())


def spots(probes: tuple[Probe, ...], subject: Subject, facts: Facts) -> tuple[Spot, ...]:
    """Where listeners have to wait for these probes.

    Both of the proxy's ports, so that a probe which comes to the wrong one is seen. They count as the proxy's, where we
    can act as it.
    """
    owner = _proxy(subject, facts)
    mark = subject.mark if "NET_ADMIN" in facts.may else 0
    found: dict[Spot, None] = {}
    for probe in probes:
        family, port, protocol = probe.family, probe.packet.destination_port, probe.protocol
        for proxy_port in (subject.outbound_port, subject.inbound_port):
            inbound_tproxy = probe.expected.kind is Kind.TPROXY and proxy_port == probe.expected.port
            found[Spot(Side.POD, "tcp", family, proxy_port, None, owner, inbound_tproxy, mark)] = None
        if probe.is_captured and probe.expected.port is not None:
            address = LOOPBACK[family] if protocol == "udp" else None
            transparent = probe.expected.kind is Kind.TPROXY
            found[Spot(Side.POD, protocol, family, probe.expected.port, address, owner, transparent, mark)] = None
        if probe.waits is not None:
            address = probe.packet.destination if protocol == "udp" else None
            device = probe.device if probe.waits is Side.POD else None
            found[Spot(probe.waits, protocol, family, port, address, device=device)] = None
    return _merged(found)


def _proxy(subject: Subject, facts: Facts) -> Ids | None:
    """The proxy's user and group, if we can act as it."""
    ids = subject.owner
    if ids is None or not facts.may >= {"SETUID", "SETGID"}:
        return None
    return ids if facts.has_user(ids[0]) and facts.has_group(ids[1]) else None


def _merged(found: dict[Spot, None]) -> tuple[Spot, ...]:
    """One listener a place: transparent and owned where any of those asked for it is."""
    merged: dict[tuple[object, ...], Spot] = {}
    for spot in found:
        key = spot.side, spot.protocol, spot.family, spot.port, spot.address
        other = merged.get(key, spot)
        merged[key] = spot.replace(
            owner=spot.owner or other.owner,
            transparent=spot.transparent or other.transparent,
            mark=spot.mark or other.mark,
            device=spot.device if spot.device == other.device else None,
        )
    return tuple(merged.values())
