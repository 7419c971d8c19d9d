"""The names in rules of iptables as the kernel holds them, and how many rules: what the text of a save cannot fake.

Whoever may write rules chooses the names of interfaces and chains, and the programs print them as they are. Formats:
linux/netfilter/nf_tables.h, linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

from istio_init.netfilter.family import Family
from istio_init.system.netlink import NETLINK_NETFILTER, dump, elements, parse_attributes, text_of, understood
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator, Mapping, Sequence

    Attributes = Mapping[int, bytes]

GET_CHAINS, GET_RULES = (10 << 8) | 4, (10 << 8) | 7
NUMBERS = {Family.IPV4: 2, Family.IPV6: 10}
META_KEY = 2
SIGNS = tuple(struct.pack("=HH", 8, META_KEY) + struct.pack("!I", key) for key in (6, 7))
"""In every message of a rule that tests the name of an interface (NFT_META_IIFNAME, NFT_META_OIFNAME)."""

OURS = b"ISTIO_"
"""In every message of a rule in a chain of Istio's, or of one that leads there."""

NETWORK, TRANSPORT = 1, 2
MARK, PROTOCOL = ("meta", 3), ("meta", 16)
NAMES = frozenset([("meta", 6), ("meta", 7)])
PORTS = 4
"""Bytes of a transport header in which ports stand."""

TCP_FLAGS = (13, 1)

GET_INFO, GET_ENTRIES = 64, 65
LEVELS = {Family.IPV4: (2, 0), Family.IPV6: (10, 41)}
"""The domain of the socket and the level of the option."""

INTERFACES = {Family.IPV4: 16, Family.IPV6: 64}
TARGETS = {Family.IPV4: 88, Family.IPV6: 140}
"""Where in a legacy entry the interfaces stand, and the offsets of its target and of the next entry."""

MASKS = 32
"""Bytes from the names of interfaces to their masks. Behind these stand protocol, flags, and what is inverted."""

INFO = struct.Struct("=32sI5I5III")
HEAD = 40
"""Bytes before the first entry."""


class Told(Value):
    """Of one table: how many rules each chain has, and the names of interfaces that rules test.

    ``unprinted`` are chains with a rule of ours of which iptables-nft does not print all.
    """

    chains: Mapping[str, int]
    interfaces: frozenset[str]
    unprinted: tuple[str, ...] = ()


NOTHING = Told({}, frozenset())


@understood
def of_nft(family: Family) -> dict[str, Told]:
    """iptables-nft's tables, and all others of the family, by name.

    Raises:
        OSError: the kernel does not tell.
    """
    counts: dict[str, dict[str, int]] = {}
    names: dict[str, set[str]] = {}
    unprinted: dict[str, list[str]] = {}
    number = NUMBERS[family]
    header = struct.pack("=BBH", number, 0, 0)
    for body in dump(NETLINK_NETFILTER, GET_CHAINS, header):
        if body[0] == number:
            attributes = parse_attributes(body, 4)
            counts.setdefault(text_of(attributes[1]), {})[text_of(attributes[3])] = 0
    for body in dump(NETLINK_NETFILTER, GET_RULES, header):
        if body[0] == number:
            attributes = parse_attributes(body, 4)
            table, chain = text_of(attributes[1]), text_of(attributes[2])
            chains = counts.setdefault(table, {})
            chains[chain] = chains.get(chain, 0) + 1
            if any(sign in body for sign in SIGNS):
                names.setdefault(table, set()).update(_interfaces(attributes.get(4, b"")))
            if OURS in body and not is_whole(_expressions(attributes.get(4, b""))):
                unprinted.setdefault(table, []).append(chain)
    return {
        table: Told(chains, frozenset(names.get(table, ())), tuple(unprinted.get(table, ())))
        for table, chains in counts.items()
    }


def _expressions(packed: bytes) -> list[tuple[str, dict[int, bytes]]]:
    parts = [parse_attributes(each, 0) for each in elements(packed)]
    return [(text_of(each.get(1, b"")), parse_attributes(each.get(2, b""), 0)) for each in parts]


def _interfaces(expressions: bytes) -> Iterator[str]:
    """What a rule compares the name of an interface with."""
    asks = False
    for name, data in _expressions(expressions):
        if name == "cmp" and asks:
            yield text_of(parse_attributes(data.get(3, b""), 0).get(1, b""))
        asks = name == "meta" and int.from_bytes(data.get(META_KEY, b""), "big") in (6, 7)


class _Load(Value):
    field: tuple[str, int]
    """Its kind, and which of these."""

    length: int
    mask: bytes | None = None


class UnprintedError(ValueError):
    """Something that is not printed."""


def is_whole(expressions: Sequence[tuple[str, Attributes]]) -> bool:
    """Whether iptables-nft prints all of a rule: some of what it does not know goes without a word (its nft-shared.c).

    Whoever sends a rule over netlink could have one that is printed as Istio's and does nothing, or something else.
    """
    loads: dict[int, _Load] = {}
    seen: set[tuple[str, int]] = set()
    try:
        for place, (name, data) in enumerate(expressions, 1):
            if name == "immediate" and place != len(expressions):
                return False  # Nothing behind a verdict is reached, and of a constant nothing is printed.
            if name in ("meta", "payload") and 1 in data:
                loads[_register(data, 1)] = _meta(data) if name == "meta" else _payload(data)
            elif name == "bitwise":
                loads[_register(data, 2)] = _masked(loads[_register(data, 1)], data)
            elif name in ("cmp", "range"):
                _compared(loads[_register(data, 1)], data, seen)
    except (UnprintedError, LookupError):
        return False
    return True


def _meta(data: Attributes) -> _Load:
    return _Load(("meta", _number(data, 2)), 0)


def _payload(data: Attributes) -> _Load:
    base, offset, length = (_number(data, kind) for kind in (2, 3, 4))
    is_printed = base == NETWORK or (base == TRANSPORT and (offset < PORTS or (offset, length) == TCP_FLAGS))
    if not is_printed:
        raise UnprintedError
    return _Load(("network" if base == NETWORK else "transport", offset), length)


def _masked(load: _Load, data: Attributes) -> _Load:
    mask, turned = _value(data, 4), _value(data, 5)
    is_flag = load.field == PROTOCOL or (load.field[0] == "network" and load.length == 1)
    if load.mask is not None or is_flag or not mask or (any(turned) and load.field != MARK):
        raise UnprintedError
    return load.replace(mask=mask)


def _compared(load: _Load, data: Attributes, seen: set[tuple[str, int]]) -> None:
    value = _value(data, 3)
    is_repeated = load.field in seen and load.field not in (MARK, ("transport", TCP_FLAGS[0]))
    has_more = load.field in NAMES and any(value.partition(b"\0")[2])
    is_beside = load.field[0] == "network" and any(
        byte & ~bit for byte, bit in zip(value, load.mask or value, strict=False)
    )
    if is_repeated or has_more or is_beside:
        raise UnprintedError
    seen.add(load.field)


def _number(data: Attributes, kind: int) -> int:
    return int.from_bytes(data[kind], "big")


def _register(data: Attributes, kind: int) -> int:
    """The number of its first four bytes; 1 to 4 have 16 of them."""
    number = _number(data, kind)
    return (number - 1) * 4 if 1 <= number <= 4 else number - 8


def _value(data: Attributes, kind: int) -> bytes:
    """The bytes of a value within the attribute that holds it."""
    packed = data.get(kind, b"")
    return packed[4 : int.from_bytes(packed[:2], sys.byteorder)]


@understood
def of_legacy(family: Family, table: str) -> Told:
    """One table of iptables-legacy, which has to exist: asking for another one would create it.

    Raises:
        OSError: the kernel does not tell.
    """
    import ctypes

    domain, level = LEVELS[family]
    libc = ctypes.CDLL(None, use_errno=True)
    channel = libc.socket(domain, 3 | os.O_CLOEXEC, 255)
    if channel < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        for _ in range(10):
            info = _option(libc, channel, level, GET_INFO, table.encode().ljust(INFO.size, b"\0"))
            _, hooks, *rest = INFO.unpack(info)
            size = rest[-1]
            asked = struct.pack("=32sI4x", table.encode(), size).ljust(HEAD + size, b"\0")
            try:
                entries = _option(libc, channel, level, GET_ENTRIES, asked)[HEAD:]
            except BlockingIOError:
                continue  # It changed in between.
            return _legacy(family, entries, {rest[hook]: BUILTIN[hook] for hook in range(5) if hooks & 1 << hook})
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    finally:
        os.close(channel)


BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""By the number of their hook."""


def _option(libc: ctypes.CDLL, channel: int, level: int, option: int, data: bytes) -> bytes:
    import ctypes

    buffer = ctypes.create_string_buffer(data, len(data))
    size = ctypes.c_uint32(len(data))
    if libc.getsockopt(channel, level, option, buffer, ctypes.byref(size)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return buffer.raw


def _legacy(family: Family, entries: bytes, starts: dict[int, str]) -> Told:
    """A chain's entries stand together, the last one being its policy; an entry named ERROR tells a user's chain."""
    chains: dict[str, int] = {}
    names: set[str] = set()
    current: str | None = None
    unprinted: list[str] = []
    offset, at = 0, INTERFACES[family]
    while offset + TARGETS[family] + 4 <= len(entries):
        target, following = struct.unpack_from("=HH", entries, offset + TARGETS[family])
        if following == 0:
            break
        if entries[offset + target + 2 : offset + target + 8] == b"ERROR\0":
            current = text_of(entries[offset + target + 32 : offset + following].partition(b"\0")[0])
            chains[current] = -1  # Its last entry is no rule.
        else:
            if offset in starts:
                current = starts[offset]
                chains[current] = -1
            if current is not None:
                chains[current] += 1
        if current is not None and has_hidden_test(entries[offset : offset + TARGETS[family]], at):
            unprinted.append(current)
        names.update(text_of(entries[offset + at + n : offset + at + n + 16].partition(b"\0")[0]) for n in (0, 16))
        offset += following
    if current == "ERROR" and chains[current] == -1:
        del chains[current]  # Which ends a table.
    return Told(chains, frozenset(name for name in names if name), tuple(unprinted))


def has_hidden_test(entry: bytes, at: int) -> bool:
    """Whether a legacy entry tests an interface or an address in a way that no program writes and none prints.

    Of each interface it has a name and a mask of bytes, and printed is nothing where the first of these is zero. An
    address with bits that its mask leaves out is none that a packet has.
    """
    if any(byte & ~mask for byte, mask in zip(entry[: at // 2], entry[at // 2 : at], strict=True)):
        return True
    inverted = entry[at + MASKS + 32 + (3 if at == INTERFACES[Family.IPV4] else 4)]
    for number, flag in ((0, 1), (1, 2)):
        name, mask = (entry[start : start + 16] for start in (at + 16 * number, at + MASKS + 16 * number))
        length = len(mask.rstrip(b"\0"))
        if mask[:length] != b"\xff" * length or (inverted & flag and not length):
            return True
        if length and b"\0" in name[: length - 1]:
            return True
    return False
