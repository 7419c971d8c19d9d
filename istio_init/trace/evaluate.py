"""Conditions of rules, compiled to functions of a packet's fields.

The answer is true, false, or the cause for which it cannot be told.
"""

from __future__ import annotations

from istio_init.netfilter.intervals import contains, difference, intersection
from istio_init.netfilter.rules import AnyOf, Cause, Lookup, Never, Test, Undecided
from istio_init.trace.packet_fields import TTL
from istio_init.trace.sets import Index, Members
from istio_init.trace.state import Unsure, few_values, not_given, points

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from istio_init.netfilter.fields import Field
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Box, Condition, Key, Statement
    from istio_init.trace.state import Number, Values

    Answer = bool | Cause
    Evaluate = Callable[[Values], Answer]
    Derived = Mapping[Field, Callable[[Values], Number]]

CONDITIONS = (Test, Lookup, AnyOf, Undecided, Never)


class Evaluator:
    """Compiles conditions. ``derived`` are fields that the host makes of others, such as types of addresses."""

    def __init__(self, derived: Derived) -> None:
        self.derived = derived
        self._indexes: dict[int, tuple[object, Index]] = {}
        self._compiled: dict[int, tuple[Condition, Evaluate]] = {}

    def compile(self, condition: Condition) -> Evaluate:
        """The function that evaluates a condition; of one that many rules share there is one."""
        known = self._compiled.get(id(condition))
        if known is None:
            known = self._compiled[id(condition)] = condition, self._compile(condition)
        return known[1]

    def _compile(self, condition: Condition) -> Evaluate:
        if isinstance(condition, Test):
            if condition.field in self.derived:
                return _of_derived(condition, self.derived[condition.field])
            return _of_field(condition)
        if isinstance(condition, Lookup):
            return self._lookup(condition)
        if isinstance(condition, AnyOf):
            options = tuple([tuple([self.compile(each) for each in option]) for option in condition.options])
            return _any_of(options, negated=condition.negated)
        if isinstance(condition, Undecided):
            cause = condition.cause
            return lambda _: cause
        assert isinstance(condition, Never)
        return lambda _: False

    def _lookup(self, lookup: Lookup) -> Evaluate:
        elements, keys, negated, if_absent = lookup.elements, lookup.keys, lookup.negated, lookup.if_absent
        index = self.index(elements, [(box, True) for box in elements.boxes])
        not_read = not_given(f"the elements of {elements.name}")

        def evaluate(values: Values) -> Answer:
            key = self.key(keys, values)
            if None in key:
                return if_absent
            if not elements.is_complete:
                return not_read
            if all(number.__class__ is int for number in key):
                return (index.find(key) is None) is negated
            possible, is_certain = index.possible(key)
            if not possible or is_certain:
                return bool(possible) is not negated
            return _cause_of(key)

        return evaluate

    def key(self, keys: Sequence[Key], values: Values) -> list[Number]:
        """The fields that a set or map is asked for."""
        return [self._part(key, values) for key in keys]

    def _part(self, key: Key, values: Values) -> Number:
        value: Number = self.derived[key.field](values) if key.field in self.derived else values[key.field]
        if key.mask is None or value is None:
            return value
        if isinstance(value, Unsure):
            few = few_values(value)
            if few is None:
                return Unsure(((0, key.mask),), value.cause)
            return Unsure(points(number & key.mask for number in few), value.cause)
        return value & key.mask

    def index(self, of: object, boxes: Iterable[tuple[Box, object]]) -> Index:
        """The boxes of a set or map, indexed once."""
        known = self._indexes.get(id(of))
        if known is None:
            known = self._indexes[id(of)] = of, Index(boxes)
        return known[1]


def _of_field(test: Test) -> Evaluate:
    """A test of a field that the packet itself has. These are nearly all tests there are, and each call counts."""
    if test.mask is not None or len(test.within) > 1:
        return _of_bits(test)
    field, if_absent = test.field, test.if_absent
    low, high = test.within[0] if test.within else (1, 0)

    def whole(values: Values) -> Answer:
        value = values[field]
        if value.__class__ is int:
            return low <= value <= high
        return if_absent if value is None else unsure(test, value)

    def not_whole(values: Values) -> Answer:
        value = values[field]
        if value.__class__ is int:
            return not low <= value <= high
        return if_absent if value is None else unsure(test, value)

    return not_whole if test.negated else whole


def _of_bits(test: Test) -> Evaluate:
    field, negated, if_absent = test.field, test.negated, test.if_absent
    mask = -1 if test.mask is None else test.mask
    low, high = test.within[0] if test.within else (1, 0)

    def masked(values: Values) -> Answer:
        value = values[field]
        if value.__class__ is int:
            return (low <= value & mask <= high) is not negated
        return if_absent if value is None else unsure(test, value)

    if len(test.within) < 2:
        return masked
    has = Members(test.within).has

    def several(values: Values) -> Answer:
        value = values[field]
        if value.__class__ is int:
            return has(value & mask) is not negated
        return if_absent if value is None else unsure(test, value)

    return several


def _of_derived(test: Test, derive: Callable[[Values], Number]) -> Evaluate:
    mask, negated, has = test.mask, test.negated, Members(test.within).has

    def evaluate(values: Values) -> Answer:
        value = derive(values)
        if value is None:
            return test.if_absent
        if isinstance(value, Unsure):
            return unsure(test, value)
        return has(value if mask is None else value & mask) is not negated

    return evaluate


def _any_of(options: tuple[tuple[Evaluate, ...], ...], *, negated: bool) -> Evaluate:
    def evaluate(values: Values) -> Answer:
        undecided: Cause | None = None
        for option in options:
            answer: Answer = True
            for test in option:
                found = test(values)
                if found is not True:
                    answer = found
                    if found is False:
                        break
            if answer is True:
                return not negated
            if answer is not False and undecided is None:
                undecided = answer
        return negated if undecided is None else undecided

    return evaluate


def unsure(test: Test, value: Unsure) -> Answer:
    """The answer for a value of which only some are possible."""
    holds, fails = _parts(test, value)
    if holds is None or fails is None or (holds and fails):
        return value.cause
    return bool(holds)


def _parts(test: Test, value: Unsure) -> tuple[Intervals | None, Intervals | None]:
    """For which possible values a test holds and fails; None where they are too many to say."""
    if test.mask is None:
        holds, fails = intersection(value.within, test.within), difference(value.within, test.within)
    else:
        few = few_values(value)
        if few is None and any(low != high or not low & ~test.mask for low, high in test.within):
            return None, None
        # Of one value that has other bits than the mask no number is.
        holds = points(number for number in few or () if contains(test.within, number & test.mask))
        fails = difference(value.within, holds)
    return (fails, holds) if test.negated else (holds, fails)


def narrow(values: Values, condition: Statement, *, holds: bool) -> None:
    """Have a way on which an undecided test holds, or fails, remember what that says of the field."""
    if not isinstance(condition, Test):
        return
    value = values[condition.field]
    if not isinstance(value, Unsure):
        return
    left = _parts(condition, value)[0 if holds else 1]
    if left:
        is_one = len(left) == 1 and left[0][0] == left[0][1] and condition.field is not TTL  # Not as if it were given.
        values[condition.field] = left[0][0] if is_one else Unsure(left, value.cause)


def _cause_of(key: Sequence[Number]) -> Cause:
    return next(number.cause for number in key if isinstance(number, Unsure))
