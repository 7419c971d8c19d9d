"""The tests of a lowered rule, asked of a packet's fields."""

from __future__ import annotations

from istio_init.dialects.iptables.ipset import parse_ipset_save
from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.save import parse_save
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import contains
from istio_init.netfilter.rules import (
    AnyOf,
    Condition,
    Key,
    Lookup,
    Never,
    Rule,
    Statement,
    Store,
    Test,
    Undecided,
)

Facts = dict[Field, int]


def rule(
    text: str,
    *,
    table: str = "mangle",
    chain: str = "PREROUTING",
    family: Family = Family.IPV4,
    sets: str | None = None,
    others: str = "",
) -> Rule:
    """The rule of a text, the last one of its chain; ``others`` are lines of the table."""
    lines = [f"*{table}", f":{chain} ACCEPT [0:0]", *others.splitlines(), f"-A {chain} {text}", "COMMIT", ""]
    known = None if sets is None else parse_ipset_save(sets)
    [lowered] = lower(parse_save("\n".join(lines), family).rules, Store.NFT, known)
    return lowered.chains[chain].rules[-1]


def body(text: str, *, family: Family = Family.IPV4, table: str = "mangle") -> tuple[Statement, ...]:
    """The statements of a rule's text."""
    return rule(text, family=family, table=table).body


def holds(statements: tuple[Statement, ...], facts: Facts) -> bool | None:
    """Whether all tests hold for a packet that has the facts and no other fields; None where it cannot be told."""
    answers = [_holds(each, facts) for each in statements if isinstance(each, Condition)]
    return False if False in answers else None if None in answers else True


def _holds(condition: Condition, facts: Facts) -> bool | None:
    match condition:
        case Undecided():
            return None
        case Never():
            return False
        case Test(field, within, mask, negated, if_absent):
            value = _value(Key(field, mask), facts)
            return if_absent if value is None else contains(within, value) is not negated
        case Lookup(keys, elements, negated, if_absent):
            values = [_value(key, facts) for key in keys]
            if None in values:
                return if_absent
            numbers = [value for value in values if value is not None]
            found = any(all(map(contains, box, numbers)) for box in elements.boxes)
            return found is not negated
        case AnyOf(options, negated):
            answers = [holds(option, facts) for option in options]
            if True in answers:
                return not negated
            return None if None in answers else negated


def _value(key: Key, facts: Facts) -> int | None:
    value = facts.get(key.field)
    return value if value is None or key.mask is None else value & key.mask
