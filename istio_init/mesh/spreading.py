"""Native rules of our own, undone to one rule a value, in the order in which iptables has them.

What `istio_init.mesh.policy.nftables` does to clauses, the other way round: lists come back from sets, tests of who is
not the sender from the order of rules, and what TPROXY drops by itself is no rule.
"""

from __future__ import annotations

from ipaddress import ip_address, summarize_address_range
from itertools import product

from istio_init.dialects.iptables.matches import Interface, Owner, PortMatch
from istio_init.dialects.iptables.rules import Entry, Rule
from istio_init.dialects.iptables.targets import ACCEPT, DROP, RETURN, Jump, Tproxy
from istio_init.dialects.nft.element_ranges import plain
from istio_init.mesh.native_names import GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from istio_init.dialects.nft.ruleset import Expression, Json, Set

Placed = tuple[Entry, "Any"]
"""A rule, and where it comes from."""

_LO = Interface("lo")


def spread(expressions: Sequence[Expression], sets: Mapping[str, Set]) -> Iterator[Sequence[Expression]]:
    """The expressions of a rule, for each combination of the elements that it looks up in named sets.

    A range of addresses that is written in place of a set is one of networks as well.
    """
    lists = {
        index: values
        for index, each in enumerate(expressions)
        if (right := _looked_up(each)) is not None and (values := _several(right, sets)) is not None
    }
    if not lists:
        yield expressions
        return
    for combination in product(*lists.values()):
        found = list(expressions)
        for index, (value, counter) in zip(lists, combination, strict=True):
            found[index] = {"match": {**expressions[index]["match"], "right": value}}
            if counter is not None:
                found = [counter if "counter" in each else each for each in found]
        yield found


def _several(right: Json, sets: Mapping[str, Set]) -> list[tuple[Json, Expression | None]] | None:
    """The values of what is looked up, each with what it has counted; None for one value alone."""
    if isinstance(right, str):
        return _values(sets[right[1:]]) if right.startswith("@") and right[1:] in sets else None
    networks = _networks(right)
    return [(each, None) for each in networks] if networks != [right] else None


def _looked_up(expression: Expression) -> Json:
    match expression:
        case {"match": {"op": "==", "right": right}}:
            return right
    return None


def _values(found: Set) -> list[tuple[Json, Expression | None]]:
    """The elements, each with what it has counted; a range of addresses as the networks that it consists of."""
    values: list[tuple[Json, Expression | None]] = []
    for element in found.elements:
        counter = element["elem"].get("counter") if isinstance(element, dict) and "elem" in element else None
        counted = None if counter is None else {"counter": counter}
        values += [(value, counted) for value in _networks(plain(element))]
    return sorted(values, key=lambda each: str(each[0])) if found.type == "ifname" else values


def _networks(value: Json) -> list[Json]:
    match value:
        case {"range": [str(first), str(last)]}:
            parts = summarize_address_range(ip_address(first), ip_address(last))
            return [{"prefix": {"addr": str(each.network_address), "len": each.prefixlen}} for each in parts]
    return [value]


def as_stated(chains: Mapping[str, list[Placed]]) -> dict[str, list[Placed]]:
    """The chains of a table as the policy states them."""
    groups = chains.get(GROUPS, [])
    ended = len(groups) > 1 and groups[-1][0].rule == Rule(target=ACCEPT)
    found = {}
    for name, placed in chains.items():
        if name == GROUPS and ended:
            continue
        placed = _without_drops(placed)
        placed = _with_negations(placed)
        found[name] = [_none_of(groups, each) for each in placed] if ended else placed
    return found


def _without_drops(placed: list[Placed]) -> list[Placed]:
    """Behind TPROXY, a rule that drops the same packets is part of it."""
    kept: list[Placed] = []
    for entry, spot in placed:
        before = kept[-1][0].rule if kept else None
        if before is not None and isinstance(before.target, Tproxy) and entry.rule == before.replace(target=DROP):
            continue
        kept.append((entry, spot))
    return kept


def _with_negations(placed: list[Placed]) -> list[Placed]:
    """What returns on lo right after an owner returned, is for others than this owner, and stands before."""
    kept = list(placed)
    for index in range(1, len(kept)):
        (before, _), (entry, spot) = kept[index - 1], kept[index]
        match before.rule:
            case Rule(None, None, None, None, None, (Owner() as owner,), target) if target == RETURN:
                if _is_on_lo(entry.rule):
                    rule = entry.rule.replace(matches=(*entry.rule.matches, _negated(owner)))
                    kept[index - 1 : index + 1] = [(entry.replace(rule=rule), spot), kept[index - 1]]
    return kept


def _is_on_lo(rule: Rule) -> bool:
    is_plain = rule.source is None and rule.destination is None and rule.in_interface is None
    has_ports = all(isinstance(each, PortMatch) for each in rule.matches)
    return is_plain and has_ports and rule.out_interface == _LO and rule.target == RETURN


def _none_of(groups: list[Placed], placed: Placed) -> Placed:
    """A jump to where members of groups come back from, and others do not, is a test of them."""
    entry, spot = placed
    if entry.rule.target != Jump(GROUPS):
        return placed
    owners = [each for member, _ in groups for each in member.rule.matches if isinstance(each, Owner)]
    matches = (*entry.rule.matches, *map(_negated, owners))
    return entry.replace(rule=entry.rule.replace(matches=matches, target=RETURN)), spot


def _negated(owner: Owner) -> Owner:
    return owner.replace(uid_negated=owner.uid is not None, gid_negated=owner.gid is not None)
