"""From a configuration and the facts of a namespace to the probes that prove it."""

from __future__ import annotations

from istio_init.prove.inbound import inbound
from istio_init.prove.inside import inside
from istio_init.prove.model import Plan
from istio_init.prove.outbound import outbound
from istio_init.prove.planner import LOOPBACK, Planner
from istio_init.system.spots import Side, Spot
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.model import Config, Surroundings
    from istio_init.prove.model import Facts
    from istio_init.system.spots import Ids, Probe

PROBE_PORT = 15002
"""Where Istio's validation connects, unless told otherwise (--iptables-probe-port)."""


def plan(config: Config, around: Surroundings, facts: Facts, probe_port: int = PROBE_PORT) -> Plan:
    """Everything that can be probed of a configuration, and what cannot."""
    planner = Planner(config, around, facts)
    for family in around.families:
        outbound(planner, family)
        inside(planner, family, probe_port)
        inbound(planner, family)
    unique = tuple(dict.fromkeys(planner.probes))
    return Plan(unique, tuple(planner.skipped), planner.ground())


def spots(probes: tuple[Probe, ...], config: Config, owner: Ids | None) -> tuple[Spot, ...]:
    """Where listeners have to wait for these probes.

    Both of the proxy's ports, so that a probe which comes to the wrong one is seen. ``owner`` is the proxy, as
    whose the listeners count; None where we cannot act as it.
    """
    found: dict[Spot, None] = {}
    for probe in probes:
        family, port, protocol = probe.family, probe.packet.destination_port, probe.protocol
        for proxy_port in (config.proxy_port, config.inbound_capture_port):
            inbound_tproxy = probe.expected.kind is Kind.TPROXY and proxy_port == probe.expected.port
            found[Spot(Side.POD, "tcp", family, proxy_port, None, owner, inbound_tproxy)] = None
        if probe.is_captured and probe.expected.port is not None:
            address = LOOPBACK[family] if protocol == "udp" else None
            transparent = probe.expected.kind is Kind.TPROXY
            found[Spot(Side.POD, protocol, family, probe.expected.port, address, owner, transparent)] = None
        if probe.waits is not None:
            address = probe.packet.destination if protocol == "udp" else None
            found[Spot(probe.waits, protocol, family, port, address)] = None
    return _merged(found)


def _merged(found: dict[Spot, None]) -> tuple[Spot, ...]:
    """One listener a place: transparent and owned where any of those asked for it is."""
    merged: dict[tuple[object, ...], Spot] = {}
    for spot in found:
        key = spot.side, spot.protocol, spot.family, spot.port, spot.address
        other = merged.get(key, spot)
        merged[key] = spot.replace(owner=spot.owner or other.owner, transparent=spot.transparent or other.transparent)
    return tuple(merged.values())
