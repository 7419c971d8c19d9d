"""Rules that nft prints otherwise than the kernel evaluates them, told by what the kernel has of them.

nft 1.0.6 takes ``meta iiftype ether`` and ``ct protocol udp`` for what a later test implies, and leaves them out,
also where that test holds of other packets. ``skuid < 1000 skuid > 1000``, which no packet passes, it prints as
``skuid != 1000-1000`` (src/netlink_delinearize.c, src/payload.c). ``udp sport != 443 udp dport != 79`` it loads as one
comparison of both ports, which packets pass that have one of them, and prints as it was written (src/rule.c). And
``tcp sport >= 10 tcp dport <= 500`` it prints as ``tcp dport 10-500``.
"""

from __future__ import annotations

from enum import Enum

from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from istio_init.dialects.nft.ruleset import Expression, Ruleset

    Place = tuple[str, str, str, int]
    """Family, table, chain and handle of a rule."""

_IMPLYING = frozenset(["ether", "arp", "vlan"])
"""Headers that only interfaces of type ether have: nft tests the type for them, and need not print that."""


class Misprint(Enum):
    """What is wrong with what nft prints of a rule, in the words of a cause."""

    LESS = "a test that nft does not print"
    ODD = "a rule that nft did not write, and prints wrongly"


class Told(Value):
    """What the kernel has of one rule: whether it asks for an interface's type, and how much it negates.

    ``connection`` has what it asks of a connection's protocols, as nft names it: ``protocol``, ``l3proto``. ``is_odd``
    says that nft would not write it so, and nothing that it prints is to be believed (`registers`), ``crosses`` that
    one field has a least value, and another one right behind it, of the same kind, a greatest.
    """

    asks_for_type: bool = False
    negated_ranges: int = 0
    negated_values: int = 0
    connection: frozenset[str] = frozenset()
    is_odd: bool = False
    crosses: bool = False


NOTHING = Told()


def misprinted(ruleset: Ruleset, told: Mapping[Place, Told]) -> dict[Place, Misprint]:
    """The rules of which nft prints something else, or not all."""
    found = {}
    for table in ruleset.tables:
        for chain in table.chains:
            for rule in chain.rules:
                if rule.handle is None:
                    continue
                place = table.family, table.name, chain.name, rule.handle
                its = told.get(place, NOTHING)
                if its.is_odd or _differs(rule.expressions, its):
                    found[place] = Misprint.ODD if its.is_odd else Misprint.LESS
    return found


def _differs(expressions: Sequence[Expression], told: Told) -> bool:
    if told.connection and not told.connection <= _keys_of_connections(expressions):
        return True
    negated, unequal, names, has_range = 0, 0, set(), False
    for expression in expressions:
        match = expression.get("match")
        if not isinstance(match, dict):
            continue
        is_range = _is_range(match)
        negated += match.get("op") == "!=" and is_range
        has_range |= is_range
        unequal += _may_be_merged(expression)
        if told.asks_for_type:
            names |= _names(match.get("left"))
    if negated > told.negated_ranges or unequal > told.negated_values or (told.crosses and has_range):
        return True
    return told.asks_for_type and not names & (_IMPLYING | {"iiftype", "oiftype"})


def may_be_another(expression: Expression) -> bool:
    """Whether it may stand for other tests, in a rule of which nft prints something else."""
    match = expression.get("match")
    return _may_be_merged(expression) or (isinstance(match, dict) and _is_range(match))


def _is_range(match: Mapping[str, object]) -> bool:
    right = match.get("right")
    return isinstance(right, dict) and "range" in right


def _may_be_merged(expression: Expression) -> bool:
    """Whether it compares a field of a header with another value, which nft may load together with the next field's."""
    match expression:
        case {"match": {"op": "!=", "left": {"payload": _}, "right": int()}}:
            return True
        case {"match": {"op": "!=", "left": {"payload": _}, "right": str(value)}}:
            return not value.startswith("@")
    return False


def _keys_of_connections(value: object) -> set[str]:
    """What is asked of connections, anywhere in what nft prints."""
    if isinstance(value, dict):
        asked = value.get("ct")
        own = {str(asked.get("key"))} if isinstance(asked, dict) else set()
        return own.union(*map(_keys_of_connections, value.values()))
    return set().union(*map(_keys_of_connections, value)) if isinstance(value, list | tuple) else set()


def _names(value: object) -> set[str]:
    """All texts in what a rule looks at."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {name for part in parts for name in _names(part)}
