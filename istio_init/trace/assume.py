"""Fills in what is not said of a packet, from what is known of its namespace, and remembers what was assumed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.dialects.iptables.matches import CTSTATES
from istio_init.dialects.iptables.targets import Tproxy
from istio_init.netfilter.family import MAX_MARK, Family
from istio_init.trace.packet import PORT_PROTOCOLS, Direction, Packet, is_protocol, protocol_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.observe.snapshot import Snapshot

APP_ID = 1000
"""User and group of a connection of which nothing else is said: an application's."""

CLIENT_PORT, SERVER_PORT = 40000, 80
"""Of a connection whose ports are not said; no connection has port 0."""

PEERS: dict[Family, IPv4Address | IPv6Address] = {
    Family.IPV4: IPv4Address("198.51.100.1"),
    Family.IPV6: IPv6Address("2001:db8::1"),
}

FIELDS = {"src": "source", "sport": "source_port", "dport": "destination_port", "uid": "uid", "gid": "gid",
          "interface": "interface", "mark": "mark", "ctstate": "ctstate"}  # fmt: skip
"""What people may leave out, and which field of the packet it is."""

LIMITS = {"sport": 65535, "dport": 65535, "uid": 2**32 - 2, "gid": 2**32 - 2, "mark": MAX_MARK}
TEXTS = ("direction", "proto", "dst", "src", "interface", "ctstate")


def local_marks(snapshot: Snapshot, rules: RuleSet) -> frozenset[int]:
    """The marks whose routing rule leads to this machine.

    Of rules that are not live nothing is known of the routing; TPROXY's marks are taken to have the rule they need.
    """
    if snapshot.is_live:
        routing = snapshot.routing
        return frozenset(
            mark
            for family, mark, table in routing.rules
            if family is rules.family and (family, table) in routing.local_tables
        )
    targets = [entry.rule.target for *_, entry in rules.entries()]
    return frozenset(target.mark & target.mask for target in targets if isinstance(target, Tproxy))


def filled(
    fields: Mapping[str, Any], snapshot: Snapshot, marks: Mapping[Family, frozenset[int]]
) -> tuple[Packet, list[str]]:
    """The packet of the given fields, and the names of those that had to be assumed.

    ``marks`` are the marks that lead to this machine.

    Raises:
        ValueError: a field is missing, not known, or has no possible value; says which.
    """
    _check(fields)
    direction, destination = Direction(fields["direction"]), _wire_address("dst", fields["dst"])
    outbound = direction is Direction.OUTBOUND
    protocol = protocol_name(fields["proto"])
    family = Family.IPV4 if destination.version == 4 else Family.IPV6
    if fields.get("family", family.value) not in (family.value, destination.version):
        raise ValueError(f"family {fields['family']!r} is not that of dst {destination}")
    local = destination.is_loopback or destination in snapshot.addresses
    local |= fields.get("mark", 0) in marks.get(family, ())
    has_socket = outbound and fields.get("socket", True)
    uid = fields.get("uid", APP_ID) if has_socket else None
    defaults: dict[str, Any] = {
        "src": str(_source(outbound, destination, family, snapshot)),
        "sport": CLIENT_PORT if protocol in PORT_PROTOCOLS else 0,
        "dport": SERVER_PORT if protocol in PORT_PROTOCOLS else 0,
        "uid": uid,
        "gid": uid,
        "interface": "lo" if outbound and local else _link(snapshot),
        "mark": 0,
        "ctstate": "NEW",
    }
    given = {name: value for name, value in fields.items() if has_socket or name not in ("uid", "gid")}
    values = {**defaults, **given}
    source = _wire_address("src", values["src"])
    if source.version != destination.version:
        raise ValueError(f"src {source} and dst {destination} are of different families")
    packet = Packet(
        direction,
        protocol,
        source,
        destination,
        **{FIELDS[name]: values[name] for name in defaults if name != "src"},
    )
    return packet, [name for name in defaults if name not in fields and _can_differ(name, packet, snapshot)]


def _check(fields: Mapping[str, Any]) -> None:
    """Raise for the first field that is wrong."""
    for name in ("direction", "proto", "dst"):
        if name not in fields:
            raise ValueError(f"{name} is missing")
    for name, value in fields.items():
        if name in LIMITS:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LIMITS[name]:
                raise ValueError(f"{name} {value!r} is not a number from 0 to {LIMITS[name]}")
        elif name in TEXTS:
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} {value!r} is not a text")
        elif name == "socket":
            if not isinstance(value, bool):
                raise ValueError(f"socket {value!r} is neither true nor false")
        elif name != "family":
            raise ValueError(f"{name!r} is not known")
    if fields["direction"] not in [each.value for each in Direction]:
        raise ValueError(f"direction {fields['direction']!r} is neither outbound nor inbound")
    if not is_protocol(protocol_name(fields["proto"])):
        known = "tcp, udp, icmp, ipv6-icmp, sctp or another protocol's number"
        raise ValueError(f"proto {fields['proto']!r} is no protocol; write {known}")
    if fields.get("ctstate", "NEW") not in CTSTATES[:5]:
        raise ValueError(f"ctstate {fields['ctstate']!r} is not one of {', '.join(CTSTATES[:5])}")
    _check_together(fields)


def _check_together(fields: Mapping[str, Any]) -> None:
    """Raise for the first field that a packet like this does not have."""
    protocol = protocol_name(fields["proto"])
    for name in ("sport", "dport"):
        if fields.get(name) and protocol not in PORT_PROTOCOLS:
            raise ValueError(f"{name} {fields[name]}: {protocol} has no ports")
    if fields["direction"] == Direction.INBOUND.value or not fields.get("socket", True):
        for name in ("uid", "gid"):
            if name in fields:
                raise ValueError(f"{name} is of the sending socket: an inbound packet and one without socket have none")


def _wire_address(name: str, text: str) -> IPv4Address | IPv6Address:
    """An address as it stands in a packet."""
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f"{name} {text} is IPv4 on the wire; write {address.ipv4_mapped}")
    return address


def _can_differ(name: str, packet: Packet, snapshot: Snapshot) -> bool:
    """Whether a packet of this kind could have another value."""
    if name in ("uid", "gid"):
        return packet.uid is not None
    if name == "interface":
        local = packet.destination.is_loopback or (snapshot.is_live and packet.interface == "lo")
        return not (packet.direction is Direction.OUTBOUND and local) and len(_links(snapshot)) != 1
    return name not in ("sport", "dport") or packet.protocol in PORT_PROTOCOLS


def _links(snapshot: Snapshot) -> list[str]:
    """The interfaces that are up, as far as they are known, without lo."""
    return [each.name for each in snapshot.interfaces if each.is_up and each.name != "lo"]


def _link(snapshot: Snapshot) -> str:
    """The interface by which the world is reached: eth0, or the first one that is up in a namespace without it."""
    links = _links(snapshot)
    return "eth0" if "eth0" in links or not links else links[0]


def _source(
    outbound: bool, destination: IPv4Address | IPv6Address, family: Family, snapshot: Snapshot
) -> IPv4Address | IPv6Address:
    """The address that such a connection would have: the pod's own, or a stranger's."""
    if outbound and destination.is_loopback:
        return ip_address("127.0.0.1" if family is Family.IPV4 else "::1")
    if outbound:
        own = [each for each in snapshot.addresses if each.version == destination.version and is_usable(each)]
        if destination in own:
            return destination
        if own:
            return own[0]
    return PEERS[family]


def is_usable(address: IPv4Address | IPv6Address) -> bool:
    """Whether a connection to the world may have this source: not loopback, link-local, or the proxy's ``::6``."""
    return not (address.is_loopback or address.is_link_local) and str(address) != "::6"
