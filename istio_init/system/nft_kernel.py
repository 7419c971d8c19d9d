"""What the kernel knows of nf_tables and nft (1.0.6) does not print, or not rightly (linux/netfilter/nf_tables.h)."""

from __future__ import annotations

import struct

from istio_init.dialects.nft.misprints import Told
from istio_init.system.netlink import NETLINK_NETFILTER, dump, elements, parse_attributes, text_of, understood
from istio_init.system.ruleset import FAMILIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Chain = tuple[str, str, str]
    """Family, table and chain."""

GET_CHAINS, GET_RULES = (10 << 8) | 4, (10 << 8) | 7
TABLE, RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS = 1, 2, 3, 4
CHAIN_NAME, CHAIN_HOOK, HOOK_DEVICE, HOOK_DEVICES = 3, 4, 3, 4
EXPRESSION_NAME, EXPRESSION_DATA, META_KEY, RANGE_OP = 1, 2, 2, 2
INTERFACE_TYPES = frozenset([8, 9])
"""NFT_META_IIFTYPE and NFT_META_OIFTYPE."""

SIGNS = (b"range\0", *(struct.pack("=HH", 8, META_KEY) + struct.pack("!I", key) for key in INTERFACE_TYPES))
"""One of them is in every message of a rule that is looked at."""


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
    return told_in(dump(NETLINK_NETFILTER, GET_RULES, bytes(4)))


@understood
def told_in(bodies: Iterable[bytes]) -> dict[tuple[str, str, str, int], Told]:
    """The same, from the kernel's messages."""
    found = {}
    for body in bodies:
        if body[0] in FAMILIES and any(sign in body for sign in SIGNS):
            attributes = parse_attributes(body, 4)
            place = FAMILIES[body[0]], text_of(attributes[TABLE]), text_of(attributes[RULE_CHAIN])
            handle = int.from_bytes(attributes[RULE_HANDLE], "big")
            found[*place, handle] = _told(attributes.get(RULE_EXPRESSIONS, b""))
    return found


def _told(expressions: bytes) -> Told:
    asks_for_type, negated = False, 0
    for element in elements(expressions):
        parts = parse_attributes(element, 0)
        data = parse_attributes(parts.get(EXPRESSION_DATA, b""), 0)
        name = text_of(parts[EXPRESSION_NAME])
        if name == "meta":
            asks_for_type |= int.from_bytes(data.get(META_KEY, b""), "big") in INTERFACE_TYPES
        elif name == "range":
            negated += int.from_bytes(data.get(RANGE_OP, b""), "big")
    return Told(asks_for_type, negated)
