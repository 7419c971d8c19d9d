"""The right-hand sides of matches, and elements of sets, as numbers and intervals."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv6Address

from istio_init.dialects.nft import names
from istio_init.netfilter.intervals import EMPTY, union
from istio_init.netfilter.names import NO_INTERFACE, exactly, with_prefix
from istio_init.netfilter.protocols import protocol_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.nft.ruleset import Json
    from istio_init.netfilter.host import Link
    from istio_init.netfilter.intervals import Intervals

MOST_DEPTH = 8


class OddError(ValueError):
    """JSON that does not say what this package understands."""


class Kind(Enum):
    """What a value is, and so how nft writes it."""

    NUMBER = "number"
    IPV4 = "IPv4 address"
    IPV6 = "IPv6 address"
    INTERFACE = "name of an interface"
    LINK = "interface, by name where it exists, else by index"
    BOOLEAN = "whether something is there"
    PRIORITY = "priority, major:minor"
    PROTOCOL = "protocol"
    ETHER_TYPE = "type of Ethernet frame"
    TCP_FLAGS = "TCP flags"
    CT_STATE = "connection state"
    CT_STATUS = "connection status"
    DIRECTION = "direction"
    PACKET_TYPE = "packet type"
    ADDRESS_TYPE = "address type"
    FAMILY = "family"
    LINK_TYPE = "link type"
    ECN = "ECN"
    DSCP = "DSCP"
    ICMP_TYPE = "ICMP type"
    ICMP_CODE = "ICMP code"
    ICMPV6_TYPE = "ICMPv6 type"
    ICMPV6_CODE = "ICMPv6 code"
    USER = "user or group"

    __hash__ = object.__hash__


FLAGS = frozenset([Kind.TCP_FLAGS, Kind.CT_STATE, Kind.CT_STATUS])
"""Kinds of which several values may be given, for any of their bits."""

_NAMES: dict[Kind, dict[str, int]] = {
    Kind.TCP_FLAGS: names.TCP_FLAGS,
    Kind.CT_STATE: names.CT_STATES,
    Kind.CT_STATUS: names.CT_STATUS,
    Kind.DIRECTION: names.DIRECTIONS,
    Kind.PACKET_TYPE: names.PACKET_TYPES,
    Kind.ADDRESS_TYPE: names.ADDRESS_TYPES,
    Kind.FAMILY: names.FAMILIES,
    Kind.LINK_TYPE: names.LINK_TYPES,
    Kind.ECN: names.ECN,
    Kind.DSCP: names.DSCP,
    Kind.ICMP_TYPE: names.ICMP_TYPES,
    Kind.ICMP_CODE: names.ICMP_CODES,
    Kind.ICMPV6_TYPE: names.ICMPV6_TYPES,
    Kind.ICMPV6_CODE: names.ICMPV6_CODES,
    Kind.ETHER_TYPE: names.ETHER_TYPES,
    Kind.USER: {"root": 0},
}


def number(value: Json, kind: Kind, depth: int = 0) -> int:
    """One value as a number; several flags are all of their bits.

    Raises:
        OddError: it is none that is known.
    """
    if isinstance(value, int) and (not isinstance(value, bool) or kind is Kind.BOOLEAN) and value >= 0:
        return names.SWAPPED_ETHER_TYPES.get(value, value) if kind is Kind.ETHER_TYPE else int(value)
    if isinstance(value, list) and kind in FLAGS and depth < MOST_DEPTH:
        return _all_bits(value, kind, depth)
    if isinstance(value, dict) and value.keys() == {"|"} and isinstance(value["|"], list) and depth < MOST_DEPTH:
        return _all_bits(value["|"], kind, depth)
    if not isinstance(value, str):
        raise OddError(f"{kind.value} {value!r}")
    try:
        return _named(value, kind)
    except (ValueError, KeyError):
        raise OddError(f"{kind.value} {value!r}") from None


def _all_bits(values: list[Json], kind: Kind, depth: int) -> int:
    bits = 0
    for each in values:
        bits |= number(each, kind, depth + 1)
    return bits


def _named(value: str, kind: Kind) -> int:
    if kind is Kind.IPV4:
        return _ipv4(value)
    if kind is Kind.IPV6:
        return int(IPv6Address(value))
    if kind is Kind.PROTOCOL:
        return protocol_number(value)
    if kind is Kind.PRIORITY:
        return _priority(value)
    known = _NAMES.get(kind)
    if known is not None and value in known:
        return known[value]
    if not value.isascii() or len(value) > len(str(1 << 128)):
        raise ValueError(value)
    found = int(value, 0)
    if found < 0:
        raise ValueError(value)
    return found


def _ipv4(value: str) -> int:
    """An address; ten thousands of them are read, and ipaddress takes four times as long."""
    first, second, third, fourth = [
        int(part) if part.isdecimal() and part.isascii() else -1 for part in value.split(".")
    ]
    if not (0 <= first < 256 and 0 <= second < 256 and 0 <= third < 256 and 0 <= fourth < 256):
        raise ValueError(value)
    return first << 24 | second << 16 | third << 8 | fourth


def _priority(value: str) -> int:
    """A handle of a queueing discipline's class (linux/pkt_sched.h): both halves hexadecimal."""
    if value in ("none", "root"):
        return 0 if value == "none" else 0xFFFFFFFF
    major, minor = (int(half or "0", 16) for half in value.split(":"))
    if not (0 <= major < 1 << 16 and 0 <= minor < 1 << 16):
        raise ValueError(value)
    return major << 16 | minor


def intervals(value: Json, kind: Kind, bits: int, links: Mapping[int, Link], depth: int = 0) -> Intervals:
    """A value, range, prefix or anonymous set as the numbers it holds; ``*`` is all of them.

    Raises:
        OddError: it is none that is known.
    """
    if depth > MOST_DEPTH:
        raise OddError("nested too deeply")
    highest = (1 << bits) - 1
    if isinstance(value, str):
        if kind is Kind.INTERFACE:
            return _interface(_encodable(value))
        if value == "*":
            return ((0, highest),)
        if kind is Kind.LINK:
            return _link(_encodable(value), links)
    elif isinstance(value, dict):
        found = _compound(value, kind, bits, links, depth)
        if found is not None:
            return found
    elif kind is Kind.LINK:
        return _link(str(number(value, Kind.NUMBER)), links)
    low = number(value, kind)
    return ((low, low),) if low <= highest else EMPTY


def _compound(value: dict[str, Json], kind: Kind, bits: int, links: Mapping[int, Link], depth: int) -> Intervals | None:
    match value:
        case {"range": [first, last]}:
            if kind in (Kind.INTERFACE, Kind.LINK):
                raise OddError("a range of interfaces")
            low, high = number(first, kind), min(number(last, kind), (1 << bits) - 1)
            return ((low, high),) if low <= high else EMPTY
        case {"prefix": {"addr": address, "len": int(length)}}:
            width = {Kind.IPV4: 32, Kind.IPV6: 128}.get(kind, bits)
            if not 0 <= length <= width:
                raise OddError(f"a prefix of {length} bits")
            rest = (1 << (width - length)) - 1
            low = number(address, kind)  # Of a match, bits under a mask: with others set it never holds.
            return EMPTY if low & rest else ((low, low | rest),)
        case {"set": list(elements)}:
            return union([intervals(each, kind, bits, links, depth + 1) for each in elements])
        case {"set": element}:
            return intervals(element, kind, bits, links, depth + 1)
        case {"elem": {"val": element}}:
            return intervals(element, kind, bits, links, depth + 1)
    return None


def _encodable(name: str) -> str:
    try:
        name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise OddError(f"interface {name!r}") from None
    return name


def _interface(value: str) -> Intervals:
    if "/" in value:  # No interface has such a name (dev_valid_name); iptables-nft writes INVAL/D for ``! -o +``.
        return EMPTY
    if value == "*":
        return with_prefix("")
    if value.endswith("\\*"):
        return exactly(value[:-2] + "*")
    return with_prefix(value[:-1]) if value.endswith("*") else exactly(value)


def _link(value: str, links: Mapping[int, Link]) -> Intervals:
    """Interfaces are compared by index; nft prints the name of the one that has it now, the number where none has."""
    if not value.isdecimal():
        return exactly(value)
    index = int(value)
    if index == 0:
        return ((NO_INTERFACE, NO_INTERFACE),)
    return exactly(links[index].name) if index in links else EMPTY
