"""A plan as lines of text: what is added, removed, moved, and kept."""

from __future__ import annotations

from istio_init.plan.model import NATIVE, Kind
from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.mesh.routing import Routing
    from istio_init.plan.model import BackendPlan, Plan

SIGNS = {Kind.ADD: "+", Kind.REMOVE: "-", Kind.MOVE: "~", Kind.KEEP: "=", Kind.FOREIGN: " "}
NOTES = {Kind.MOVE: "moved", Kind.FOREIGN: "foreign, kept"}


def plan_lines(plan: Plan, *, kept: bool = True) -> list[str]:
    """One line a change, under a heading for each family, backend and table. ``kept`` shows what stays, too."""
    return [
        *_routing_lines("+", plan.add_routing),
        *_routing_lines("-", plan.remove_routing),
        *_backend_lines(plan.rules, kept=kept),
        *(line for other in plan.other_backends for line in _backend_lines(other, kept=kept)),
    ]


def _backend_lines(plan: BackendPlan, *, kept: bool) -> Iterator[str]:
    heading = ""
    for family, change in plan.told():
        if not kept and change.kind in (Kind.KEEP, Kind.FOREIGN):
            continue
        table = f"{family} {change.table.value} ({plan.backend})"
        if table != heading:
            heading = table
            yield heading
        why = NOTES.get(change.kind) or (change.role.value if change.role else "")
        note = f"  # {why}" if why else ""
        command = "" if plan.backend == NATIVE else "-A "
        yield f"  {SIGNS[change.kind]} {command}{visible(f'{change.chain} {change.text}')}{note}"


def _routing_lines(sign: str, routing: Routing) -> Iterator[str]:
    for route in routing.mark_routes:
        yield f"  {sign} {route}"
    if routing.passthrough_ipv6:
        yield f"  {sign} ipv6 address ::6/128 on lo"
