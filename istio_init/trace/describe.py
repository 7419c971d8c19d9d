"""Fills in what is not said of a packet, from what is known of its namespace, and remembers what was assumed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.netfilter.family import MAX_MARK, Family
from istio_init.netfilter.fields import CtState
from istio_init.netfilter.host import is_usable
from istio_init.netfilter.packet import Direction, Packet, first_state
from istio_init.netfilter.protocols import ICMP, ICMPV6, TCP, WITH_PORTS, protocol_name, protocol_number
from istio_init.trace.departure import Departures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from istio_init.netfilter.host import Host

APP_ID = 1000
"""User and group of a connection of which nothing else is said: an application's."""

CLIENT_PORT, SERVER_PORT = 40000, 80
"""Of a connection whose ports are not said; no connection has port 0."""

SYN = 2
ECHO_REQUEST = {Family.IPV4: 8, Family.IPV6: 128}
"""The type of the ICMP message with which something begins."""

LENGTHS = {TCP: 40, ICMP: 64, ICMPV6: 64}
"""Bytes that a first packet has behind its IP header: a SYN with the kernel's usual options, a ping of iputils."""

HEADERS = {Family.IPV4: 20, Family.IPV6: 40}
OWN_TTL = 64
"""What this machine sends with (net.ipv4.ip_default_ttl)."""

PEERS: dict[Family, IPv4Address | IPv6Address] = {
    Family.IPV4: IPv4Address("198.51.100.1"),
    Family.IPV6: IPv6Address("2001:db8::1"),
}

LONGEST_NAME = 15
"""Bytes of an interface's name (dev_valid_name, net/core/dev.c)."""

FIELDS = {
    "src": "source",
    "sport": "source_port",
    "dport": "destination_port",
    "uid": "uid",
    "gid": "gid",
    "interface": "interface",
    "mark": "mark",
    "ctstate": "state",
    "type": "icmp_type",
    "code": "icmp_code",
    "flags": "tcp_flags",
    "length": "length",
    "ttl": "ttl",
    "tos": "tos",
    "priority": "priority",
    "pkttype": "pkttype",
}
"""What people may leave out, and which field of the packet it is."""

ASSUMABLE = ("src", "sport", "dport", "uid", "gid", "interface", "mark", "ctstate")
"""Of these the answer names those that it depends on; the others are what a first packet usually has."""

STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")
FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128}

LIMITS = {
    "sport": 65535,
    "dport": 65535,
    "uid": 2**32 - 2,
    "gid": 2**32 - 2,
    "mark": MAX_MARK,
    "type": 255,
    "code": 255,
    "flags": 255,
    "length": 65535,
    "ttl": 255,
    "tos": 255,
    "priority": 2**32 - 1,
    "pkttype": 7,
}
TEXTS = ("direction", "proto", "dst", "src", "interface", "ctstate")


def filled(fields: Mapping[str, Any], host: Host, departures: Departures | None = None) -> tuple[Packet, list[str]]:
    """The packet of the given fields, and the names of those that had to be assumed.

    ``departures`` are those of the host, where many packets are asked about.

    Raises:
        ValueError: a field is missing, not known, or has no possible value; says which.
    """
    _check(fields)
    direction, destination = Direction(fields["direction"]), _wire_address("dst", fields["dst"])
    outbound = direction is Direction.OUTBOUND
    if outbound and destination.is_unspecified:
        here = "127.0.0.1" if destination.version == 4 else "::1"
        raise ValueError(f"dst {destination} is this machine, and on the wire an address of it; write {here}")
    protocol = protocol_number(fields["proto"])
    family = Family.IPV4 if destination.version == 4 else Family.IPV6
    if fields.get("family", family.value) not in (family.value, destination.version):
        raise ValueError(f"family {fields['family']!r} is not that of dst {destination}")
    has_socket = outbound and fields.get("socket", True)
    defaults = _defaults(fields, destination, protocol, host, has_socket=has_socket)
    given = {name: value for name, value in fields.items() if has_socket or name not in ("uid", "gid")}
    known = set(fields)
    if outbound and "interface" not in fields:
        departures = departures or Departures(host)
        asked = {**defaults, **given, "protocol": protocol, "src": given.get("src")}
        leaving = departures.interface(destination, asked)
        if leaving is not None:
            known.add("interface")
            defaults["interface"] = leaving
        defaults["src"] = str(departures.source(destination, asked) or defaults["src"])
    values = {**defaults, **{name: value for name, value in given.items() if name in FIELDS}}
    source = _wire_address("src", values["src"])
    if source.version != destination.version:
        raise ValueError(f"src {source} and dst {destination} are of different families")
    values["ctstate"] = CtState[values["ctstate"]]
    packet = Packet(
        direction,
        protocol,
        source,
        destination,
        **{FIELDS[name]: value for name, value in values.items() if name != "src"},
        leaves_source=outbound and "src" not in given,
    )
    if "ctstate" not in fields and fields.keys() & {"flags", "type"}:  # What begins like this tells its state.
        known.add("ctstate")
        packet = packet.replace(state=first_state(packet))
    return packet, [name for name in ASSUMABLE if name not in known and _can_differ(name, packet, host)]


def _defaults(
    fields: Mapping[str, Any], destination: IPv4Address | IPv6Address, protocol: int, host: Host, *, has_socket: bool
) -> dict[str, Any]:
    """What a connection's first packet has if nothing else is said of it."""
    outbound = fields["direction"] == Direction.OUTBOUND.value
    family = Family.IPV4 if destination.version == 4 else Family.IPV6
    local = destination.is_loopback or destination in host.addresses
    local |= fields.get("mark", 0) in host.local_marks.get(family, ())
    uid = fields.get("uid", APP_ID) if has_socket else None
    has_ports = protocol in WITH_PORTS
    is_new = fields.get("ctstate", "NEW") == "NEW"
    is_ping = is_new and protocol in (ICMP, ICMPV6)
    return {
        "src": str(_source(outbound, destination, family, host)),
        "sport": CLIENT_PORT if has_ports else 0,
        "dport": SERVER_PORT if has_ports else 0,
        "uid": uid,
        "gid": uid,
        "interface": "lo" if outbound and local else _link(host),
        "mark": 0,
        "ctstate": "NEW",
        "type": ECHO_REQUEST[family] if is_ping else None,
        "code": 0 if is_ping else None,
        "flags": SYN if protocol == TCP and is_new else None,
        "length": HEADERS[family] + LENGTHS[protocol] if protocol in LENGTHS and is_new else None,
        "ttl": OWN_TTL if outbound else None,
        "tos": 0,
        "priority": 0,
        "pkttype": None,
    }


def _check(fields: Mapping[str, Any]) -> None:
    """Raise for the first field that is wrong."""
    for name in ("direction", "proto", "dst"):
        if name not in fields:
            raise ValueError(f"{name} is missing")
    for name, value in fields.items():
        _check_one(name, value)
    if fields["direction"] not in [each.value for each in Direction]:
        raise ValueError(f"direction {fields['direction']!r} is neither outbound nor inbound")
    try:
        protocol = protocol_number(fields["proto"])
    except ValueError:
        known = "tcp, udp, icmp, ipv6-icmp, sctp or another protocol's number"
        raise ValueError(f"proto {fields['proto']!r} is no protocol; write {known}") from None
    if fields.get("ctstate", "NEW") not in STATES:
        raise ValueError(f"ctstate {fields['ctstate']!r} is not one of {', '.join(STATES)}")
    _check_together(fields, protocol)


def _check_one(name: str, value: object) -> None:
    if name in LIMITS:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LIMITS[name]:
            raise ValueError(f"{name} {value!r} is not a number from 0 to {LIMITS[name]}")
    elif name in TEXTS:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name} {value!r} is not a text")
        if name == "interface" and (len(value.encode()) > LONGEST_NAME or set(value) & set("/: ")):
            raise ValueError(f"interface {value!r} is no name of one, which has at most {LONGEST_NAME} characters")
    elif name == "socket":
        if not isinstance(value, bool):
            raise ValueError(f"socket {value!r} is neither true nor false")
    elif name != "family":
        raise ValueError(f"{name!r} is not known")


def _check_together(fields: Mapping[str, Any], protocol: int) -> None:
    """Raise for the first field that a packet like this does not have."""
    name_of_it = protocol_name(protocol)
    for name in ("sport", "dport"):
        if fields.get(name) and protocol not in WITH_PORTS:
            raise ValueError(f"{name} {fields[name]}: {name_of_it} has no ports")
    for name in ("type", "code"):
        if name in fields and protocol not in (ICMP, ICMPV6):
            raise ValueError(f"{name} {fields[name]}: {name_of_it} has no {name}")
    if "flags" in fields and protocol != TCP:
        raise ValueError(f"flags {fields['flags']}: {name_of_it} has no flags")
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


def _can_differ(name: str, packet: Packet, host: Host) -> bool:
    """Whether a packet of this kind could have another value."""
    if name in ("uid", "gid"):
        return packet.uid is not None
    if name == "interface":
        local = packet.destination.is_loopback or (host.routes is not None and packet.interface == "lo")
        return not (packet.direction is Direction.OUTBOUND and local) and len(_links(host)) != 1
    return name not in ("sport", "dport") or packet.protocol in WITH_PORTS


def _links(host: Host) -> list[str]:
    """The interfaces that are up, as far as they are known, without lo."""
    return [each.name for each in host.links if each.is_up and each.name != "lo"]


def _link(host: Host) -> str:
    """The interface via which the world is reached: eth0, or the first one that is up in a namespace without it."""
    links = _links(host)
    return "eth0" if "eth0" in links or not links else links[0]


def _source(
    outbound: bool, destination: IPv4Address | IPv6Address, family: Family, host: Host
) -> IPv4Address | IPv6Address:
    """The address that such a connection would have: the pod's own, or a stranger's."""
    if outbound and destination.is_loopback:
        return ip_address("127.0.0.1" if family is Family.IPV4 else "::1")
    if outbound:
        own = [each for each in host.addresses if each.version == destination.version and is_usable(each)]
        if destination in own:
            return destination
        if own:
            return own[0]
    return PEERS[family]
