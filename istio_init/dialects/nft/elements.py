"""Sets and maps as boxes: for each element, one set of intervals a key."""

from __future__ import annotations

from istio_init.dialects.nft.operands import Operand
from istio_init.dialects.nft.values import OddError, intervals
from istio_init.netfilter.fields import Field, bits_of
from istio_init.netfilter.intervals import EMPTY, union
from istio_init.netfilter.rules import Elements, Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.ruleset import Json
    from istio_init.dialects.nft.scope import Scope
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Box

Operands = tuple[Operand, ...]


def keys(operands: Operands) -> tuple[Key, ...]:
    """What a set is asked for."""
    return tuple([Key(_field(operand), operand.key_mask) for operand in operands])


def _field(operand: Operand) -> Field:
    if operand.field is None:
        raise OddError("a key that cannot be told")
    return operand.field


def box(element: Json, operands: Operands, scope: Scope) -> Box | None:
    """The box of one element; None where nothing lies in it.

    Raises:
        OddError: it is no element for these keys.
    """
    if isinstance(element, dict) and "elem" in element:
        inner = element["elem"]
        element = inner.get("val") if isinstance(inner, dict) else None
    if element == "*":
        return tuple([_everything(operand) for operand in operands])
    if len(operands) == 1:
        parts = [element]
    elif isinstance(element, dict) and isinstance(element.get("concat"), list):
        parts = element["concat"]
    else:
        raise OddError("an element that is no concatenation")
    if len(parts) != len(operands):
        raise OddError("an element of another length than its keys")
    found = tuple([_on_field(part, operand, scope) for part, operand in zip(parts, operands, strict=True)])
    return found if all(found) else None


def _on_field(value: Json, operand: Operand, scope: Scope) -> Intervals:
    return operand.on_field(intervals(value, operand.kind, operand.bits, scope.links))


def _everything(operand: Operand) -> Intervals:
    width = 128 if operand.bits == 128 else 32
    return ((0, (1 << bits_of(_field(operand), width)) - 1),)


def is_catch_all(element: Json) -> bool:
    """Whether it holds what no other element does."""
    match element:
        case "*" | {"elem": {"val": "*"}}:
            return True
    return False


def named(reference: str, operands: Operands, scope: Scope) -> Elements:
    """The elements of a named set, read once for the same keys."""
    known = scope.elements.get((reference, operands))
    if known is None:
        found = scope.set_of(reference)
        if found.data is not None:
            raise OddError(f"{reference} is a map")
        complete = scope.is_complete(found)
        known = Elements(found.name, boxes(found.elements, operands, scope), is_complete=complete)
        scope.elements[reference, operands] = known
    return known


def boxes(elements: tuple[Json, ...] | list[Json], operands: Operands, scope: Scope) -> tuple[Box, ...]:
    """The boxes of elements; those of one key are put together into one."""
    found = [each for each in [box(element, operands, scope) for element in elements] if each is not None]
    if len(operands) > 1:
        return tuple(found)
    merged = union([each[0] for each in found])
    return ((merged,),) if merged != EMPTY else ()
