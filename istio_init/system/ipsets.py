"""The sets that ``-m set`` and ``-j SET`` name, over netlink: no program is needed (linux/netfilter/ipset/ip_set.h).

Asking may load the kernel module ip_set, so that it is done only for rules that name sets.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address

from istio_init.dialects.iptables.ipset import Element, IpSet
from istio_init.errors import IstioInitError, PrivilegeError, ToolError
from istio_init.system.netlink import NETLINK_NETFILTER, dump, elements, parse_attributes, text_of, understood

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Attributes = Mapping[int, bytes]

CMD_LIST = (6 << 8) | 7
REQUEST = bytes(4) + struct.pack("=HHB3x", 5, 1, 6)
"""struct nfgenmsg, and IPSET_ATTR_PROTOCOL: 6, which all kernels speak."""

SETNAME, TYPENAME, FAMILY, DATA, ELEMENTS = 2, 3, 5, 7, 8
FAMILIES = {2: "inet", 10: "inet6"}

IP, CIDR, PORT, TIMEOUT, PROTO, FLAGS, MARK, MARKMASK, BITMASK = 1, 3, 4, 6, 7, 8, 10, 11, 12
ETHER, NAME, IP2, CIDR2, IFACE, SKBMARK, NETMASK = 17, 18, 20, 21, 23, 27, 20
"""IPSET_ATTR_…, of elements; netmask, of a set, shares its number with an element's second address."""

PHYSDEV, NOMATCH, WILDCARD = 2, 4, 128
ICMP = frozenset([1, 58])


def read() -> dict[str, IpSet] | IstioInitError:
    """All sets of the current network namespace by their names, or why there are none."""
    try:
        return _sets()
    except PermissionError:
        return PrivilegeError(
            "the sets cannot be read: permission denied", fix="run as root, or with the capability NET_ADMIN"
        )
    except OSError as error:
        return ToolError(f"the sets cannot be read: {error.strerror}")


@understood
def _sets() -> dict[str, IpSet]:
    heads: dict[str, Attributes] = {}
    members: dict[str, list[Element]] = {}
    for body in dump(NETLINK_NETFILTER, CMD_LIST, REQUEST):
        attributes = parse_attributes(body, 4)
        name = text_of(attributes[SETNAME])
        if TYPENAME in attributes:  # Not in the second and later messages of a large set.
            heads[name] = attributes
        kind = text_of(heads[name][TYPENAME])
        listed = elements(attributes.get(ELEMENTS, b""))
        members.setdefault(name, []).extend(_element(kind, parse_attributes(each, 0)) for each in listed)
    return {
        name: IpSet(name, text_of(head[TYPENAME]), tuple(members[name]), tuple(_options(head)))
        for name, head in heads.items()
    }


def _options(head: Attributes) -> Iterator[tuple[str, str]]:
    """What ``create`` was given, as far as it decides what is in the set."""
    data = parse_attributes(head.get(DATA, b""), 0)
    family = FAMILIES.get(head.get(FAMILY, b"\0")[0])
    if family is not None and not text_of(head[TYPENAME]).startswith("bitmap:"):
        yield "family", family
    if NETMASK in data:
        yield "netmask", str(data[NETMASK][0])
    if BITMASK in data:
        yield "bitmask", _address(data[BITMASK])
    if MARKMASK in data:
        yield "markmask", f"{_number(data[MARKMASK]):#x}"
    if TIMEOUT in data:
        yield "timeout", str(_number(data[TIMEOUT]))


def _element(kind: str, data: Attributes) -> Element:
    flags = _number(data.get(FLAGS, b""))
    found: list[tuple[str, str]] = []
    if TIMEOUT in data:
        found.append(("timeout", str(_number(data[TIMEOUT]))))
    found += [(name, "") for bit, name in ((NOMATCH, "nomatch"), (WILDCARD, "wildcard")) if flags & bit]
    if SKBMARK in data:
        value, mask = _number(data[SKBMARK][:4]), _number(data[SKBMARK][4:])
        found.append(("skbmark", f"{value:#x}/{mask:#x}"))
    return Element(tuple(_parts(kind.partition(":")[2].split(","), data, flags)), tuple(found))


def _parts(dimensions: list[str], data: Attributes, flags: int) -> Iterator[str]:
    """The element by the dimensions of its set."""
    addresses = iter(((IP, CIDR), (IP2, CIDR2)))
    for dimension in dimensions:
        match dimension:
            case "ip" | "net":
                address, length = next(addresses)
                yield _address(data[address]) + (f"/{data[length][0]}" if length in data else "")
            case "port":
                yield _port(data.get(PROTO), _number(data[PORT]))
            case "iface":
                yield ("physdev:" if flags & PHYSDEV else "") + text_of(data[IFACE])
            case "mark":
                yield f"{_number(data[MARK]):#x}"
            case "set":
                yield text_of(data[NAME])
            case "mac":
                if ETHER in data:
                    yield data[ETHER].hex(":").upper()


def _port(protocol: bytes | None, port: int) -> str:
    if protocol is None:
        return str(port)
    number = protocol[0]
    return f"{number}:{port >> 8}/{port & 0xFF}" if number in ICMP else f"{number}:{port}"


def _address(packed: bytes) -> str:
    [value] = parse_attributes(packed, 0).values()
    return str(ip_address(value))


def _number(packed: bytes) -> int:
    return int.from_bytes(packed, "big")
