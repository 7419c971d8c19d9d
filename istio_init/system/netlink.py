"""Asks the kernel over netlink: addresses, routing rules, routes, nf_tables' tables.

What a pod's start asks and changes does not go through pyroute2, whose import takes several times as long as all else.
Formats: linux/netlink.h, rtnetlink.h, if_addr.h, fib_rules.h, nfnetlink.h, nf_tables.h, nfnetlink_conntrack.h.
"""

from __future__ import annotations

# The C module: `socket` itself builds four enums of every constant, at each start.
import _socket
import errno
import os
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.errors import PrivilegeError, ToolError
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ParamSpec, TypeVar

    Given = ParamSpec("Given")
    T = TypeVar("T")

AF_NETLINK = 16
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
ATTEMPTS = 20
MOST_MESSAGES = 500_000
"""Rules, routes, addresses, … of one kind that are read: memory is ours, and what there is anybody's choice."""

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE = 22, 26, 34
NFT_GET_TABLES, NFT_GET_RULES = (10 << 8) | 1, (10 << 8) | 7
NFTA_TABLE_NAME, NFTA_TABLE_FLAGS = 1, 2
NFT_TABLE_F_DORMANT, NFT_TABLE_F_OWNER = 1, 2
CT_GET_STATS, CTA_STATS_INVALID = (1 << 8) | 4, 4
RTN_LOCAL = 2
FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN, FRA_FWMASK = 6, 10, 14, 16
NO_LENGTH = b"\xff" * 4
FRA_TELLING_NOTHING = frozenset([FRA_PRIORITY, 14, 15, 18, 21])
"""Besides the priority, the suppressed prefix length, the table, padding and who made the rule."""

FIB_RULE_INVERT, FR_ACT_TO_TBL = 0x2, 1
MAIN_RULE = 32766
OWN_RULES = {0: 255, MAIN_RULE: 254, 32767: 253}
"""The rules that each namespace has from the start: priority and table."""
FAMILIES = {2: Family.IPV4, 10: Family.IPV6}
"""Address family numbers, which nf_tables' families share (AF_INET, AF_INET6)."""

NFT_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
"""nf_tables' families that see IP packets, as nft names them (linux/netfilter.h, NFPROTO_…)."""


class LocalAddress(Value):
    """An address of the namespace; ``index`` is its interface's, 1 for lo."""

    address: IPv4Address | IPv6Address
    prefix_length: int
    index: int


class MarkRule(Value):
    """A routing rule that selects by packet mark."""

    family: Family
    mark: int
    mask: int
    table: int
    preference: int = 0


class NftTable(Value):
    """A table of nf_tables; ``family`` is a number (linux/netfilter.h, NFPROTO_…)."""

    family: int
    name: str
    is_dormant: bool
    """Whether the kernel does not call it."""

    is_owned: bool = False
    """Whether only the socket that made it may change it."""

    @property
    def has_flags(self) -> bool:
        """Whether nft has to print more of it than chains and sets, which it did wrongly for long."""
        return self.is_dormant or self.is_owned


def understood(read: Callable[Given, T]) -> Callable[Given, T]:
    """Have a message of another shape than is known be an OSError, as everything else is that the kernel may say."""

    def reading(*args: Given.args, **kwargs: Given.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (LookupError, TypeError, ValueError, struct.error) as error:
            raise OSError(errno.EBADMSG, "the kernel's answer is not understood") from error

    reading.__doc__ = read.__doc__
    return reading


@understood
def addresses() -> list[LocalAddress]:
    """Every address of every interface of the current network namespace."""
    found = []
    for body in dump(NETLINK_ROUTE, RTM_GETADDR, bytes(8)):
        _, prefix_length, _, _, index = struct.unpack_from("=BBBBI", body)
        attributes = parse_attributes(body, 8)
        packed = attributes.get(2) or attributes.get(1)
        if packed and len(packed) in (4, 16):
            found.append(LocalAddress(ip_address(packed), prefix_length, index))
    return found


@understood
def mark_rules() -> list[MarkRule]:
    """The routing rules of both families that select by mark and by nothing else."""
    return [rule for body in dump(NETLINK_ROUTE, RTM_GETRULE, bytes(12)) if (rule := mark_rule(body)) is not None]


def mark_rule(body: bytes) -> MarkRule | None:
    """The routing rule of a message, if it selects by mark and by nothing else."""
    family, destination, source, tos, table, _, _, action = struct.unpack_from("=8B", body)
    attributes = parse_attributes(body, 12)
    if family not in FAMILIES or FRA_FWMARK not in attributes or action != FR_ACT_TO_TBL:
        return None
    more = attributes.keys() - FRA_TELLING_NOTHING - {FRA_FWMARK, FRA_FWMASK}
    if destination or source or tos or more or _number(body[8:12]) & FIB_RULE_INVERT:
        return None
    if attributes.get(FRA_SUPPRESS_PREFIXLEN, NO_LENGTH) != NO_LENGTH:
        return None
    mask = _number(attributes[FRA_FWMASK]) if FRA_FWMASK in attributes else 0xFFFFFFFF
    wide = _number(attributes[15]) if 15 in attributes else table
    preference = _number(attributes[FRA_PRIORITY]) if FRA_PRIORITY in attributes else 0
    return MarkRule(FAMILIES[family], _number(attributes[FRA_FWMARK]), mask, wide, preference)


def ask(protocol: int, request: int, body: bytes, flags: int = 0) -> int:
    """The number of the error that a single request is answered with; 0 for none, and for an answer.

    ``flags`` are what the request is to have besides asking for that.

    Raises:
        OSError: it cannot be asked.
    """
    channel = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
    try:
        channel.send(struct.pack("=IHHII", 16 + len(body), request, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body)
        answer = channel.recv(1 << 16)
    finally:
        channel.close()
    _, kind = struct.unpack_from("=IH", answer)
    return -int(struct.unpack_from("=i", answer, 16)[0]) if kind == NLMSG_ERROR else 0


def answer(protocol: int, request: int, body: bytes) -> bytes:
    """The payload of the one message that answers a request.

    Raises:
        OSError: the kernel refuses.
    """
    channel = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
    try:
        channel.send(struct.pack("=IHHII", 16 + len(body), request, NLM_F_REQUEST, 1, 0) + body)
        for kind, _, payload in messages(channel.recv(1 << 16)):
            if kind != NLMSG_ERROR:
                return payload
            number = -struct.unpack_from("=i", payload)[0]
            raise OSError(number, os.strerror(number))
    finally:
        channel.close()
    raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))


@understood
def unusual_rules() -> list[tuple[Family, int]]:
    """The routing rules, by family and priority, that are neither the kernel's own three nor a mark's alone."""
    found = []
    for body in dump(NETLINK_ROUTE, RTM_GETRULE, bytes(12)):
        family, destination, source, tos, table, _, _, action = struct.unpack_from("=8B", body)
        flags = _number(body[8:12])
        attributes = parse_attributes(body, 12)
        priority = _number(attributes[FRA_PRIORITY]) if FRA_PRIORITY in attributes else 0
        is_plain = not (destination or source or tos or flags & FIB_RULE_INVERT) and action == FR_ACT_TO_TBL
        tells = attributes.keys() - FRA_TELLING_NOTHING
        if is_plain and not tells and OWN_RULES.get(priority) == table:
            continue
        whole = FRA_FWMASK not in attributes or _number(attributes[FRA_FWMASK]) == 0xFFFFFFFF
        if is_plain and whole and FRA_FWMARK in tells <= {FRA_FWMARK, FRA_FWMASK} and priority < MAIN_RULE:
            continue
        if family in FAMILIES:
            found.append((FAMILIES[family], priority))
    return found


@understood
def local_default_tables() -> set[tuple[Family, int]]:
    """Routing tables that deliver everything locally: those with ``local default dev lo``."""
    found = set()
    for body in dump(NETLINK_ROUTE, RTM_GETROUTE, bytes(12)):
        family, prefix_length, _, _, table, _, _, kind = struct.unpack_from("=8B", body)
        attributes = parse_attributes(body, 12)
        if kind == RTN_LOCAL and prefix_length == 0 and family in FAMILIES and attributes.get(4) == _LO:
            found.add((FAMILIES[family], _number(attributes[15]) if 15 in attributes else table))
    return found


_LO = struct.pack("=I", 1)


def nft_tables() -> set[tuple[Family, str]] | None:
    """Names of nf_tables' tables of the two IP families; None where the kernel has no nf_tables.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
    """
    tables = all_nft_tables()
    if tables is None:
        return None
    return {(FAMILIES[table.family], table.name) for table in tables if table.family in FAMILIES}


def all_nft_tables() -> list[NftTable] | None:
    """nf_tables' tables of all families; None where the kernel has no nf_tables.

    Raises:
        PrivilegeError: CAP_NET_ADMIN is missing.
    """
    try:
        return _nft_tables()
    except PermissionError:
        raise PrivilegeError(
            "the kernel's nf_tables cannot be read: permission denied",
            fix="run as root, or with the capability NET_ADMIN",
        ) from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            return None
        raise ToolError(f"nf_tables cannot be read: {error.strerror}") from error


@understood
def _nft_tables() -> list[NftTable]:
    return [_nft_table(body) for body in dump(NETLINK_NETFILTER, NFT_GET_TABLES, bytes(4))]


def _nft_table(body: bytes) -> NftTable:
    attributes = parse_attributes(body, 4)
    name = text_of(attributes[NFTA_TABLE_NAME])
    flags = int.from_bytes(attributes.get(NFTA_TABLE_FLAGS, b""), "big")
    return NftTable(body[0], name, bool(flags & NFT_TABLE_F_DORMANT), bool(flags & NFT_TABLE_F_OWNER))


@understood
def nft_rule_numbers() -> dict[tuple[str, str, str, int], int]:
    """The number in its chain, from 1, of each rule that sees IP packets, by family, table, chain and handle."""
    found: dict[tuple[str, str, str, int], int] = {}
    counts: dict[tuple[str, str, str], int] = {}
    for body in dump(NETLINK_NETFILTER, NFT_GET_RULES, bytes(4)):
        if body[0] not in NFT_FAMILIES:
            continue
        attributes = parse_attributes(body, 4)
        table, chain = (text_of(attributes[kind]) for kind in (1, 2))
        place = NFT_FAMILIES[body[0]], table, chain
        counts[place] = counts.get(place, 0) + 1
        found[*place, int.from_bytes(attributes[3], "big")] = counts[place]
    return found


def invalid_packets() -> int:
    """Packets that connection tracking called invalid in this namespace, over all processors."""
    total = 0
    try:
        for body in dump(NETLINK_NETFILTER, CT_GET_STATS, bytes(4)):
            if CTA_STATS_INVALID in (attributes := parse_attributes(body, 4)):
                total += int.from_bytes(attributes[CTA_STATS_INVALID], "big")
    except OSError as error:
        raise ToolError(f"they cannot be read: {error.strerror}") from error
    return total


@understood
def dump(protocol: int, request: int, header: bytes) -> list[bytes]:
    """The payload of each message that answers a dump request.

    It is asked again where something changed meanwhile and the kernel says that the answer is no whole.

    Raises:
        OSError: the kernel refuses, or something changed each time.
    """
    for _ in range(ATTEMPTS):
        bodies, is_whole = _dump_once(protocol, request, header)
        if is_whole:
            return bodies
    raise OSError(errno.EBUSY, f"something changed each of {ATTEMPTS} times while it was read")


def _dump_once(protocol: int, request: int, header: bytes) -> tuple[list[bytes], bool]:
    with_header = struct.pack("=IHHII", 16 + len(header), request, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + header
    channel = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
    bodies: list[bytes] = []
    is_whole = True
    try:
        channel.send(with_header)
        while True:
            for kind, flags, body in messages(channel.recv(1 << 18)):
                is_whole = is_whole and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_ERROR or (kind == NLMSG_DONE and len(body) >= 4):
                    number = -struct.unpack_from("=i", body)[0]
                    if number > 0:
                        raise OSError(number, os.strerror(number))
                if kind == NLMSG_DONE:
                    return bodies, is_whole
                if len(bodies) == MOST_MESSAGES:
                    raise OSError(errno.E2BIG, f"there are more than {MOST_MESSAGES} of them")
                bodies.append(body)
    finally:
        channel.close()


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages of a datagram: kind, flags and payload.

    Raises:
        ValueError: one of them has no possible length.
    """
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, offset)
        if length < 16:
            raise ValueError("a message that is shorter than its header")
        yield kind, flags, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


_HEADER = struct.Struct("=HH").unpack_from
"""The length and kind of an attribute."""


def parse_attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """The attributes that stand in a message's payload from an offset on, by their kind."""
    found, end = {}, len(body) - 4
    while offset <= end:
        length, kind = _HEADER(body, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def elements(packed: bytes) -> Iterator[bytes]:
    """The attributes of a list, which all have the same kind."""
    offset, end = 0, len(packed) - 4
    while offset <= end:
        length, _ = _HEADER(packed, offset)
        if length < 4:
            return
        yield packed[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def text_of(packed: bytes) -> str:
    """A text that ends with a zero."""
    return packed.rstrip(b"\0").decode(errors="surrogateescape")


def attribute(kind: int, packed: bytes) -> bytes:
    """The attribute of a kind."""
    return struct.pack("=HH", 4 + len(packed), kind) + packed + bytes(-len(packed) % 4)


def text_attribute(kind: int, value: str) -> bytes:
    """The attribute of a kind with a text."""
    return attribute(kind, value.encode(errors="surrogateescape") + b"\0")


def _number(packed: bytes) -> int:
    return int(struct.unpack("=I", packed)[0])
