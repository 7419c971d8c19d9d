"""Rules in a row that do the same, and the regions of their conditions."""

from __future__ import annotations

from istio_init.netfilter.rules import AnyOf, End, Lookup, Nat, Never, Note, Test, Tproxy, Undecided, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.rules import Chain, Condition, Rule, Statement

LONG = 100
"""Chains of more rules are made by programs."""

CONDITIONS = (Test, Lookup, AnyOf, Undecided, Never)
DECISIVE = frozenset([Verdict.ACCEPT, Verdict.DROP, Verdict.REJECT, Verdict.RETURN])


class Run:
    """Rules in a row with the same statements behind their conditions."""

    __slots__ = ("rules", "tail")

    def __init__(self, tail: tuple[Statement, ...], rules: list[Rule]) -> None:
        self.tail = tail
        self.rules = rules


def runs(chain: Chain) -> list[Run]:
    """The rules of a chain, those in a row together that do the same, without those that do nothing.

    In chains that people look at rule by rule, only those that test the same: then what decides is told more exactly.
    """
    found: list[Run] = []
    is_long = len(chain.rules) > LONG
    for rule in chain.rules:
        tail = _tail(rule)
        if not tail:
            continue
        is_final = bool(found) and found[-1].tail == tail and _is_final(tail)
        if is_final and (is_long or _tested(found[-1].rules[-1]) == _tested(rule)):
            found[-1].rules.append(rule)
        else:
            found.append(Run(tail, [rule]))
    return found


def _tested(rule: Rule) -> list[object]:
    """What a rule tests, but for the values."""
    return [
        (each.field, each.mask, each.negated) if isinstance(each, Test) else type(each) for each in conditions_of(rule)
    ]


def _is_final(tail: tuple[Statement, ...]) -> bool:
    """Whether nothing but one decision follows the conditions: the order of such rules does not matter.

    What NETMAP does depends on the conditions, which may say which bits it exchanges.
    """
    [first, *more] = tail
    if isinstance(first, Nat) and first.netmap:
        return False
    return not more and (isinstance(first, Nat | Tproxy) or (isinstance(first, End) and first.verdict in DECISIVE))


def conditions_of(rule: Rule) -> list[Condition]:
    """The conditions before anything that a rule does."""
    found: list[Condition] = []
    for statement in rule.body:
        if isinstance(statement, CONDITIONS):
            found.append(statement)
        elif not isinstance(statement, Note):
            break
    return found


def _tail(rule: Rule) -> tuple[Statement, ...]:
    """The statements behind the first conditions, without those that have no influence on the packet's way."""
    for place, statement in enumerate(rule.body):
        if not isinstance(statement, (*CONDITIONS, Note)):
            tail = [each for each in rule.body[place:] if not isinstance(each, Note)]
            while tail and isinstance(tail[-1], CONDITIONS):
                tail.pop()
            return tuple(tail)
    return ()
