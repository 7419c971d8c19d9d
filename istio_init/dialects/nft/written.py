"""What is odd about a value that a rule compares: nft prints it otherwise than the kernel takes it (`registers`)."""

from __future__ import annotations

from istio_init.dialects.nft.loaded import Loaded, Order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SLOT = 4
"""Bytes of the smallest register."""


PORT = 2
"""Bytes of a port, whose masks nft prints as they are."""


class OddRuleError(ValueError):
    """Nobody but a deceiver, or a program that is not known, writes such a rule."""


def check_value(loaded: Loaded, value: bytes, *, is_order: bool) -> None:
    """Raise if nft prints a value as another: of what was masked a prefix, of a name what is before the first zero."""
    if loaded.is_text and any(value[value.find(b"\0") :]) and b"\0" in value:
        raise OddRuleError("bytes behind a name")
    if loaded.changing is None:
        return
    if is_order and len(value) > 2:
        raise OddRuleError("an order of what was masked")
    if _names_a_part(loaded, loaded.changing):
        for byte, mask, fixed in zip(value, loaded.changing, loaded.fixed, strict=True):
            if (byte ^ fixed) & ~mask:
                raise OddRuleError("bits that a mask left out")


def check_gaps(loads: Iterable[Loaded], values: tuple[bytes, ...]) -> None:
    """Raise if something stands between values that are compared at once, which lie in registers of four bytes."""
    at = 0
    for each in loads:
        assert each.length is not None
        end = at + -(-each.length // SLOT) * SLOT
        if any(any(value[at + each.length : end]) for value in values):
            raise OddRuleError("bytes between what was loaded")
        at = end


def _names_a_part(loaded: Loaded, mask: bytes) -> bool:
    """Whether nft prints bits as a field of their own: a prefix, or one end of a byte such as DSCP."""
    ones, every = int.from_bytes(mask, "big"), (1 << 8 * len(mask)) - 1
    is_prefix, is_suffix = (each & (each + 1) == 0 for each in (ones ^ every, ones))
    if len(mask) == 1:
        return (is_prefix or is_suffix) and ones.bit_count() > 1
    return is_prefix and len(mask) > PORT and loaded.order is Order.NETWORK


def check_order(loaded: Loaded, order: Order, *, is_interval: bool) -> None:
    """Raise if what was loaded is turned otherwise than the keys of a set are said to be."""
    if loaded.length == 1 or loaded.order is Order.NONE:
        return
    if is_interval and loaded.order is not Order.NETWORK:
        raise OddRuleError("an interval of bytes that are no number")
    if not is_interval and loaded.order is not order:
        raise OddRuleError("a set of numbers that are turned otherwise")
