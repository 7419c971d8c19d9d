"""What expressions load into registers, and what the keys of sets are, as far as it decides how nft prints them."""

from __future__ import annotations

from enum import Enum

from istio_init.value import Value


class Order(Enum):
    """How the bytes of a number lie in a register."""

    NETWORK = "network"
    HOST = "host"
    NONE = "none"
    """They are no number, or a single byte, or it does not matter."""


class KeyOrder(Value):
    """A set as the kernel and its maker tell of it: the length of its keys, and how each part of them is turned."""

    length: int
    parts: tuple[Order, ...]
    is_interval: bool
    data_length: int = 0


class Loaded(Value):
    """What was put into registers; ``length`` is None where it is not known."""

    length: int | None
    order: Order = Order.NONE
    is_constant: bool = False
    of_map: bool = False
    is_text: bool = False
    is_kind: bool = False
    changing: bytes | None = None
    """The bits that may be set or not, after a mask; None for all."""

    fixed: bytes = b""
    """What the others are."""


TYPE_BITS = 6
NETWORK_TYPES = frozenset([6, 7, 8, 9, 10, 11, 13])
"""The types of keys as nft numbers them (its datatype.h): addresses, ports, EtherTypes."""

HOST_TYPES = frozenset([18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 35, 38, 43])
STATED = {1: Order.HOST, 2: Order.NETWORK}

_FLAG, _TEXT = Loaded(1), Loaded(16, is_text=True)
_SHORT, _LONG, _TIME = Loaded(2, Order.HOST), Loaded(4, Order.HOST), Loaded(8, Order.HOST)
UNKNOWN = Loaded(None)
META = {
    1: Loaded(2, Order.NETWORK, is_kind=True),
    **dict.fromkeys([0, 3, 4, 5, 10, 11, 13, 14, 20, 21, 22, 23, 32, 33], _LONG),
    **dict.fromkeys([6, 7, 17, 18, 26, 27, 34], _TEXT),
    **dict.fromkeys([8, 9], _SHORT),
    **dict.fromkeys([12, 15, 16, 19, 31], _FLAG),
    2: _LONG,
    30: _TIME,
}
"""By enum nft_meta_keys."""

CT = {
    **dict.fromkeys([0, 2, 3], _LONG),
    **dict.fromkeys([1, 7, 10], _FLAG),
    **dict.fromkeys([8, 9], Loaded(None, Order.NETWORK)),
    **dict.fromkeys([11, 12], Loaded(2, Order.NETWORK)),
    17: _SHORT,
    **dict.fromkeys([19, 20], Loaded(4, Order.NETWORK)),
    **dict.fromkeys([21, 22], Loaded(16, Order.NETWORK)),
}
"""By enum nft_ct_keys."""


def type_order(kind: int) -> Order:
    """How numbers of a type are turned that nft knows by this number."""
    if kind in NETWORK_TYPES:
        return Order.NETWORK
    return Order.HOST if kind in HOST_TYPES else Order.NONE


def key_order(length: int, kind: int, stated: int | None, *, is_interval: bool, data_length: int = 0) -> KeyOrder:
    """A set by the length and the type of its keys, and by what its maker says of their order, which nft believes."""
    types: list[int] = []
    while kind:
        types.insert(0, kind & (1 << TYPE_BITS) - 1)
        kind >>= TYPE_BITS
    if len(types) > 1:
        return KeyOrder(length, tuple(map(type_order, types)), is_interval, data_length)
    by_type = type_order(types[0]) if types else Order.NONE
    said = STATED.get(stated or 0, by_type)
    # Said against its type: in no order that anything can be loaded in.
    parts = (said,) if by_type in (said, Order.NONE) else (Order.HOST, Order.NETWORK)
    return KeyOrder(length, parts, is_interval, data_length)
