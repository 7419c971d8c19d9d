"""What the kernel knows of nf_tables and nft (1.0.6) does not print, or not rightly (linux/netfilter/nf_tables.h)."""

from __future__ import annotations

import errno
import struct
import sys
from functools import lru_cache

from istio_init.dialects.nft.loaded import key_order
from istio_init.dialects.nft.misprints import NOTHING, Told
from istio_init.dialects.nft.registers import is_usual
from istio_init.system.netlink import (
    NETLINK_NETFILTER,
    dump,
    elements,
    parse_attributes,
    text_attribute,
    text_of,
    understood,
)
from istio_init.system.nft_outline import userdata
from istio_init.system.ruleset import FAMILIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from istio_init.dialects.nft.loaded import KeyOrder

    Chain = tuple[str, str, str]
    """Family, table and chain."""
    Set = tuple[str, str, str]

GET_CHAINS, GET_RULES = (10 << 8) | 4, (10 << 8) | 7
TABLE, RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS = 1, 2, 3, 4
CHAIN_NAME, CHAIN_HOOK, HOOK_DEVICE, HOOK_DEVICES = 3, 4, 3, 4
EXPRESSION_NAME, EXPRESSION_DATA, META_KEY, RANGE_OP, COMPARE_OP, NOT_EQUAL = 1, 2, 2, 2, 2, 1
LESS_OR_EQUAL, GREATER_OR_EQUAL = 3, 5
LOADS = frozenset(["payload", "meta", "ct"])
GET_SETS, GET_ELEMENTS = (10 << 8) | 10, (10 << 8) | 13
SET_NAME, SET_KEY_TYPE, SET_KEY_LENGTH, SET_ELEMENTS = 2, 4, 5, 3
ELEMENT_KEY, ELEMENT_FLAGS, INTERVAL_END = 1, 3, 1
TYPE_BITS, IFNAME = 6, 41
"""How nft tells the kernel the types of a set's keys, for itself to read: several in one number (its datatype.h)."""
LENGTHS = {IFNAME: 16, 8: 16, 9: 8}
"""Bytes of a key's part by its type; most have four."""
SHORT = {9: 6, **dict.fromkeys([10, 11, 13, 21], 2), **dict.fromkeys([2, 12, 14, 27, 29, 31, 32, 33, 34, 36, 39], 1)}
"""Of those that have less than the registers of four bytes that they lie in."""
MOST_SETS = 1000

INTERFACE_TYPES = frozenset([8, 9])
"""NFT_META_IIFTYPE and NFT_META_OIFTYPE."""

CT_KEY, CT_PROTOCOLS = 2, {7: "l3proto", 10: "protocol"}
"""NFT_CT_L3PROTOCOL and NFT_CT_PROTOCOL, as nft calls them."""

SET_FLAGS, SET_DATA_LENGTH, SET_USERDATA, IS_INTERVAL, STATED_ORDER = 3, 7, 13, 0x4, 0
LOOKUP = b"lookup\0"


def devices() -> dict[Chain, tuple[str, ...]]:
    """The interfaces of the chains that are called at one.

    Raises:
        OSError: the kernel does not tell.
    """
    return devices_in(dump(NETLINK_NETFILTER, GET_CHAINS, bytes(4)))


@understood
def devices_in(bodies: Iterable[bytes]) -> dict[Chain, tuple[str, ...]]:
    """The same, from the kernel's messages."""
    found: dict[Chain, tuple[str, ...]] = {}
    for body in bodies:
        attributes = parse_attributes(body, 4)
        hook = parse_attributes(attributes.get(CHAIN_HOOK, b""), 0)
        names = [hook[HOOK_DEVICE]] if HOOK_DEVICE in hook else list(elements(hook.get(HOOK_DEVICES, b"")))
        if names and body[0] in FAMILIES:
            place = FAMILIES[body[0]], text_of(attributes[TABLE]), text_of(attributes[CHAIN_NAME])
            found[place] = tuple(map(text_of, names))
    return found


def told() -> dict[tuple[str, str, str, int], Told]:
    """What of rules the kernel has to tell, by family, table, chain and handle; nothing of most.

    Raises:
        OSError: the kernel does not tell.
    """
    rules = dump(NETLINK_NETFILTER, GET_RULES, bytes(4))
    sets = dump(NETLINK_NETFILTER, GET_SETS, bytes(4)) if any(LOOKUP in body for body in rules) else ()
    return told_in(rules, sets)


@understood
def told_in(rules: Iterable[bytes], sets: Iterable[bytes] = ()) -> dict[tuple[str, str, str, int], Told]:
    """The same, from the kernel's messages."""
    keys = dict(map(_key_of, sets))
    found = {}
    for body in rules:
        if body[0] in FAMILIES:
            attributes = parse_attributes(body, 4)
            place = FAMILIES[body[0]], text_of(attributes[TABLE]), text_of(attributes[RULE_CHAIN])
            each = _told(attributes.get(RULE_EXPRESSIONS, b""), keys, place[:2])
            if each != NOTHING:
                found[*place, int.from_bytes(attributes[RULE_HANDLE], "big")] = each
    return found


def _told(packed: bytes, keys: Mapping[Set, KeyOrder], table: tuple[str, str]) -> Told:
    asks_for_type, negated, unequal, asked = False, 0, 0, set()
    expressions = [_expression(each) for each in elements(packed)]
    for name, data in expressions:
        if name == "meta":
            asks_for_type |= int.from_bytes(data.get(META_KEY, b""), "big") in INTERFACE_TYPES
        elif name == "range":
            negated += int.from_bytes(data.get(RANGE_OP, b""), "big")
        elif name == "cmp":
            unequal += int.from_bytes(data.get(COMPARE_OP, b""), "big") == NOT_EQUAL
        elif name == "ct":
            asked.add(CT_PROTOCOLS.get(int.from_bytes(data.get(CT_KEY, b""), "big")))
    is_odd = not is_usual(expressions, lambda name: keys.get((*table, name)))
    connection = frozenset([each for each in asked if each is not None])
    return Told(asks_for_type, negated, unequal, connection, is_odd, _crosses(expressions))


def _crosses(expressions: Sequence[tuple[str, Mapping[int, bytes]]]) -> bool:
    """Whether one field has a least value and another one, right behind it and loaded alike, a greatest."""
    loaded: tuple[str, Mapping[int, bytes]] | None = None
    lower: tuple[str, Mapping[int, bytes]] | None = None
    for name, data in expressions:
        if name in LOADS:
            loaded = name, data
        elif name == "cmp":
            order = int.from_bytes(data.get(COMPARE_OP, b""), "big")
            if order == LESS_OR_EQUAL and lower and loaded and lower != loaded and lower[0] == loaded[0]:
                return True
            lower = loaded if order == GREATER_OR_EQUAL else None
        elif name != "byteorder":
            loaded = lower = None
    return False


@lru_cache(maxsize=1024)
def _expression(element: bytes) -> tuple[str, Mapping[int, bytes]]:
    """Thousands of rules are made of the same few."""
    parts = parse_attributes(element, 0)
    return text_of(parts[EXPRESSION_NAME]), parse_attributes(parts.get(EXPRESSION_DATA, b""), 0)


def _key_of(body: bytes) -> tuple[Set, KeyOrder]:
    """The set of a message, and what its keys are."""
    attributes = parse_attributes(body, 4)
    length, kind, flags, data_length = (
        int.from_bytes(attributes.get(each, b""), "big")
        for each in (SET_KEY_LENGTH, SET_KEY_TYPE, SET_FLAGS, SET_DATA_LENGTH)
    )
    place = FAMILIES.get(body[0], ""), text_of(attributes[TABLE]), text_of(attributes[SET_NAME])
    stated = userdata(attributes.get(SET_USERDATA, b"")).get(STATED_ORDER)
    order = int.from_bytes(stated, sys.byteorder) if stated is not None else None
    return place, key_order(length, kind, order, is_interval=bool(flags & IS_INTERVAL), data_length=data_length)


def garbled_sets() -> list[Set]:
    """Sets of which nft prints an element otherwise than it is, or leaves it out.

    Those with names of interfaces that are no text or have bytes behind them, and those of several fields with bytes
    between these: no packet has such, and nft takes them for none.

    Raises:
        OSError: the kernel does not tell, or has too many to ask about.
    """
    found = []
    sets = [each for body in dump(NETLINK_NETFILTER, GET_SETS, bytes(4)) if (each := _names_of(body)) is not None]
    if len(sets) > MOST_SETS:
        raise OSError(
            errno.E2BIG,
            f"more than {MOST_SETS} sets of several fields or of interfaces, and nft may not print all of each",
        )
    for family, place, offsets, gaps in sets:
        asked = struct.pack("=BBH", family, 0, 0) + text_attribute(TABLE, place[1]) + text_attribute(SET_NAME, place[2])
        if offsets is None or is_garbled(_elements(asked), offsets, gaps):
            found.append(place)
    return found


@understood
def _names_of(body: bytes) -> tuple[int, Set, list[int] | None, list[slice]] | None:
    """The set of a message: its family, its place, where names stand in its keys, None where that is not known, and
    where nothing does.

    None where it has neither.
    """
    attributes = parse_attributes(body, 4)
    number = int.from_bytes(attributes.get(SET_KEY_TYPE, b""), "big")
    types: list[int] = []
    while number:
        types.insert(0, number & (1 << TYPE_BITS) - 1)
        number >>= TYPE_BITS
    has_gaps = len(types) > 1 and any(each in SHORT for each in types)
    if not (IFNAME in types or has_gaps) or body[0] not in FAMILIES:
        return None
    offsets, gaps, at = [], [], 0
    for each in types:
        length = LENGTHS.get(each, 4)
        if each == IFNAME:
            offsets.append(at)
        if has_gaps and each in SHORT:
            gaps.append(slice(at + SHORT[each], at + length))
        at += length
    place = FAMILIES[body[0]], text_of(attributes[TABLE]), text_of(attributes[SET_NAME])
    is_known = at == int.from_bytes(attributes.get(SET_KEY_LENGTH, b""), "big")
    if not is_known and IFNAME not in types:
        return None  # Of a part of them nothing is known, and nothing is read of it.
    return body[0], place, offsets if is_known else None, gaps


@understood
def _elements(asked: bytes) -> list[bytes]:
    bodies = dump(NETLINK_NETFILTER, GET_ELEMENTS, asked)
    return [each for body in bodies for each in elements(parse_attributes(body, 4).get(SET_ELEMENTS, b""))]


@understood
def is_garbled(found: Iterable[bytes], offsets: list[int], gaps: Iterable[slice] = ()) -> bool:
    """Whether one of the elements has a name at one of these places that is no text, or bytes where there are none."""
    for element in found:
        parts = parse_attributes(element, 0)
        if int.from_bytes(parts.get(ELEMENT_FLAGS, b""), "big") & INTERVAL_END:
            continue
        key = parse_attributes(parts.get(ELEMENT_KEY, b""), 0).get(1, b"")
        if any(any(key[gap]) for gap in gaps):
            return True
        for at in offsets:
            name, _, behind = key[at : at + 16].partition(b"\0")
            try:
                name.decode()
            except UnicodeDecodeError:
                return True
            if any(behind):
                return True
    return False
