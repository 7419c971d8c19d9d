"""The plan of a whole namespace: from what is live in both backends and the routing to what is wanted."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.mesh.roles.recognise import BOTH_KINDS, MeshKind, keep_foreign, recognise
from istio_init.mesh.routing import Routing
from istio_init.netfilter.family import Family
from istio_init.plan import routing as routing_plan
from istio_init.plan.diff import diff
from istio_init.plan.model import NATIVE, BackendPlan, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.nft.ruleset import Table
    from istio_init.mesh.routing import LiveRouting


class Live:
    """What a namespace holds: rules by backend and family, and the routing. Rules are recognised when asked for.

    ``native`` are the tables of native nftables that are Istio's by their names; the run itself may have written them.
    ``before`` is what it held when a run began: what was foreign then stays foreign, though the run's own chains now
    stand beside it and make it look like a rule of ours.
    """

    __slots__ = ("_before", "_recognised", "is_written", "native", "raw", "routing")

    def __init__(
        self,
        rules: Mapping[tuple[str, Family], RuleSet],
        routing: LiveRouting,
        before: Live | None = None,
        native: tuple[Table, ...] = (),
        *,
        is_written: bool = False,
    ) -> None:
        self.raw = rules
        self.routing = routing
        self.native = native
        self.is_written = is_written
        self._before = before
        self._recognised: dict[tuple[str, Family], RuleSet] = {}

    @property
    def rules(self) -> Mapping[tuple[str, Family], RuleSet]:
        """The rules with their roles."""
        if not self._recognised:
            self._recognised = {key: self._recognise(key, each) for key, each in self.raw.items()}
        return self._recognised

    def _recognise(self, key: tuple[str, Family], rules: RuleSet) -> RuleSet:
        recognised = recognise(rules)
        if self._before is None or key not in self._before.raw:
            return recognised
        return keep_foreign(recognised, self._before.rules[key])

    def owning(self) -> list[RuleSet]:
        """All rules that tell whose routing is, native ones as iptables would write them."""
        found = list(self.rules.values())
        if self.native:
            from istio_init.dialects.nft.ruleset import Ruleset
            from istio_init.mesh.native import raised
            from istio_init.mesh.native_names import PREFIXES

            for prefix in PREFIXES.values():
                native = raised(Ruleset(self.native), prefix)
                found += [] if native is None else native.captured.values()
        return found

    def of(self, backend: str, family: Family) -> RuleSet:
        """The rules of one backend and family."""
        return self.rules.get((backend, family)) or RuleSet(family)


def make_plan(
    live: Live,
    backend: str,
    others: tuple[str, ...],
    wanted: Mapping[Family, RuleSet],
    wanted_routing: Routing,
    *,
    rewrite: bool = False,
    owned: frozenset[MeshKind] = BOTH_KINDS,
    also: tuple[str, ...] = (),
    native: tuple[Table, ...] = (),
) -> Plan:
    """Plan the way from ``live`` to exactly the wanted rules in ``backend``, and none of ours in the others.

    ``rewrite`` plans to write what is already as wanted, too. ``owned`` are the kinds of pods whose routing may go,
    ``also`` the beginnings of the names of other chains that are to go. ``native`` are the wanted tables of native
    nftables, where that is the backend; then ``wanted`` tells only which families are captured.
    """
    nothing = {family: RuleSet(family) for family in Family}
    live_routing = routing_plan.ours(live.routing, live.owning(), owned)
    left = [_backend_plan(live, other, nothing, rewrite=False, also=also) for other in others]
    if backend == NATIVE:
        rules = _native_plan(live, native, tuple(wanted), owned, rewrite=rewrite)
    else:
        rules = _backend_plan(live, backend, {**nothing, **wanted}, rewrite=rewrite, also=also)
        left += [_native_plan(live, (), (), owned, rewrite=False)] if live.native else []
    return Plan(
        rules,
        tuple(left),
        routing_plan.to_add(live.routing, wanted_routing),
        routing_plan.to_remove(live_routing, wanted_routing, live.routing),
    )


def _native_plan(
    live: Live, wanted: tuple[Table, ...], families: tuple[Family, ...], owned: frozenset[MeshKind], *, rewrite: bool
) -> BackendPlan:
    from istio_init.mesh.native_names import PREFIXES
    from istio_init.plan.native import native_plan

    prefixes = tuple([PREFIXES[kind.value] for kind in owned])
    ours = tuple([table for table in live.native if table.name.startswith(prefixes)])
    return native_plan(ours, wanted, families, rewrite=rewrite, is_written=live.is_written)


def _backend_plan(
    live: Live, backend: str, wanted: Mapping[Family, RuleSet], *, rewrite: bool, also: tuple[str, ...]
) -> BackendPlan:
    plans = [diff(live.of(backend, family), wanted[family], rewrite=rewrite, also=also) for family in Family]
    return BackendPlan(backend, tuple(plan for plan in plans if plan.edits or plan.changes))
