"""A packet as people write it: the arguments of ``istio-init trace``."""

from __future__ import annotations

import shlex

from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import WITH_PORTS, protocol_name
from istio_init.trace.describe import FLAGS
from istio_init.wording.commands import Target, ours
from istio_init.wording.traces import endpoint


def packet_arguments(packet: Packet) -> str:
    """The packet as arguments of ``istio-init trace``."""
    return shlex.join(_words(packet))


def trace_command(packet: Packet, target: Target = ()) -> str:
    """The command that traces the packet in what a target names."""
    return ours("trace", *_words(packet), target=target)


def _words(packet: Packet) -> list[str]:
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
    if packet.tos:
        words += ["--dscp", str(packet.tos >> 2)]
    if packet.priority:
        words += ["--priority", str(packet.priority)]
    if packet.tcp_flags is not None and packet.tcp_flags != FLAGS["SYN"]:
        words += ["--tcp-flags", ",".join(name for name, bit in FLAGS.items() if packet.tcp_flags & bit)]
    return words
