"""What ``nft -f`` reads to replace whole tables, in one transaction: either all of it takes place, or nothing."""

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


def replacing(gone: Iterable[tuple[str, str]], tables: Iterable[Table]) -> str:
    """Have tables as they are given, and none that are gone, which are told by family and name.

    Deleting a table that is not there fails, so each is added before; what can do both at once is newer than 1.0.1.
    """
    tables = tuple(tables)
    names = dict.fromkeys([*gone, *[(table.family, table.name) for table in tables]])
    lines = []
    for family, name in names:
        lines += [f"add table {family} {name}", f"delete table {family} {name}"]
    for table in tables:
        lines += table_lines(table)
    return "".join([f"{line}\n" for line in lines])


def table_lines(table: Table) -> Iterator[str]:
    """A table with all that it holds. Chains stand before what jumps to them, which nft does not ask for."""
    yield f"table {table.family} {table.name} {{"
    for each in table.sets.values():
        yield from _set(each)
    for chain in table.chains:
        yield from _chain(chain)
    yield "}"


def _set(each: Set) -> Iterator[str]:
    yield f"\tset {each.name} {{"
    yield f"\t\ttype {each.type}"
    flags = ",".join(sorted(each.flags - {COUNTING}))
    if flags:
        yield f"\t\tflags {flags}"
    if COUNTING in each.flags or any(map(_counts, each.elements)):
        yield "\t\tcounter"
    if each.elements:
        elements = [element_text(element, each.type) for element in each.elements]
        yield f"\t\telements = {{ {', '.join(elements)} }}"
    yield "\t}"


def element_text(element: Json, kind: Json) -> str:
    """An element of a set of this type."""
    return value_text(plain(element), Style.QUOTED if kind == "ifname" else Style.PLAIN)


def _counts(element: Json) -> bool:
    return isinstance(element, dict) and "counter" in element.get("elem", ())


def _chain(chain: Chain) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.hook is not None:
        policy = f" policy {chain.policy};" if chain.policy else ""
        yield f"\t\ttype {chain.type} hook {chain.hook} priority {chain.priority};{policy}"
    for rule in chain.rules:
        yield f"\t\t{rule_text(rule.expressions, rule.comment)}"
    yield "\t}"
