"""Fills in what is not said of a packet, from what is known of its namespace, and remembers what was assumed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.model.netfilter import Family
from istio_init.trace.packet import Direction, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from istio_init.inspector.snapshot import Snapshot

APP_ID = 1000
"""User and group of a connection of which nothing else is said: an application's."""

SOME_PORT = 40000
PEERS: dict[Family, IPv4Address | IPv6Address] = {
    Family.IPV4: IPv4Address("198.51.100.1"),
    Family.IPV6: IPv6Address("2001:db8::1"),
}


def filled(fields: dict[str, Any], snapshot: Snapshot) -> tuple[Packet, list[str]]:
    """The packet of the given fields, and the names of those that had to be assumed."""
    direction = Direction(fields["direction"])
    destination = ip_address(fields["dst"])
    outbound = direction is Direction.OUTBOUND
    local = destination.is_loopback or destination in snapshot.addresses
    family = Family.IPV4 if destination.version == 4 else Family.IPV6
    interface = "lo" if outbound and local else "eth0"
    uid = fields.get("uid", APP_ID if outbound else None)
    defaults: dict[str, Any] = {
        "src": str(_source(outbound, destination, family, snapshot)),
        "sport": SOME_PORT,
        "uid": uid,
        "gid": uid,
        "interface": interface,
        "mark": 0,
        "ctstate": "NEW",
    }
    assumed = [name for name in defaults if name not in fields and (outbound or name not in ("uid", "gid"))]
    all_fields = {**defaults, **fields}
    packet = Packet(
        direction,
        all_fields["proto"],
        ip_address(all_fields["src"]),
        destination,
        all_fields["sport"],
        all_fields.get("dport", 0),
        all_fields["uid"],
        all_fields["gid"],
        all_fields["interface"],
        all_fields["mark"],
        all_fields["ctstate"],
    )
    return packet, assumed


def _source(
    outbound: bool, destination: IPv4Address | IPv6Address, family: Family, snapshot: Snapshot
) -> IPv4Address | IPv6Address:
    """The address that such a connection would have: the pod's own, or a stranger's."""
    if outbound and destination.is_loopback:
        return ip_address("127.0.0.1" if family is Family.IPV4 else "::1")
    if outbound:
        own = [
            each
            for each in snapshot.addresses
            if each.version == destination.version
            and not (each.is_loopback or each.is_link_local)
            and str(each) != "::6"
        ]
        if destination in own:
            return destination
        if own:
            return own[0]
    return PEERS[family]


def is_usable(address: IPv4Address | IPv6Address) -> bool:
    """Whether a connection to the world may have this source: not loopback, link-local, or the proxy's ``::6``."""
    return not (address.is_loopback or address.is_link_local) and str(address) != "::6"
