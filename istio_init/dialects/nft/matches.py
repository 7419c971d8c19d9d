"""Matches: what is compared with what (nft_cmp, nft_range, nft_bitwise, nft_lookup)."""

from __future__ import annotations

from istio_init.dialects.nft.elements import boxes, keys, named
from istio_init.dialects.nft.loads import STATUS, is_load, load_all
from istio_init.dialects.nft.loads_header import EVERY_FAMILY
from istio_init.dialects.nft.loads_host import existing
from istio_init.dialects.nft.matches_link import of_link
from istio_init.dialects.nft.text import expression_text
from istio_init.dialects.nft.values import FLAGS, Kind, OddError, intervals, number
from istio_init.netfilter.fields import CtState, Field
from istio_init.netfilter.intervals import EMPTY, contains, difference
from istio_init.netfilter.names import NO_INTERFACE
from istio_init.netfilter.protocols import WITH_PORTS
from istio_init.netfilter.rules import AnyOf, Cause, Elements, Lookup, Never, Openness, Test, Undecided

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.operands import Operand
    from istio_init.dialects.nft.ruleset import Expression, Json
    from istio_init.dialects.nft.scope import Body
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Condition

    Operands = tuple[Operand, ...]

PORTED = tuple([(number, number) for number in sorted(WITH_PORTS)])
_INTERFACES = frozenset([Field.IN_INTERFACE, Field.OUT_INTERFACE])
_NEGATED = frozenset(["!=", "!"])
_ORDER = frozenset(["<", ">", "<=", ">="])
_OPERATORS = _NEGATED | _ORDER | {"==", "in"}


def match(body: Body, expression: Expression) -> None:
    """Append a match's tests. What it does not know is undecided."""
    try:
        condition = _condition(body, expression["match"])
    except OddError:
        condition = Undecided(Cause(Openness.NOT_MODELLED, expression_text(expression)))
    if condition is None:
        return
    if type(condition) is Undecided:
        condition = Undecided(condition.cause.replace(words=expression_text(expression)))
    body.add(condition)


def _condition(body: Body, asked: Json) -> Condition | None:
    if not isinstance(asked, dict) or not isinstance(asked.get("op"), str) or asked["op"] not in _OPERATORS:
        raise OddError("a match without a known operator")
    left, right, operator = asked.get("left"), asked.get("right"), asked["op"]
    told = of_link(body.scope.links.values(), left, operator, right)
    if told is not None:
        return told
    operands = load_all(left, body.family)
    if isinstance(right, bool):
        operands = tuple([existing(operand) for operand in operands])
    body.take(operands)
    unknown = undecided(operands)
    if unknown is not None:
        return unknown
    reference = right if isinstance(right, str) and right.startswith("@") else None
    if reference is None and len(operands) == 1:
        return _of_one(body, operands[0], operator, right)
    if operator in _ORDER:
        raise OddError("an order of sets")
    for operand in operands:
        _check_status(operand)
    if reference is not None:
        elements = named(reference, operands, body.scope)
        if elements.is_complete and operands[0].field is Field.CT_STATE and len(operands) == 1:
            return _of_one(body, operands[0], operator, {"set": list(body.scope.set_of(reference).elements)})
    else:
        elements = Elements("", boxes(_elements(right), operands, body.scope))
    condition = Lookup(keys(operands), elements, operator in _NEGATED, if_absent=False)
    return in_any_transport(body, operands, condition)


def undecided(operands: Operands) -> Undecided | None:
    """The reason why a key cannot be told; its words are still to come."""
    for operand in operands:
        if operand.field is None:
            return Undecided(Cause(operand.openness, ""))
    return None


def _elements(right: Json) -> list[Json]:
    match right:
        case {"set": list(elements)}:
            return elements
        case {"set": element}:
            return [element]
    return [right]


def _of_one(body: Body, operand: Operand, operator: str, right: Json) -> Condition | None:
    if is_load(right) and not _is_written(right):
        raise OddError("two operands")
    negated = operator == "!="
    is_set = isinstance(right, dict) and "set" in right
    within: Intervals
    if operator == "!" or (operator == "in" and operand.kind in FLAGS and not is_set):
        operand, within = operand.masked(number(right, operand.kind)), ((1, (1 << operand.bits) - 1),)
        negated = operator == "!"
    elif operator in _ORDER:
        within = _order(operator, number(right, operand.kind), operand.bits)
    elif isinstance(right, list):
        within = ((number(right, operand.kind),) * 2,)
    else:
        within = intervals(right, operand.kind, operand.bits, body.scope.links)
    return in_any_transport(body, (operand,), test(operand, within, negated=negated))


def _is_written(right: Json) -> bool:
    return isinstance(right, dict) and bool(right.keys() & {"range", "prefix", "set", "elem"})


def _order(operator: str, bound: int, bits: int) -> Intervals:
    everything = ((0, (1 << bits) - 1),)
    match operator:
        case "<":
            return difference(everything, ((bound, (1 << bits) - 1),)) if bound else EMPTY
        case "<=":
            return ((0, min(bound, (1 << bits) - 1)),)
        case ">":
            return difference(everything, ((0, bound),))
    return difference(everything, ((0, bound - 1),)) if bound else everything


def test(operand: Operand, within: Intervals, *, negated: bool) -> Condition | None:
    """That an operand's value lies within, or does not; None where it always does."""
    if operand.field is None:
        return Undecided(Cause(operand.openness, ""))
    _check_status(operand)
    found = operand.on_field(within)
    if not found and not negated:
        return Never()
    if operand.field is Field.NFPROTO and found in ((), EVERY_FAMILY):
        return None if bool(found) is not negated else Never()
    if_absent = False
    if operand.field is Field.CT_STATE:  # No connection yet: its state is INVALID, and the rule is not left.
        mask = operand.key_mask
        invalid = int(CtState.INVALID) if mask is None else int(CtState.INVALID) & mask
        if_absent = contains(found, invalid) is not negated
    elif operand.field in _INTERFACES:  # None: its name is empty, its index 0.
        if_absent = contains(found, NO_INTERFACE) is not negated
    return Test(operand.field, found, operand.key_mask, negated, if_absent)


def _check_status(operand: Operand) -> None:
    if operand.kind is Kind.CT_STATUS and (operand.mask is None or operand.mask & ~STATUS):
        raise OddError("bits of a connection's status that the model does not have")


def in_any_transport(body: Body, operands: Operands, condition: Condition | None) -> Condition | None:
    """A test of ``th dport``: ports where the protocol has them, else other bytes of its header, which nobody knows."""
    if condition is None or not any(operand.of_any_transport for operand in operands):
        return condition
    if is_ported(body, operands, condition):
        return condition
    other = Undecided(Cause(Openness.NOT_GIVEN, "bytes of a header without ports"))
    return AnyOf(
        (
            (Test(Field.PROTOCOL, PORTED), condition),
            (Test(Field.PROTOCOL, PORTED, negated=True), other),
        )
    )


def is_ported(body: Body, operands: Operands, condition: Condition | None = None) -> bool:
    """Whether the protocol is known to be one with ports: by tests before, or as part of the key."""
    known = body.known.get(Field.PROTOCOL)
    if known is not None and not difference(known, PORTED):
        return True
    if isinstance(condition, Lookup) and not condition.negated:
        places = [place for place, operand in enumerate(operands) if operand.field is Field.PROTOCOL]
        return bool(places) and all(
            not difference(box[place], PORTED) for box in condition.elements.boxes for place in places[:1]
        )
    return False
