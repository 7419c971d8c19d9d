"""Whether the text of a save is what the kernel holds: names are chosen by others and could be taken for rules."""

from __future__ import annotations

from istio_init.dialects.iptables.quoting import is_one_name
from istio_init.dialects.iptables.save import SaveError
from istio_init.dialects.iptables.tables import XTABLES
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import ToolError
from istio_init.mesh.roles.recognise import is_istio_chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.system.kernel_names import Told

FIX = "see nft list ruleset or iptables-legacy-save; a rule or chain there is made to deceive"


class DeceptiveError(ToolError):
    """The text of a save is not what the kernel holds."""


ATTEMPTS = 5
"""Readings; another process may write between the text and the question."""


def genuine(
    read: Callable[[], RuleSet],
    store: RuleStore,
    known: Mapping[str, object] | None = None,
    *,
    partial: Collection[str] = (),
) -> RuleSet:
    """What is read, if the kernel holds rules and names like these; read again where they changed meanwhile.

    Legacy rules whose texts are all ``known`` are not asked about: their reader knows them by their structure. Where
    nothing is printed of a table, the kernel is asked always. Of ``partial`` tables, which reading may add to, chains
    that are not Istio's may be missing.

    Raises:
        DeceptiveError: the text is not what the kernel holds.
        ToolError: it cannot be read, or the kernel does not tell.
    """
    why = ""
    for _ in range(ATTEMPTS):
        try:
            rules = read()
        except SaveError as error:
            raise DeceptiveError(f"what {store.value} prints cannot be read back: {error}", fix=FIX) from None
        try:
            left_out = _left_out(rules) if store is RuleStore.LEGACY else ()
            is_asked = store is not RuleStore.LEGACY or left_out or not known
            if not is_asked and all(entry.text in (known or ()) for *_, entry in rules.entries()):
                return rules
            why = next(_differences(rules, store, left_out, partial), "")
        except OSError as error:
            raise ToolError(
                f"the kernel does not tell what rules of {store.value} there are: {error.strerror}"
            ) from None
        if not why:
            return rules
    raise DeceptiveError(f"what {store.value} prints is not what the kernel holds: {why}", fix=FIX)


def _left_out(rules: RuleSet) -> tuple[str, ...]:
    """Tables that the kernel has and nothing is printed of: the programs do not say where that failed."""
    from istio_init.system.xtables import existing_tables

    return tuple(sorted(table.value for table in existing_tables(rules.family) if table not in rules.tables))


def _differences(
    rules: RuleSet, store: RuleStore, left_out: tuple[str, ...], partial: Collection[str]
) -> Iterator[str]:
    from istio_init.system import kernel_names

    for name in left_out:
        if any(kernel_names.of_legacy(rules.family, name).chains.values()):
            yield f"table {name} has rules, and none is printed"
    of_nft = kernel_names.of_nft(rules.family) if store is RuleStore.NFT else {}
    printed = {table.value for table in rules.tables}
    for name, held in of_nft.items():
        is_others = name in partial and not any(map(is_istio_chain, held.chains))
        if name in XTABLES and name not in printed and any(held.chains.values()) and not is_others:
            yield f"table {name} has rules, and none is printed"
    for table, chains in rules.tables.items():
        if store is RuleStore.NFT:
            told = of_nft.get(table.value, kernel_names.NOTHING)  # A table may be there without any chain.
        else:
            told = kernel_names.of_legacy(rules.family, table.value)
        printed_rules = {name: len(chain.entries) for name, chain in chains.items()}
        if why := _difference(printed_rules, told, is_partial=table.value in partial):
            yield f"table {table.value}: {why}"


def _difference(read: Mapping[str, int], told: Told, *, is_partial: bool) -> str | None:
    for name in told.interfaces:
        if not is_one_name(name):
            return f"a rule tests the interface {name!r}"
    for name in told.unprinted:
        return f"a rule of the chain {name!r} has more to it than is printed"
    for name in told.chains:
        if name not in read and (is_istio_chain(name) or not is_partial):
            return f"the chain {name!r} is not printed so"
    for name, printed in read.items():
        if printed != (count := told.chains.get(name, 0)):
            return f"the chain {name!r} has {count} rules, and {printed} are printed"
    return None
