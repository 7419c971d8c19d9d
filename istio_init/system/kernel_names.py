"""The names in rules of iptables as the kernel holds them, and how many rules: what the text of a save cannot fake.

Whoever may write rules chooses the names of interfaces and chains, and the programs print them as they are. Formats:
linux/netfilter/nf_tables.h, linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h.
"""

from __future__ import annotations

import errno
import os
import struct

from istio_init.netfilter.family import Family
from istio_init.system.netlink import NETLINK_NETFILTER, dump, elements, parse_attributes, text_of, understood
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator, Mapping

GET_CHAINS, GET_RULES = (10 << 8) | 4, (10 << 8) | 7
NUMBERS = {Family.IPV4: 2, Family.IPV6: 10}
META_KEY = 2
SIGNS = tuple(struct.pack("=HH", 8, META_KEY) + struct.pack("!I", key) for key in (6, 7))
"""In every message of a rule that tests the name of an interface (NFT_META_IIFNAME, NFT_META_OIFNAME)."""

GET_INFO, GET_ENTRIES = 64, 65
LEVELS = {Family.IPV4: (2, 0), Family.IPV6: (10, 41)}
"""The domain of the socket and the level of the option."""

INTERFACES = {Family.IPV4: 16, Family.IPV6: 64}
TARGETS = {Family.IPV4: 88, Family.IPV6: 140}
"""Where in a legacy entry the interfaces stand, and the offsets of its target and of the next entry."""

INFO = struct.Struct("=32sI5I5III")
HEAD = 40
"""Bytes before the first entry."""


class Told(Value):
    """Of one table: how many rules each chain has, and the names of interfaces that rules test."""

    chains: Mapping[str, int]
    interfaces: frozenset[str]


NOTHING = Told({}, frozenset())


@understood
def of_nft(family: Family) -> dict[str, Told]:
    """iptables-nft's tables, and all others of the family, by name.

    Raises:
        OSError: the kernel does not tell.
    """
    counts: dict[str, dict[str, int]] = {}
    names: dict[str, set[str]] = {}
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
    return {table: Told(chains, frozenset(names.get(table, ()))) for table, chains in counts.items()}


def _interfaces(expressions: bytes) -> Iterator[str]:
    """What a rule compares the name of an interface with."""
    asks = False
    for element in elements(expressions):
        parts = parse_attributes(element, 0)
        data = parse_attributes(parts.get(2, b""), 0)
        name = text_of(parts.get(1, b""))
        if name == "cmp" and asks:
            yield text_of(parse_attributes(data.get(3, b""), 0).get(1, b""))
        asks = name == "meta" and int.from_bytes(data.get(META_KEY, b""), "big") in (6, 7)


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
        names.update(text_of(entries[offset + at + n : offset + at + n + 16].partition(b"\0")[0]) for n in (0, 16))
        offset += following
    if current == "ERROR" and chains[current] == -1:
        del chains[current]  # Which ends a table.
    return Told(chains, frozenset(name for name in names if name))
