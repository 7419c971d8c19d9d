"""The way from live tables of native nftables to wanted ones: tables that are not as wanted are replaced.

It is one transaction, or two where inbound capture moves between nat and mangle: a packet that meets the rules of
before in mangle and those of after in nat would be captured by neither.
"""

from __future__ import annotations

from istio_init.dialects.iptables.tables import Table as IptablesTable
from istio_init.dialects.nft.element_ranges import intervals, plain
from istio_init.dialects.nft.script import element_text, replacing
from istio_init.dialects.nft.text import rule_text
from istio_init.dialects.role import Role
from istio_init.mesh.native_names import SIDECAR, native_name
from istio_init.plan.model import NATIVE, BackendPlan, Change, FamilyPlan, Kind
from istio_init.plan.sequence import common_pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.dialects.nft.ruleset import Chain, Expression, Json, Rule, Set, Table
    from istio_init.netfilter.family import Family

SHOWN_ELEMENTS = 8
"""So many elements of a set are shown where a rule looks something up in it."""

_TPROXY = native_name("ISTIO_TPROXY")
_PROTOCOLS = {6: "tcp", 17: "udp"}
_ROLES = {role.value: role for role in Role}


def native_plan(
    live: tuple[Table, ...],
    wanted: tuple[Table, ...],
    families: tuple[Family, ...],
    *,
    rewrite: bool = False,
    is_written: bool = False,
) -> BackendPlan:
    """Replace what is live by what is wanted; everything that is live is ours.

    What the run itself has written need only resemble what is wanted.
    """
    is_wanted = (resembles if is_written else holds)(live, wanted)
    scripts = () if is_wanted and not rewrite else _transactions(live, wanted)
    changes = () if is_wanted and is_written else tuple(_changes(live, wanted))
    return BackendPlan(NATIVE, tuple([FamilyPlan(each) for each in families]), scripts, changes, is_wanted or not live)


def restoring(live: tuple[Table, ...], before: tuple[Table, ...]) -> tuple[str, ...]:
    """What nft reads, a transaction each, to put back the tables that are not as before; empty where all are."""
    same = {each.name for each in live if any(each.name == other.name and holds([each], [other]) for other in before)}
    now, then = ([each for each in tables if each.name not in same] for tables in (live, before))
    return _transactions(now, then) if now or then else ()


def _transactions(live: Iterable[Table], wanted: Iterable[Table]) -> tuple[str, ...]:
    before, after = ({table.name: table for table in tables} for tables in (live, wanted))
    mangle, nat = f"{SIDECAR}mangle", f"{SIDECAR}nat"
    if nat not in before or nat not in after or _captures_in(before.get(mangle)) == _captures_in(after.get(mangle)):
        return (replacing(before.values(), after.values()),)
    late = nat if _captures_in(after.get(mangle)) else mangle
    last = [[tables.pop(late)] if late in tables else [] for tables in (before, after)]
    return replacing(before.values(), after.values()), replacing(*last)


def _captures_in(table: Table | None) -> bool:
    return table is not None and any(chain.name == _TPROXY for chain in table.chains)


def holds(live: Iterable[Table], wanted: Iterable[Table]) -> bool:
    """Whether the live tables are the wanted ones, whatever their rules and elements have counted."""
    return {each.name: _meaning(each) for each in live} == {each.name: _meaning(each) for each in wanted}


def resembles(live: Iterable[Table], wanted: Iterable[Table]) -> bool:
    """Whether chains, roles and lists are the wanted ones: enough to know a transaction by, and true of each nft.

    Versions of nft differ in how they print a rule; the kernel takes all of a transaction, or nothing.
    """
    return {each.name: _outline(each) for each in live} == {each.name: _outline(each) for each in wanted}


def _outline(table: Table) -> object:
    chains = {
        chain.name: (chain.type, chain.hook, chain.priority, tuple([rule.comment for rule in chain.rules]))
        for chain in table.chains
    }
    return table.family, table.is_dormant is not True, chains, {n: _elements(each) for n, each in table.sets.items()}


def _meaning(table: Table) -> object:
    chains = {
        chain.name: (
            (chain.type, chain.hook, chain.priority, chain.policy),
            [(rule.comment, [_normal(each) for each in rule.expressions]) for rule in chain.rules],
        )
        for chain in table.chains
    }
    sets = {name: (each.type, each.data, _elements(each)) for name, each in table.sets.items()}
    return table.family, bool(table.objects), table.is_dormant is not True, chains, sets


def _elements(each: Set) -> object:
    """What lies in a set, however its parts are cut and ordered."""
    try:
        return intervals(each.elements)
    except ValueError:
        return sorted(map(str, map(plain, each.elements)))


def _normal(expression: Json) -> Json:
    """An expression without what it has counted, and as every version of nft would print it."""
    match expression:
        case {"counter": dict()}:
            return {"counter": None}
        case {"match": {"op": operator, "left": {"ct": {"key": "state"}} as left, "right": right}}:
            many = right.get("set", right) if isinstance(right, dict) else right
            states = sorted(many) if isinstance(many, list) else [many]
            return {"match": {"op": "!=" if operator == "!=" else "==", "left": left, "right": states}}
        case {"match": {"op": operator, "left": left, "right": right}}:
            return {"match": {"op": operator, "left": left, "right": _right(right)}}
        case {"mangle": {"key": key, "value": {"|": [{"&": [of, int(mask)]}, int(value)]}}}:
            return {"mangle": {"key": key, "value": {"|": [{"&": [of, mask | value]}, value]}}}
    return expression


def _right(value: Json) -> Json:
    match value:
        case {"set": list(many)} if not any(isinstance(each, list) for each in many):
            return {"set": sorted(map(str, map(plain, many)))}
        case {"prefix": {"addr": addr, "len": 32 | 128 as length}} if length == (128 if ":" in addr else 32):
            return addr
        case int() if value in _PROTOCOLS:
            return _PROTOCOLS.get(value)
    return value


def _changes(live: tuple[Table, ...], wanted: tuple[Table, ...]) -> Iterator[Change]:
    """What happens to each rule, in the order of the wanted chains; removals at the end of each."""
    before, after = ({table.name: table for table in tables} for tables in (live, wanted))
    for name in dict.fromkeys([*after, *before]):
        old, new = before.get(name), after.get(name)
        table = IptablesTable(name.rpartition("-")[2])
        old_chains, new_chains = _chains(old), _chains(new)
        for chain in dict.fromkeys([*new_chains, *old_chains]):
            shown = _shown(old, old_chains.get(chain)), _shown(new, new_chains.get(chain))
            yield from _chain_changes(table, chain, *shown)


def _chains(table: Table | None) -> dict[str, Chain]:
    return {} if table is None else {chain.name: chain for chain in table.chains}


def _shown(table: Table | None, chain: Chain | None) -> list[tuple[str, Role | None]]:
    if table is None or chain is None:
        return []
    return [(_text(table, rule), _ROLES.get(rule.comment or "")) for rule in chain.rules]


def _text(table: Table, rule: Rule) -> str:
    """A rule with the values that it looks up in place of the names of sets, and without its comment."""
    text = rule_text([_normal_counter(each) for each in rule.expressions])
    for name, each in table.sets.items() if "@" in text else ():
        elements = [element_text(plain(element), each.type) for element in each.elements[:SHOWN_ELEMENTS]]
        more = len(each.elements) - SHOWN_ELEMENTS
        shown = ", ".join([*elements, *([f"… {more} more"] if more > 0 else [])])
        text = f"{text} ".replace(f"@{name} ", f"{{ {shown} }} ").rstrip()
    return text


def _normal_counter(expression: Expression) -> Expression:
    return {"counter": None} if "counter" in expression else expression


def _chain_changes(
    table: IptablesTable, chain: str, old: list[tuple[str, Role | None]], new: list[tuple[str, Role | None]]
) -> Iterator[Change]:
    pairs = common_pairs([text for text, _ in old], [text for text, _ in new])
    kept_old, kept_new = {before for before, _ in pairs}, {after for _, after in pairs}
    leaving = [each for index, each in enumerate(old) if index not in kept_old]
    for index, (text, role) in enumerate(new):
        moved = next((each for each in leaving if each[0] == text), None) if index not in kept_new else None
        if moved is not None:
            leaving.remove(moved)
        kind = Kind.KEEP if index in kept_new else Kind.ADD if moved is None else Kind.MOVE
        yield Change(kind, table, chain, text, role)
    for text, role in leaving:
        yield Change(Kind.REMOVE, table, chain, text, role)
