"""Maps: verdicts, and values for statements, by key (nft_lookup with a destination)."""

from __future__ import annotations

from istio_init.dialects.nft.elements import box, is_catch_all, keys
from istio_init.dialects.nft.loads import load_all
from istio_init.dialects.nft.matches import PORTED, is_ported, undecided
from istio_init.dialects.nft.text import expression_text
from istio_init.dialects.nft.values import OddError
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import difference, intersection, union
from istio_init.netfilter.rules import (
    Cause,
    Dispatch,
    Elements,
    End,
    Lookup,
    Openness,
    Test,
    Undecided,
    Unknowable,
    Verdict,
)
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.operands import Operand
    from istio_init.dialects.nft.ruleset import Expression, Json
    from istio_init.dialects.nft.scope import Body, Scope
    from istio_init.netfilter.rules import Box, Condition, Key, Statement

    Operands = tuple[Operand, ...]
    Pairs = tuple[tuple[Box, Json], ...]

VERDICTS = {"accept": Verdict.ACCEPT, "drop": Verdict.DROP, "return": Verdict.RETURN}
CALLS = {"jump": Verdict.JUMP, "goto": Verdict.GOTO}


class Mapped(Value):
    """What a map says: values by box, in the order in which they are asked for.

    ``unknown`` is set where the key cannot be told: any of the values, or none.
    """

    operands: tuple[Operand, ...]
    pairs: Pairs
    name: str
    is_complete: bool
    unknown: Undecided | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """What it is asked for."""
        return keys(self.operands)

    def has_key(self) -> Condition:
        """That it has an element for the packet."""
        places = tuple([place for place, _ in self.pairs])
        return Lookup(self.keys, Elements(self.name, places, is_complete=self.is_complete))


def mapped(key: Json, data: Json, body: Body) -> Mapped:
    """Read a map, and append what its key needs.

    Raises:
        OddError: it is none that is known.
    """
    scope = body.scope
    operands = load_all(key, body.family)
    body.take(operands)
    name, complete, elements = _elements(data, scope)
    unknown = undecided(operands)
    if unknown is not None:
        return Mapped(operands, tuple([((), value) for _, value in elements]), name, complete, unknown)
    known = scope.maps.get((name, operands)) if name else None
    if known is not None:
        return known
    found = Mapped(operands, _pairs(elements, operands, scope), name, complete)
    if name:
        scope.maps[name, operands] = found
    return found


def _pairs(elements: list[tuple[Json, Json]], operands: Operands, scope: Scope) -> Pairs:
    found = []
    for element, value in sorted(elements, key=lambda pair: is_catch_all(pair[0])):
        place = box(element, operands, scope)
        if place is not None:
            found.append((place, value))
    return tuple(found)


def _elements(data: Json, scope: Scope) -> tuple[str, bool, list[tuple[Json, Json]]]:
    if isinstance(data, str) and data.startswith("@"):
        found = scope.set_of(data)
        if found.data is None:
            raise OddError(f"{data} is no map")
        return found.name, scope.is_complete(found), _as_pairs(list(found.elements))
    match data:
        case {"set": list(pairs)}:
            return "", True, _as_pairs(pairs)
    raise OddError("no map")


def _as_pairs(pairs: list[Json]) -> list[tuple[Json, Json]]:
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise OddError("an element of a map that is no pair")
    return [(key, value) for key, value in pairs]


def verdict(expression: Json) -> End | None:
    """A verdict; None for ``continue``.

    Raises:
        OddError: it is none.
    """
    if isinstance(expression, dict) and len(expression) == 1:
        [(kind, body)] = expression.items()
        if kind in VERDICTS:
            return End(VERDICTS[kind])
        if kind in CALLS and isinstance(body, dict) and isinstance(body.get("target"), str):
            return End(CALLS[kind], body["target"])
        if kind == "continue":
            return None
        if kind == "queue":
            return End(Verdict.QUEUE)
    raise OddError("no verdict")


def dispatch(body: Body, expression: Expression) -> tuple[list[list[Statement]], bool]:
    """Lower a verdict map: ways to go on with the rule, and whether something may follow it.

    Each way but the last is a rule of its own before what is left of it. A key that the map does not have leaves the
    rule; so statements behind a map are reached by ``continue`` alone.

    Raises:
        OddError: it is none that is known.
    """
    asked = expression["vmap"]
    if not isinstance(asked, dict):
        raise OddError("no verdict map")
    found = mapped(asked.get("key"), asked.get("data"), body)
    ends = [(place, verdict(value)) for place, value in found.pairs]
    if found.unknown is not None:
        return _by_chance(found, ends, expression, asked.get("key")), False
    going_on = [place for place, end in ends if end is None]
    verdicts = _grouped(_apart(ends, going_on))
    ways: list[list[Statement]] = []
    if any(operand.of_any_transport for operand in found.operands) and not keys_are_ported(body, found):
        cause = Cause(Openness.NOT_GIVEN, expression_text(expression))
        ways.append([Test(Field.PROTOCOL, PORTED, negated=True), Undecided(cause), Unknowable(cause)])
    last: list[Statement] = [Dispatch(found.keys, verdicts, found.is_complete, found.name)]
    if going_on:
        last.append(Lookup(found.keys, Elements(found.name, tuple(going_on), is_complete=found.is_complete)))
    return [*ways, last], bool(going_on)


def keys_are_ported(body: Body, found: Mapped) -> bool:
    """Whether what is looked up has ports, where the map is asked for those of any protocol."""
    boxes = tuple([place for place, _ in found.pairs])
    return is_ported(body, found.operands, Lookup(found.keys, Elements("", boxes)))


def _apart(ends: list[tuple[Box, End | None]], going_on: list[Box]) -> list[tuple[Box, End]]:
    """Verdicts without what goes on: the last may be a catch-all, which is not asked for what other elements hold."""
    verdicts = [(place, end) for place, end in ends if end is not None]
    if not going_on or not verdicts:
        return verdicts
    *others, (place, end) = verdicts
    if len(place) > 1:
        if any(all(map(intersection, place, each)) for each in going_on):
            raise OddError("a catch-all beside what goes on")
        return verdicts
    rest = difference(place[0], union([each[0] for each in going_on]))
    return [*others, ((rest,), end)] if rest else others


def _grouped(verdicts: list[tuple[Box, End]]) -> tuple[tuple[Box, End], ...]:
    """The same for one key: one box a verdict, as no two elements of a map overlap, but for the last, a catch-all."""
    if not verdicts or len(verdicts[0][0]) > 1:
        return tuple(verdicts)
    groups: dict[End, list[Box]] = {}
    for place, end in verdicts[:-1]:
        groups.setdefault(end, []).append(place)
    found = [((union([place[0] for place in places]),), end) for end, places in groups.items()]
    return (*found, verdicts[-1])


def _by_chance(
    found: Mapped, ends: list[tuple[Box, End | None]], expression: Expression, key: Json
) -> list[list[Statement]]:
    """Any of the verdicts: each of them may be, and the last one is if no other was, where a number has no other."""
    assert found.unknown is not None
    cause = found.unknown.cause.replace(words=expression_text(expression))
    different = list(dict.fromkeys([end for _, end in ends]))
    ways: list[list[Statement]] = [[Undecided(cause), end] for end in different if end is not None]
    if ways and None not in different and _is_exhaustive(key, len(ends)):
        ways[-1] = ways[-1][1:]
    return ways or [[Undecided(cause)]]


def _is_exhaustive(key: Json, elements: int) -> bool:
    """Whether a map has an element for each number that is drawn."""
    match key:
        case {"numgen": {"mod": int(mod)}} | {"jhash": {"mod": int(mod)}} | {"symhash": {"mod": int(mod)}}:
            return elements >= mod
    return False
