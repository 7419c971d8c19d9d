"""A packet as people write it: the arguments of ``istio-init trace``."""

from __future__ import annotations

import shlex

from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import WITH_PORTS, protocol_name
from istio_init.wording.traces import endpoint


def packet_arguments(packet: Packet) -> str:
    """The packet as arguments of ``istio-init trace``."""
    has_ports = packet.protocol in WITH_PORTS
    source = endpoint(packet.source, packet.source_port if has_ports else None)
    destination = endpoint(packet.destination, packet.destination_port if has_ports else None)
    protocol = protocol_name(packet.protocol)
    words = [packet.direction.value, protocol, destination, "--src", source, "--interface", packet.interface]
    if packet.uid is not None:
        words += ["--uid", str(packet.uid), "--gid", str(packet.gid)]
    elif packet.direction is Direction.OUTBOUND:
        words += ["--no-socket"]
    if packet.mark:
        words += ["--mark", f"{packet.mark:#x}"]
    return shlex.join(words)
