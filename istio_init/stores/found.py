"""What a namespace holds of ours, in a line: what a run that was killed left to the next one."""

from __future__ import annotations

import time

from istio_init.mesh.roles.recognise import is_istio_chain, is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.plan.make import Live
    from istio_init.plan.model import Plan


def found(began: float, live: Live, plan: Plan) -> str:
    """The line; ``plan`` is the way from there."""
    when = time.strftime("%H:%M:%S", time.gmtime(began))
    held = "; ".join(_held(live)) or "no rules of ours"
    rest = "and nothing was missing" if plan.is_empty else "and this run goes on from there"
    return f"a run that began at {when} UTC was killed before it ended: found {held}, {rest}"


def _held(live: Live) -> Iterator[str]:
    for (store, family), rules in live.rules.items():
        if names := _tables(rules):
            yield f"{', '.join(names)} in {store} (IPv{family.value[-1]})"
    if live.native:
        yield f"{', '.join(table.name for table in live.native)} in nftables"


def _tables(rules: RuleSet) -> list[str]:
    """The tables that hold something of ours."""
    return [
        table.value
        for table, chains in rules.tables.items()
        if any(is_istio_chain(name) or any(is_ours(name, each) for each in chains[name].entries) for name in chains)
    ]
