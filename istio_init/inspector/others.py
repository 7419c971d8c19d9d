"""Rules that the kernel asks beside those that are looked at."""

from __future__ import annotations

from istio_init.observe.snapshot import NATIVE_TABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.observe.snapshot import Snapshot


def other_rules(snapshot: Snapshot, backend: str) -> Iterator[str]:
    """The rules of the other backend, and the native nftables chains at a hook."""
    for (name, family), rules in snapshot.rules.items():
        count = sum(1 for _ in rules.entries())
        if name != backend and count:
            yield f"{family.value}: the {count} rules of {name} count, too; only those of {backend} are looked at"
    for chain in snapshot.native:
        is_ours = chain.table.startswith(NATIVE_TABLES)
        if chain.hook is not None and not is_ours and (chain.rules or chain.drops):
            what = f"{chain.family} {chain.table} {chain.name}"
            yield f"the nftables chain {what} at hook {chain.hook} counts, too, and is not looked at"
