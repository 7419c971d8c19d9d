"""What nf_tables holds in this namespace, so that two states that are equal are printed the same by every program.

It takes a few answers of the kernel instead of programs that print and are read. Handles and counts of packets are left
out; that there were packets stays. Formats: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct

from istio_init.system.netlink import NETLINK_NETFILTER, answer, dump, elements, parse_attributes, understood

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    State = tuple[object, ...]

TABLES, CHAINS, RULES, SETS, OBJECTS, FLOWTABLES = ((10 << 8) | number for number in (1, 4, 7, 10, 19, 23))
TABLE_OWN, CHAIN_OWN, RULE_OWN = frozenset([3, 4]), frozenset([2, 6, 8]), frozenset([3, 6])
"""Attributes that tell states apart which are printed the same: handles, places, uses, and counts of base chains."""

EXPRESSIONS, NAME, DATA, PACKETS = 4, 1, 2, 2
COUNTER = b"counter\0"

LONGEST = 1 << 16
"""Bytes of a state. Those of a pod's mesh have a third of it."""

GET_GENERATION, GENERATION = (10 << 8) | 16, 1

META_KEY = 2
SIGNS = tuple(struct.pack("=HH", 8, META_KEY) + struct.pack("!I", key) for key in (4, 5))
"""In every message of a rule that names an interface by its number (NFT_META_IIF, NFT_META_OIF): its name is printed,
which is another one elsewhere.
"""

LEGACY = ("ip_tables_names", "ip6_tables_names")


@understood
def state() -> State | None:
    """The state; None where it is too large, or of such things that more than this decides what is printed.

    Raises:
        OSError: the kernel does not tell.
    """
    if any(map(_is_in_use, LEGACY)):
        return None
    bodies = {each: dump(NETLINK_NETFILTER, each, bytes(4)) for each in (TABLES, CHAINS, RULES)}
    if sum(len(body) for each in bodies.values() for body in each) > LONGEST:
        return None
    if any(dump(NETLINK_NETFILTER, each, bytes(4)) for each in (SETS, OBJECTS, FLOWTABLES)):
        return None
    own = {TABLES: TABLE_OWN, CHAINS: CHAIN_OWN, RULES: RULE_OWN}
    found = tuple((kind, *map(tuple, (_parts(body, own[kind]) for body in each))) for kind, each in bodies.items())
    return None if any(sign in body for body in bodies[RULES] for sign in SIGNS) else found


@understood
def generation() -> int:
    """The number of the last change of anything in nf_tables here: as long as it is the same, all is.

    Raises:
        OSError: the kernel does not tell.
    """
    told = parse_attributes(answer(NETLINK_NETFILTER, GET_GENERATION, bytes(4)), 4)
    return int.from_bytes(told[GENERATION], "big")


def _is_in_use(name: str) -> bool:
    try:
        with open(f"/proc/thread-self/net/{name}") as file:
            return bool(file.read(1))
    except FileNotFoundError:
        return False


def _parts(body: bytes, own: frozenset[int]) -> Iterator[object]:
    """The family of a message, and its attributes but for those of one namespace alone."""
    yield body[0]
    for kind, value in parse_attributes(body, 4).items():
        if kind not in own:
            yield kind, tuple(map(_expression, elements(value))) if kind == EXPRESSIONS and COUNTER in value else value


def _expression(element: bytes) -> object:
    """An expression of a rule; a counter by whether it counted anything."""
    parts = parse_attributes(element, 0)
    if parts.get(NAME) != COUNTER:
        return element
    return any(parse_attributes(parts.get(DATA, b""), 0).get(PACKETS, b""))
