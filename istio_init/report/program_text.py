"""What came of programming a namespace, in one line."""

from __future__ import annotations

from istio_init.plan.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.plan.model import Plan
    from istio_init.stores.programmer import Done


def count(plan: Plan, kind: Kind) -> int:
    """How many rules of all backends and families a plan adds, removes, moves, keeps or leaves alone."""
    backends = (plan.rules, *plan.other_backends)
    return sum(change.kind is kind for each in backends for _, change in each.told())


def result_line(command: str, label: str, done: Done, *, verbose: bool = False) -> str:
    """For example ``pid 4711: applied (nft, ipv4): 18 added, 0 removed``."""
    families = ", ".join(family.family.value for family in done.plan.rules.families) or "no rules"
    where = f"({done.backend}, {families})"
    if done.plan.is_empty:
        verdict = "nothing to do" if command == "clean" else "as wanted already"
        line = f"{label}: {verdict} {where}"
    else:
        past = {"apply": "applied", "clean": "cleaned"}[command]
        verb = past if done.written else f"would {command}"
        kinds = [(Kind.ADD, "added"), (Kind.REMOVE, "removed"), (Kind.MOVE, "moved")]
        counts = [f"{count(done.plan, kind)} {name}" for kind, name in kinds if count(done.plan, kind)]
        if not counts:
            counts = ["routing only" if done.plan.rules.is_empty else "rules written again"]
        if foreign := count(done.plan, Kind.FOREIGN):
            counts.append(f"{foreign} foreign kept")
        line = f"{label}: {verb} {where}: {', '.join(counts)}"
    return f"{line}\n  through {done.means}" if verbose else line
