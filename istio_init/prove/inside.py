"""Probes of what stays within the namespace: via lo, where the proxy and the application meet."""

from __future__ import annotations

from istio_init.prove.planner import LOOPBACK, PASSTHROUGH, SidecarPlanner
from istio_init.system.spots import Side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.family import Family

GROUP = "inside"


def inside(planner: SidecarPlanner, family: Family, probe_port: int) -> None:
    """All of them, for a family. ``probe_port`` is where validation connects to the passthrough address."""
    own = planner.own_address(family)
    ports = planner.free_port()
    if (app := planner.cast.get("app")) is not None:
        for address in (LOOPBACK[family], own):
            if address is not None:
                packets = [planner.packet(app, address, port) for port in ports]
                planner.add(GROUP, "an application", packets, captured=False, waits=Side.POD)
    for role, who in (("user", "the proxy's user"), ("group", "the proxy's group")):
        if (ids := planner.cast.get(role)) is None:
            continue
        if own is not None:
            packets = [planner.packet(ids, own, port) for port in ports]
            planner.add(GROUP, who, packets, captured=True, waits=Side.POD)
    if (ids := planner.cast.get("user") or planner.cast.get("group")) is not None:
        source = PASSTHROUGH[family]
        _passthrough_port(planner, family, ids, probe_port)
        if own is not None:
            packets = [planner.packet(ids, own, port, source=source) for port in ports]
            who = f"the proxy from {source}"
            planner.add(GROUP, who, packets, captured=False, waits=Side.POD, bind=source)
        packets = [planner.packet(ids, LOOPBACK[family], port) for port in ports]
        planner.add(GROUP, "the proxy", packets, captured=False, waits=Side.POD)


def _passthrough_port(planner: SidecarPlanner, family: Family, ids: tuple[int, int], port: int) -> None:
    """Istio's own validation: the proxy connects to 127.0.0.6 or ::6, which must be proxied to its inbound port."""
    target, source = PASSTHROUGH[family], LOOPBACK[family]
    packet = planner.packet(ids, target, port, source=source)
    if not planner.add(GROUP, "the proxy", [packet], captured=True, waits=Side.POD, bind=source):
        planner.skip(f"the proxy to {target}", "another setting overrides it")
