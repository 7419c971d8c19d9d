"""What ``nft -f`` reads to replace whole tables in one transaction: all of it takes effect, or none."""

from __future__ import annotations

from istio_init.dialects.nft.element_ranges import plain
from istio_init.dialects.nft.text import rule_text
from istio_init.dialects.nft.text_values import Style, value_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.dialects.nft.ruleset import Chain, Json, Set, Table

COUNTING = "counter"
"""The flag of a set that stands for a counter at each of its elements."""


def replacing(live: Iterable[Table], wanted: Iterable[Table]) -> str:
    """Replace the live tables with the wanted ones.

    Base chains that match what is wanted stay: if they were deleted and added again, a packet in flight during the
    transaction could be evaluated by both, or by neither. A table that is not live is created, so the transaction fails
    if another process created it meanwhile. Deleting it first would make nft wait for an RCU grace period.
    """
    found, names = ({(each.family, each.name): each for each in tables} for tables in (live, wanted))
    kept = {name for name, table in found.items() if name in names and keeps(table, names[name])}
    lines = [line for name, table in found.items() if name not in kept for line in _deleted(table)]
    for name, table in names.items():
        if name in kept:
            lines += _emptied(found[name], table)
        elif name not in found:
            lines.append(f"create table {table.family} {table.name}")
        lines += table_lines(table)
    return _text(lines)


def whole(wanted: Iterable[Table]) -> str:
    """Replace tables of these names with the wanted ones, whatever they hold by then."""
    return _text([line for table in wanted for line in (*_deleted(table), *table_lines(table))])


def _deleted(table: Table) -> list[str]:
    """Deleting a missing table fails, so it is added first; ``destroy`` needs a newer nft than 1.0.1."""
    return [f"add table {table.family} {table.name}", f"delete table {table.family} {table.name}"]


def _text(lines: Iterable[str]) -> str:
    return "".join([f"{line}\n" for line in lines])


def keeps(live: Table, wanted: Table) -> bool:
    """Whether a live table can be emptied and filled anew: it holds chains and sets alone, hooked as is wanted."""
    hooked = {chain.name: _hooked(chain) for chain in wanted.chains}
    return (
        not (live.objects or live.flags or live.is_dormant)
        and all(each.data is None for each in live.sets.values())
        and all(hooked.get(chain.name, _hooked(chain)) == _hooked(chain) for chain in live.chains)
    )


def _hooked(chain: Chain) -> object:
    return chain.type, chain.hook, chain.priority, chain.policy, chain.devices


def _emptied(live: Table, wanted: Table) -> Iterator[str]:
    """Empty a table but for the wanted chains, which lose their rules."""
    kept = {chain.name for chain in wanted.chains}
    yield f"flush table {live.family} {live.name}"
    for name in live.sets:
        yield f"delete set {live.family} {live.name} {name}"
    for chain in live.chains:
        if chain.name not in kept:
            yield f"delete chain {live.family} {live.name} {chain.name}"


def table_lines(table: Table) -> Iterator[str]:
    """A table with all that it holds. Chains stand before what jumps to them, which nft does not ask for."""
    yield f"table {table.family} {table.name} {{"
    if table.is_dormant:
        yield "  flags dormant"
    for each in table.sets.values():
        yield from _set(each)
    for chain in table.chains:
        yield from _chain(chain)
    yield "}"


def _set(each: Set) -> Iterator[str]:
    yield f"  set {each.name} {{"
    yield f"    type {each.type}"
    flags = ",".join(sorted(each.flags - {COUNTING}))
    if flags:
        yield f"    flags {flags}"
    if COUNTING in each.flags or any(map(_counts, each.elements)):
        yield "    counter"
    if each.elements:
        elements = [element_text(element, each.type) for element in each.elements]
        yield f"    elements = {{ {', '.join(elements)} }}"
    yield "  }"


def element_text(element: Json, kind: Json) -> str:
    """An element of a set of this type."""
    return value_text(plain(element), Style.QUOTED if kind == "ifname" else Style.PLAIN)


def _counts(element: Json) -> bool:
    return isinstance(element, dict) and "counter" in element.get("elem", ())


def _chain(chain: Chain) -> Iterator[str]:
    yield f"  chain {chain.name} {{"
    if chain.hook is not None:
        policy = f" policy {chain.policy};" if chain.policy else ""
        yield f"    type {chain.type} hook {chain.hook} priority {chain.priority};{policy}"
    for rule in chain.rules:
        yield f"    {rule_text(rule.expressions, rule.comment)}"
    yield "  }"
