"""What one store holds of a mesh: whose rules, for which families, and the configuration that they come from."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector import kept
from istio_init.inspector.infer import Inferred, infer, infer_native
from istio_init.inspector.infer_ambient import InferredAmbient, infer_ambient, infer_ambient_native
from istio_init.inspector.release import ambient_release_span, release_span
from istio_init.mesh.mode import Mode, mode_of
from istio_init.mesh.native import AMBIENT, SIDECAR
from istio_init.mesh.roles.recognise import is_istio_chain
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.mesh.routing import LiveRouting
    from istio_init.netfilter.family import Family
    from istio_init.observe.snapshot import Snapshot


class Holding(Value):
    """Istio's rules in one store.

    Both configurations are there where both modes left rules; none where what is left is too little to tell.
    """

    store: RuleStore
    rules: Mapping[Family, RuleSet]
    chains: tuple[str, ...]
    """The names of its chains of Istio's, each once."""

    size: int
    """How many of them there are, in all families and tables."""

    sidecar: Inferred | None = None
    ambient: InferredAmbient | None = None

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes whose rules are there."""
        return tuple(mode_of(each.config) for each in (self.sidecar, self.ambient) if each is not None)

    @property
    def release(self) -> str:
        """The releases that program such rules, in words."""
        span = ambient_release_span if self.sidecar is None and self.ambient is not None else release_span
        return span(self.rules, native=self.store is RuleStore.NATIVE)


def holding_of(snapshot: Snapshot, store: RuleStore) -> Holding | None:
    """What a store holds of Istio's; None where it holds nothing."""
    rules = snapshot.of(store)
    names = [chain.name for each in rules.values() for _, chain in each.chains() if is_istio_chain(chain.name)]
    if not names:
        return None
    routing = snapshot.routing if snapshot.is_live else None
    chains = tuple(sorted(set(names)))
    if store is RuleStore.NATIVE:
        raised = {each.prefix: each for each in snapshot.raised}
        of_sidecar, of_ambient = raised.get(SIDECAR), raised.get(AMBIENT)
        return Holding(
            store,
            rules,
            chains,
            len(names),
            None if of_sidecar is None else infer_native(of_sidecar, routing),
            None if of_ambient is None else infer_ambient_native(of_ambient),
        )
    sidecar, ambient = _inferred(tuple(rules), kept.Same(*rules.values()), routing)
    return Holding(store, rules, chains, len(names), sidecar, ambient)


@lru_cache(maxsize=kept.MOST)
def _inferred(
    families: tuple[Family, ...], sets: kept.Same, routing: LiveRouting | None
) -> tuple[Inferred | None, InferredAmbient | None]:
    rules = dict(zip(families, cast("tuple[RuleSet, ...]", sets.things), strict=True))
    return infer(rules, routing), infer_ambient(rules)
