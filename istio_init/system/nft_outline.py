"""Tables of nf_tables in outline, as the kernel tells them without a program: chains, comments of rules, named sets.

It takes a tenth of the time that nft takes to print them. Formats: linux/netfilter/nf_tables.h; what nft leaves for
itself to read, the types of keys and comments, is in its own sources (datatype.h, libnftnl/udata.h).
"""

from __future__ import annotations

import struct

from istio_init.dialects.nft.ruleset import Chain, Rule, Set, Table
from istio_init.system.netlink import (
    NETLINK_NETFILTER,
    dump,
    elements,
    parse_attributes,
    text_attribute,
    text_of,
    understood,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.dialects.nft.ruleset import Json

INET = 1
"""The number of the family ``inet`` (linux/netfilter.h, NFPROTO_INET)."""

GET_CHAINS, GET_RULES, GET_SETS, GET_ELEMENTS = [(10 << 8) | number for number in (4, 7, 10, 13)]
TABLE = 1
CHAIN_NAME, CHAIN_HOOK, CHAIN_TYPE, HOOK_NUMBER, HOOK_PRIORITY = 3, 4, 7, 1, 2
HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
RULE_CHAIN, RULE_USERDATA, COMMENT = 2, 7, 0
SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH, SET_ELEMENTS, ELEMENTS_SET = 2, 3, 4, 5, 3, 2
ANONYMOUS, INTERVAL, IS_MAP = 0x1, 0x4, 0x8
ELEMENT_KEY, ELEMENT_FLAGS, INTERVAL_END = 1, 3, 1
IFNAME = 41
LONGEST = 16
"""Bytes of a key: an IPv6 address, or the name of an interface."""


@understood
def outlines(names: Iterable[str]) -> tuple[Table, ...]:
    """The tables of the family inet that have these names. Their rules have comments and no expressions.

    Elements of sets are numbers, ranges of numbers, or names of interfaces; objects are not told.

    Raises:
        OSError: the kernel does not tell, or something that no table of ours has.
    """
    return tuple([_outline(name) for name in names])


@understood
def rule_counts(names: Iterable[str]) -> dict[tuple[str, str], int]:
    """How many rules each chain of the tables of these names holds.

    Raises:
        OSError: the kernel does not tell.
    """
    found: dict[tuple[str, str], int] = {}
    for table in names:
        found |= {(table, text_of(each[CHAIN_NAME])): 0 for each in _parts(GET_CHAINS, table)}
        for each in _parts(GET_RULES, table):
            found[table, text_of(each[RULE_CHAIN])] += 1
    return found


def _outline(table: str) -> Table:
    rules: dict[str, list[Rule]] = {}
    for attributes in _parts(GET_RULES, table):
        comment = _comment(attributes.get(RULE_USERDATA, b""))
        rules.setdefault(text_of(attributes[RULE_CHAIN]), []).append(Rule(None, (), comment))
    chains = [_chain(attributes, rules) for attributes in _parts(GET_CHAINS, table)]
    sets = [each for attributes in _parts(GET_SETS, table) if (each := _set(table, attributes)) is not None]
    return Table("inet", table, tuple(chains), {each.name: each for each in sets})


def _parts(request: int, table: str) -> Iterator[dict[int, bytes]]:
    """What a table has of a kind. Older kernels tell of other tables as well."""
    for body in dump(NETLINK_NETFILTER, request, struct.pack("=BBH", INET, 0, 0) + text_attribute(TABLE, table)):
        attributes = parse_attributes(body, 4)
        if body[0] == INET and text_of(attributes[TABLE]) == table:
            yield attributes


def _chain(attributes: dict[int, bytes], rules: dict[str, list[Rule]]) -> Chain:
    name = text_of(attributes[CHAIN_NAME])
    of_chain = tuple(rules.get(name, ()))
    if CHAIN_HOOK not in attributes:
        return Chain(name, of_chain)
    hook = parse_attributes(attributes[CHAIN_HOOK], 0)
    number = int.from_bytes(hook[HOOK_NUMBER], "big")
    priority = int.from_bytes(hook[HOOK_PRIORITY], "big", signed=True)
    return Chain(name, of_chain, None, text_of(attributes[CHAIN_TYPE]), HOOKS[number], priority)


def _comment(packed: bytes) -> str | None:
    found = userdata(packed).get(COMMENT)
    return None if found is None else text_of(found)


def userdata(packed: bytes) -> dict[int, bytes]:
    """What nft keeps for its reader: parts, each after its kind and its length, of a byte each."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 2 <= len(packed):
        kind, length = packed[offset : offset + 2]
        found.setdefault(kind, packed[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return found


def _set(table: str, attributes: dict[int, bytes]) -> Set | None:
    """A set of single keys; None for one that belongs to a single rule."""
    flags, kind, length = (
        int.from_bytes(attributes.get(each, b""), "big") for each in (SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH)
    )
    if flags & ANONYMOUS:
        return None
    name = text_of(attributes[SET_NAME])
    if flags & IS_MAP or length > LONGEST or not (flags & INTERVAL or kind == IFNAME):
        raise ValueError(f"a set of a kind that is not ours: {name!r}")
    asked = struct.pack("=BBH", INET, 0, 0) + text_attribute(TABLE, table) + text_attribute(ELEMENTS_SET, name)
    keys = [
        (parse_attributes(parts[ELEMENT_KEY], 0)[1], int.from_bytes(parts.get(ELEMENT_FLAGS, b""), "big"))
        for body in dump(NETLINK_NETFILTER, GET_ELEMENTS, asked)
        for element in elements(parse_attributes(body, 4).get(SET_ELEMENTS, b""))
        for parts in [parse_attributes(element, 0)]
    ]
    if kind == IFNAME:
        return Set(name, kind, tuple([text_of(key) for key, _ in keys]))
    return Set(name, kind, tuple(_ranges(keys, (1 << 8 * length) - 1)))


def _ranges(keys: Iterable[tuple[bytes, int]], most: int) -> Iterator[Json]:
    """The intervals of which the kernel has where each begins and, unless that is the last number, what follows it."""
    first: int | None = None
    for number, begins in sorted((int.from_bytes(key, "big"), not flags & INTERVAL_END) for key, flags in keys):
        if first is not None:
            yield {"range": [first, number - 1]}
        first = number if begins else None
    if first is not None:
        yield {"range": [first, most]}
