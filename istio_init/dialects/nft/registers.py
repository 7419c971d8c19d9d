"""Whether the expressions of a rule are put together as nft and iptables-nft do it: then what they print is the rule.

The kernel moves bytes between registers and compares them. nft guesses from that what was written, and guesses wrong or
leaves a test out where somebody sent expressions of his own: a comparison of a part of what was loaded, an order of
numbers that were not turned into network order, a set whose numbers are said to be turned otherwise than they are
(src/netlink_delinearize.c, 1.0.6). Formats: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct

from istio_init.dialects.nft.loaded import CT, META, UNKNOWN, Loaded, Order
from istio_init.dialects.nft.written import SLOT, OddRuleError, check_gaps, check_order, check_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from istio_init.dialects.nft.loaded import KeyOrder

    Attributes = Mapping[int, bytes]
    Lengths = frozenset[int]
    Follow = Callable[["_Registers", Attributes], None]


LESS, GREATER_OR_EQUAL = 2, 5
HTON = 1
IP = frozenset([b"\x08\x00", b"\x86\xdd"])
"""The EtherTypes of IP. Of another one nft takes a later test of an address for the same."""


def is_usual(expressions: Iterable[tuple[str, Attributes]], key_of: Callable[[str], KeyOrder | None]) -> bool:
    """Whether a rule's expressions, each with its attributes, are such as the programs write.

    ``key_of`` tells of the sets of its table by name; None for one that is not known.
    """
    registers = _Registers(key_of)
    try:
        for name, attributes in expressions:
            registers.follow(name, attributes)
    except (OddRuleError, LookupError, ValueError, struct.error):
        return False
    return True


class _Registers:
    """What lies where, while expressions are followed: each slot of four bytes has a load, and where in it that is."""

    def __init__(self, key_of: Callable[[str], KeyOrder | None]) -> None:
        self._slots: dict[int, tuple[Loaded, int]] = {}
        self._key_of = key_of

    def follow(self, name: str, attributes: Attributes) -> None:
        """Carry out an expression.

        Raises:
            OddRuleError: it is not used so.
            LookupError: it lacks what each of its kind has.
        """
        if name in _WITHOUT_REGISTERS:
            return
        follow = _FOLLOWED.get(name)
        if follow is None:
            raise OddRuleError(name)
        follow(self, attributes)

    def put(self, register: int, loaded: Loaded) -> None:
        """Load."""
        if not register:
            return  # The verdict.
        first = _slot(register)
        for number in range(-(-(loaded.length or SLOT) // SLOT)):
            self._slots[first + number] = loaded, number * SLOT

    def at(self, register: int, *, is_inside: bool = False) -> Loaded:
        """What was loaded there and begins there."""
        loaded, offset = self._slots[_slot(register)]
        if offset and not (is_inside and loaded.of_map):
            raise OddRuleError("a part of what was loaded")
        return loaded

    def compared(self, attributes: Attributes, values: tuple[bytes, ...], *, is_order: bool) -> None:
        """A comparison with values of one length."""
        register, length = _number(attributes, 1), len(values[0])
        found = self.at(register)
        if found.is_constant:
            raise OddRuleError("a constant is compared")
        if found.length is None:
            return
        if is_order and (length != found.length or (length > 1 and found.order is not Order.NETWORK)):
            raise OddRuleError("an order of bytes that are no number")
        if length > found.length:
            check_gaps(self.joined(register, length), values)
        elif length < found.length and (found.order is Order.HOST or found.changing is not None):
            raise OddRuleError("a part of a number")
        if found.is_kind and values[0] not in IP:
            raise OddRuleError("no IP packet is of that kind, and what follows implies another")
        for value in values:
            check_value(found, value, is_order=is_order)

    def joined(self, register: int, length: int) -> list[Loaded]:
        """The loads that lie one behind another from a register on, and have so many bytes together."""
        slot, found = _slot(register), list[Loaded]()
        while length > 0:
            loaded, offset = self._slots[slot]
            if offset or loaded.is_constant or loaded.length is None:
                raise OddRuleError("a part of what was loaded")
            found.append(loaded)
            space = -(-loaded.length // SLOT)
            slot, length = slot + space, length - space * SLOT
        if length:
            raise OddRuleError("more than was loaded")
        return found

    def looked_up(self, attributes: Attributes) -> None:
        """nft_lookup"""
        key = self._key_of(_text(attributes[1]))
        register = _number(attributes, 2)
        first = self.at(register)
        if key is not None and first.length is not None:
            loads = [first] if first.length == key.length else self.joined(register, key.length)
            if len(loads) != len(key.parts) or first.is_constant:
                raise OddRuleError("another key than the set has")
            for loaded, order in zip(loads, key.parts, strict=True):
                check_order(loaded, order, is_interval=key.is_interval)
        if 3 in attributes:
            self.put(_number(attributes, 3), Loaded(key.data_length if key else None, of_map=True))

    def of_bits(self, attributes: Attributes) -> None:
        """nft_bitwise"""
        source = self.at(_number(attributes, 1))
        if source.length not in (None, _number(attributes, 3)) or source.is_constant:
            raise OddRuleError("bits of a part")
        register = _number(attributes, 2)
        if _number(attributes, 6) if 6 in attributes else 0:
            if source.length != 1 and source.order is Order.NETWORK:
                raise OddRuleError("a shift of bytes that are turned")
            self.put(register, source.replace(changing=None))
            return
        mask, turned = _value(attributes[4]), _value(attributes[5])
        self.put(register, source.replace(changing=mask, fixed=turned))

    def turned(self, attributes: Attributes) -> None:
        """nft_byteorder"""
        source = self.at(_number(attributes, 1))
        operation, length, size = (_number(attributes, kind) for kind in (3, 4, 5))
        before, after = (Order.HOST, Order.NETWORK) if operation == HTON else (Order.NETWORK, Order.HOST)
        if length != size or source.length not in (None, length) or source.order not in (before, Order.NONE):
            raise OddRuleError("bytes turned that are no number")
        self.put(_number(attributes, 2), Loaded(length, after))

    def uses(self, attributes: Attributes, kind: int, lengths: Lengths, order: Order = Order.NETWORK) -> None:
        """What a statement takes from a register, if it does: it has one of these lengths, and this order."""
        if kind not in attributes:
            return
        found = self.at(_number(attributes, kind), is_inside=True)
        if found.of_map or found.length is None:
            return
        if found.length not in lengths or (found.length > 1 and found.order not in (order, Order.NONE)):
            raise OddRuleError("more or less than is used, or turned otherwise")


def _slot(register: int) -> int:
    """Registers 1 to 4 have 16 bytes, of which those from 8 on have four each."""
    if 1 <= register <= 4:
        return (register - 1) * 4
    return register - 8


def _number(attributes: Attributes, kind: int) -> int:
    return int.from_bytes(attributes[kind], "big")


def _text(packed: bytes) -> str:
    return packed.rstrip(b"\0").decode(errors="surrogateescape")


def _loads(known: Mapping[int, Loaded], source: int) -> Follow:
    """Of what loads by a key, or sets it from the register that the attribute ``source`` has."""

    def follow(registers: _Registers, attributes: Attributes) -> None:
        its = known.get(_number(attributes, 2), UNKNOWN)
        if 1 in attributes:
            registers.put(_number(attributes, 1), its)
        elif its.length is None:
            registers.at(_number(attributes, source), is_inside=True)
        else:
            registers.uses(attributes, source, frozenset([its.length]), its.order)

    return follow


def _payload(registers: _Registers, attributes: Attributes) -> None:
    length = _number(attributes, 4)
    if 1 in attributes:
        registers.put(_number(attributes, 1), Loaded(length, Order.NETWORK))
    else:
        registers.uses(attributes, 5, frozenset([length]))


def _option(registers: _Registers, attributes: Attributes) -> None:
    if 1 in attributes:
        registers.put(_number(attributes, 1), Loaded(_number(attributes, 4), Order.NETWORK))


def _immediate(registers: _Registers, attributes: Attributes) -> None:
    registers.put(_number(attributes, 1), Loaded(len(_value(attributes[2])), is_constant=True))


def _compare(registers: _Registers, attributes: Attributes) -> None:
    is_order = LESS <= _number(attributes, 2) <= GREATER_OR_EQUAL
    registers.compared(attributes, (_value(attributes[3]),), is_order=is_order)


def _range(registers: _Registers, attributes: Attributes) -> None:
    registers.compared(attributes, (_value(attributes[3]), _value(attributes[4])), is_order=True)


def _value(data: bytes) -> bytes:
    """The bytes of a value within the attribute that holds it."""
    (length,) = struct.unpack_from("=H", data)
    return data[SLOT:length]


def _into(kind: int) -> Follow:
    """Of what loads something that is not told apart here."""

    def follow(registers: _Registers, attributes: Attributes) -> None:
        if kind in attributes:
            registers.put(_number(attributes, kind), UNKNOWN)

    return follow


def _taking(uses: Mapping[int, Lengths]) -> Follow:
    """Of what takes values of such lengths out of registers, by attribute."""

    def follow(registers: _Registers, attributes: Attributes) -> None:
        for kind, lengths in uses.items():
            registers.uses(attributes, kind, lengths)

    return follow


def _hash(registers: _Registers, attributes: Attributes) -> None:
    if 1 in attributes:
        registers.at(_number(attributes, 1))
    registers.put(_number(attributes, 2), UNKNOWN)


_PORT, _ADDRESS, _NUMBER, _ANY = frozenset([2]), frozenset([4, 16]), frozenset([4]), frozenset(range(1, 17))

_FOLLOWED: dict[str, Follow] = {
    "immediate": _immediate,
    "payload": _payload,
    "meta": _loads(META, 3),
    "ct": _loads(CT, 4),
    "exthdr": _option,
    "cmp": _compare,
    "range": _range,
    "lookup": _Registers.looked_up,
    "bitwise": _Registers.of_bits,
    "byteorder": _Registers.turned,
    "hash": _hash,
    "fib": _into(1),
    "rt": _into(1),
    "numgen": _into(1),
    "osf": _into(1),
    "xfrm": _into(1),
    "socket": _into(2),
    "tunnel": _into(2),
    "nat": _taking({3: _ADDRESS, 4: _ADDRESS, 5: _PORT, 6: _PORT}),
    "redir": _taking({1: _PORT, 2: _PORT}),
    "masq": _taking({2: _PORT, 3: _PORT}),
    "tproxy": _taking({2: _ADDRESS, 3: _PORT}),
    "dup": _taking({1: _ADDRESS, 2: _NUMBER}),
    "fwd": _taking({1: _NUMBER, 2: _ADDRESS}),
    "queue": _taking({4: _PORT}),
    "objref": _taking({3: _ANY}),
    "dynset": _taking({4: _ANY, 5: _ANY}),
}
_WITHOUT_REGISTERS = frozenset(
    "connlimit counter flow_offload last limit log match notrack quota reject synproxy target".split()
)
