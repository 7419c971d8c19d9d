"""A packet as people write it: the arguments of ``istio-init trace``."""

from __future__ import annotations

import shlex

from istio_init.trace.packet import PORT_PROTOCOLS, Direction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from istio_init.trace.packet import Packet


def packet_arguments(packet: Packet) -> str:
    """The packet as arguments of ``istio-init trace``."""
    has_ports = packet.protocol in PORT_PROTOCOLS
    source = endpoint(packet.source, packet.source_port if has_ports else None)
    destination = endpoint(packet.destination, packet.destination_port if has_ports else None)
    words = [packet.direction.value, packet.protocol, destination, "--src", source, "--interface", packet.interface]
    if packet.uid is not None:
        words += ["--uid", str(packet.uid), "--gid", str(packet.gid)]
    elif packet.direction is Direction.OUTBOUND:
        words += ["--no-socket"]
    if packet.mark:
        words += ["--mark", f"{packet.mark:#x}"]
    return shlex.join(words)


def endpoint(address: IPv4Address | IPv6Address, port: int | None) -> str:
    """Address and port, IPv6 in brackets; the address alone where there is no port."""
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
