"""What a plan hands to the kernel, as a shell would: the restore programs' input and the routing commands."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.plan.restore import render_restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.mesh.routing import Routing
    from istio_init.plan.model import BackendPlan, Plan

PROGRAM = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
IP_FLAG = {Family.IPV4: "-4", Family.IPV6: "-6"}


def handover(plan: Plan) -> str:
    """Shell text that does what committing the plan does; empty where nothing is to be done."""
    lines = [*routing_lines("add", plan.add_routing), *routing_lines("del", plan.remove_routing)]
    for backend in (plan.rules, *plan.other_backends):
        lines += _rules(backend)
    return "".join(f"{line}\n" for line in lines)


def _rules(plan: BackendPlan) -> list[str]:
    lines = [line for script in plan.scripts for line in ("nft -f - <<'END'", *script.splitlines(), "END")]
    for family in plan.families:
        if family.edits:
            lines += _here(f"{PROGRAM[family.family]}-{plan.backend}-restore --noflush", render_restore(family.edits))
    return lines


def _here(command: str, text: str) -> list[str]:
    """A here-document that no line of the text ends."""
    lines, end = text.split("\n"), "END"
    while end in lines:
        end += "_"
    return [f"{command} <<'{end}'", *lines[: -1 if not lines[-1] else None], end]


def routing_lines(verb: str, routing: Routing) -> list[str]:
    """Commands of ip(8) that add the routing, or delete it (``del``)."""
    lines = []
    for route in routing.mark_routes:
        flag = IP_FLAG[route.family]
        if route.has_route and (route.family, route.table) not in routing.shared_tables:
            lines.append(f"ip {flag} route {verb} local default dev lo table {route.table}")
        place = "" if route.preference is None else f" pref {route.preference}"
        lines.append(f"ip {flag} rule {verb} fwmark {route.selector} lookup {route.table}{place}")
    if routing.passthrough_ipv6:
        lines.append(f"ip -6 addr {verb} ::6/128 dev lo")
    return lines
