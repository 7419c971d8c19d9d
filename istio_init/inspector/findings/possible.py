"""Connections that a namespace can have: from its addresses, by its interfaces, where its routes lead."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.packet import Direction
from istio_init.trace.facts import Facts
from istio_init.trace.routing import LOOPBACK_DEVICE, Found, Query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.netfilter.host import Host
    from istio_init.netfilter.packet import Packet

MOST_DESTINATIONS = 4


def first_route(facts: Facts, packet: Packet) -> Found:
    """The route of an outbound connection before any rule is evaluated, which tells its interface."""
    assert facts.tables is not None
    query = Query(
        int(packet.destination),
        int(packet.source),
        mark=packet.mark,
        uid=packet.uid,
        protocol=packet.protocol,
        sport=packet.source_port,
        dport=packet.destination_port,
    )
    return facts.tables.look_up(query)[0][0]


class Possible:
    """What of the packets that rules tell apart can be there, on one host and of one family."""

    def __init__(self, host: Host, family: Family) -> None:
        self.family = family
        self.facts = Facts(host, family)
        self.host = host
        self.names = frozenset(link.name for link in host.links)

    def of(self, packet: Packet) -> list[Packet]:
        """The packet, or those like it that are possible where it is not itself."""
        if not self.names:
            return [packet]
        if packet.direction is Direction.INBOUND:
            return list(self._arriving(packet))
        if self.facts.tables is None:
            found = [packet.interface] if packet.interface in self.names else sorted(self.names)
            return [packet.replace(interface=name) for name in found]
        if not self.facts.is_local(int(packet.source)):
            return []
        return [each for each in self._leaving(packet) if self._may_leave(each)]

    def _arriving(self, packet: Packet) -> Iterator[Packet]:
        """From elsewhere, by the interface via which answers leave: other packets are taken for forged."""
        names = sorted(self.names - {LOOPBACK_DEVICE})
        if self.facts.is_local(int(packet.source)):
            return
        if self.facts.tables is not None:
            back = self.facts.tables.look_up(Query(int(packet.source)))[0][0]
            names = [name for name in names if name == back.device and back.type is AddressType.UNICAST]
        for name in [packet.interface] if packet.interface in names else names:
            yield packet.replace(interface=name)

    def _leaving(self, packet: Packet) -> Iterator[Packet]:
        """By the interface that routing chooses, and to what is routed by the packet's own one."""
        device = self._device(packet)
        if device is not None:
            yield packet.replace(interface=device)
        if device != packet.interface and packet.interface in self.names:
            for destination in list(self._reached_by(packet.interface))[:MOST_DESTINATIONS]:
                other = packet.replace(destination=destination)
                if self._device(other) == packet.interface:
                    yield other

    def _may_leave(self, packet: Packet) -> bool:
        """What has a loopback source stays on this machine."""
        return packet.interface == LOOPBACK_DEVICE or not packet.source.is_loopback

    def _device(self, packet: Packet) -> str | None:
        """The interface via which routing sends a packet at first; None where it leads nowhere."""
        return first_route(self.facts, packet).device

    def _reached_by(self, name: str) -> Iterator[IPv4Address | IPv6Address]:
        """Addresses that routes lead to via an interface."""
        address = IPv4Address if self.family is Family.IPV4 else IPv6Address
        for route in (self.host.routes or {}).get(self.family, ()):
            if route.device == name:
                low, high = int(route.destination.network_address), int(route.destination.broadcast_address)
                yield address(min(low + 3, high))
