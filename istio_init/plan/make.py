"""The plan of a whole namespace: from what is live in both backends and the routing to what is wanted."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.mesh.roles.recognise import BOTH_KINDS, MeshKind, keep_foreign, recognise
from istio_init.mesh.routing import Routing
from istio_init.netfilter.family import Family
from istio_init.plan import routing as routing_plan
from istio_init.plan.diff import diff
from istio_init.plan.model import BackendPlan, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.mesh.routing import LiveRouting


class Live:
    """What a namespace holds: rules by backend and family, and the routing. Rules are recognised when asked for.

    ``before`` is what it held when a run began: what was foreign then stays foreign, though the run's own chains now
    stand beside it and make it look like a rule of ours.
    """

    __slots__ = ("_before", "_recognised", "raw", "routing")

    def __init__(
        self, rules: Mapping[tuple[str, Family], RuleSet], routing: LiveRouting, before: Live | None = None
    ) -> None:
        self.raw = rules
        self.routing = routing
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
) -> Plan:
    """Plan the way from ``live`` to exactly the wanted rules in ``backend``, and none of ours in the others.

    ``rewrite`` plans to write what is already as wanted, too. ``owned`` are the kinds of pods whose routing may go,
    ``also`` the beginnings of the names of other chains that are to go.
    """
    nothing = {family: RuleSet(family) for family in Family}
    live_routing = routing_plan.ours(live.routing, live.rules.values(), owned)
    return Plan(
        _backend_plan(live, backend, {**nothing, **wanted}, rewrite=rewrite, also=also),
        tuple(_backend_plan(live, other, nothing, rewrite=False, also=also) for other in others),
        routing_plan.to_add(live.routing, wanted_routing),
        routing_plan.to_remove(live_routing, wanted_routing, live.routing),
    )


def _backend_plan(
    live: Live, backend: str, wanted: Mapping[Family, RuleSet], *, rewrite: bool, also: tuple[str, ...]
) -> BackendPlan:
    plans = [diff(live.of(backend, family), wanted[family], rewrite=rewrite, also=also) for family in Family]
    return BackendPlan(backend, tuple(plan for plan in plans if plan.edits or plan.changes))
