"""Values of fields in words: addresses as networks, interfaces by name, states by theirs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, summarize_address_range

from istio_init.netfilter.fields import ADDRESSES, AddressType, CtState, CtStatus, Field
from istio_init.netfilter.names import SIZE, name_of
from istio_init.netfilter.protocols import protocol_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from istio_init.netfilter.intervals import Intervals

IPV4_BITS = 32
PACKET_TYPES = ("this host", "broadcast", "multicast", "another host", "outgoing", "loopback")

HEADS: dict[Field, str] = {
    Field.PROTOCOL: "",
    Field.SOURCE: "from ",
    Field.DESTINATION: "to ",
    Field.SPORT: "from port ",
    Field.DPORT: "port ",
    Field.UID: "user ",
    Field.GID: "group ",
    Field.IN_INTERFACE: "in via ",
    Field.OUT_INTERFACE: "out via ",
    Field.CT_STATE: "",
    Field.SOURCE_TYPE: "from an address of type ",
    Field.DESTINATION_TYPE: "to an address of type ",
}
"""What goes before a value; of other fields their name."""

_BITS = {Field.CT_STATE: CtState, Field.CT_STATUS: CtStatus}
_TYPES = frozenset(
    [
        Field.SOURCE_TYPE,
        Field.DESTINATION_TYPE,
        Field.SOURCE_TYPE_IN,
        Field.DESTINATION_TYPE_IN,
        Field.SOURCE_TYPE_OUT,
        Field.DESTINATION_TYPE_OUT,
    ]
)
_INTERFACES = frozenset(
    [
        Field.IN_INTERFACE,
        Field.OUT_INTERFACE,
        Field.RETURN_INTERFACE,
        Field.RETURN_INTERFACE_MARK,
        Field.RETURN_INTERFACE_HERE,
        Field.RETURN_INTERFACE_HERE_MARK,
    ]
)
_HEXADECIMAL = frozenset([Field.MARK, Field.CT_MARK, Field.TCP_FLAGS, Field.TOS, Field.PRIORITY])


def head(field: Field) -> str:
    """What goes before a value of the field."""
    return HEADS.get(field, f"{field.value} ")


def value_texts(field: Field, found: Intervals, *, is_ipv6: bool, most: int | None = None) -> list[str]:
    """The values of intervals, each as one would write it; of ``most`` intervals where that is given."""
    texts: list[str] = []
    for low, high in found[:most]:
        if field in ADDRESSES:
            texts += networks(low, high, is_ipv6=is_ipv6)
        elif field in _INTERFACES:
            texts.append(_interfaces(low, high))
        elif low == high:
            texts.append(_one(field, low))
        else:
            texts.append(f"{_one(field, low)}-{_one(field, high)}")
    return texts


def networks(low: int, high: int, *, is_ipv6: bool) -> list[str]:
    """A range of addresses as networks; a single address without a length. A range of no few networks stays one."""
    kind: Any = IPv6Address if is_ipv6 or high >> IPV4_BITS else IPv4Address
    if low == high:
        return [str(kind(low))]
    found = list(summarize_address_range(kind(low), kind(high)))
    if len(found) > 2:
        return [f"{kind(low)}-{kind(high)}"]
    return [str(each.network_address) if each.num_addresses == 1 else str(each) for each in found]


def _interfaces(low: int, high: int) -> str:
    if low == high:
        return name_of(low) if low else "no interface"
    length = next((size for size in range(SIZE, -1, -1) if high - low == (1 << 8 * (SIZE - size)) - 1), None)
    if length is not None and low % (1 << 8 * (SIZE - length)) == 0:
        return name_of(low) + "+"
    return "others"


def _one(field: Field, number: int) -> str:
    if field in (Field.PROTOCOL, Field.CT_PROTOCOL):
        return protocol_name(number)
    if field is Field.PKTTYPE and number < len(PACKET_TYPES):
        return PACKET_TYPES[number]
    if field in _TYPES and number in {each.value for each in AddressType}:
        return AddressType(number).name.lower()
    if field in _BITS:
        return bits_text(field, number)
    return f"{number:#x}" if field in _HEXADECIMAL else str(number)


def bits_text(field: Field, number: int) -> str:
    """The names of bits: ``established or related``."""
    names = [flag.name or "" for flag in _BITS[field] if flag & number]
    return " or ".join(names).lower() or "none"
