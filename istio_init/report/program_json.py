"""What came of programming a namespace, as JSON values; see istio_init/schemas/apply.schema.json."""

from __future__ import annotations

from istio_init.errors import error_json
from istio_init.plan.model import Kind
from istio_init.report.program_text import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.errors import IstioInitError
    from istio_init.mesh.routing import Routing
    from istio_init.plan.model import Plan
    from istio_init.stores.programmer import Done

PAST = {"apply": "applied", "clean": "cleaned"}


def result_json(
    command: str,
    label: str,
    done: Done | None,
    failure: IstioInitError | None,
    warnings: tuple[str, ...],
) -> dict[str, object]:
    """The result of one target."""
    result: dict[str, object] = {"target": label, "warnings": list(warnings), "error": None}
    if failure is not None:
        return {**result, "status": "failed", "error": error_json(failure, failure.exit_code)}
    assert done is not None
    plan = done.plan
    status = PAST[command] if done.written else "unchanged" if plan.is_empty else "planned"
    return {
        **result,
        "status": status,
        "backend": done.backend,
        "families": [family.family.value for family in plan.rules.families],
        "counts": {kind.value: count(plan, kind) for kind in Kind},
        "changes": _changes(plan),
        "routing": {"add": _routing(plan.add_routing), "remove": _routing(plan.remove_routing)},
    }


def _changes(plan: Plan) -> list[dict[str, object]]:
    return [
        {
            "change": change.kind.value,
            "backend": backend.backend,
            "family": family,
            "table": change.table.value,
            "chain": change.chain,
            "text": change.text,
            "role": change.role.value if change.role else None,
        }
        for backend in (plan.rules, *plan.other_backends)
        for family, change in backend.told()
        if change.kind is not Kind.KEEP
    ]


def _routing(routing: Routing) -> list[dict[str, object]]:
    routes: list[dict[str, object]] = [
        {
            "kind": "mark-route",
            "family": route.family.value,
            "mark": route.mark,
            "mask": route.mask,
            "table": route.table,
        }
        for route in routing.mark_routes
    ]
    if routing.passthrough_ipv6:
        routes.append({"kind": "address", "family": "ipv6", "address": "::6/128", "interface": "lo"})
    return routes
