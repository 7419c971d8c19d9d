"""Puts a snapshot into words and values: mode, configuration, release, each rule's reason, drift, findings."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.arguments import Arguments, arguments
from istio_init.inspector.drift import Drift, drift
from istio_init.inspector.findings import findings
from istio_init.inspector.findings.model import Finding, View
from istio_init.inspector.flow import HookFlow, flow
from istio_init.inspector.rows import Row, rows
from istio_init.inspector.stores import StoreHeld, stores
from istio_init.mesh.mode import Mode
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.ambient import AmbientConfig
    from istio_init.config.model import Config


class Explanation(Value):
    """All that is said of a namespace. ``arguments`` is None where there is no redirection."""

    snapshot: Snapshot
    mode: Mode
    backend: RuleStore
    families: tuple[Family, ...]
    arguments: Arguments | None
    dns_servers: tuple[str, ...]
    exact: bool
    release: str | None
    stores: tuple[StoreHeld, ...]
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    drift: Drift | None = None

    @property
    def rules(self) -> dict[Family, RuleSet]:
        """The rule sets of the backend that holds the redirection."""
        return self.snapshot.of(self.backend)

    @property
    def command(self) -> tuple[str, ...]:
        """What takes the arguments."""
        return ("istio-init", "apply") if self.mode is Mode.AMBIENT else ("istio-iptables",)

    @property
    def facts(self) -> str:
        """What is there, in a line."""
        nothing = "no redirection, as far as the rules could be read" if self.snapshot.partial else "no redirection"
        named = {Mode.NONE: nothing, Mode.AMBIENT: "ambient mesh"}
        facts = [named.get(self.mode, f"sidecar, {self.mode.value}")]
        if self.families:
            facts += [self.backend.value, " and ".join(family.value for family in self.families)]
        if self.release:
            facts.append(f"rules as of {self.release}")
        return ", ".join(facts)

    def flow(self, family: Family) -> tuple[HookFlow, ...]:
        """The way of a family's traffic through the rules of the store that holds the redirection."""
        is_native = self.backend is RuleStore.NATIVE and self.snapshot.raised
        return flow(self.rules[family], self.snapshot.raised[0] if is_native else None)

    @property
    def is_broken(self) -> bool:
        """Whether there is an error, or drift."""
        errors = any(finding.kind.severity.value == "error" for finding in self.findings)
        return errors or (self.drift is not None and not self.drift.is_equal)


def explain(snapshot: Snapshot, expected: Config | AmbientConfig | None = None) -> Explanation:
    """Explain a snapshot; with ``expected`` also how it differs from that configuration."""
    view = View(snapshot, expected)
    inferred, ambient = view.inferred, view.ambient
    found = inferred or ambient
    explained = tuple(rows(snapshot))
    return Explanation(
        snapshot=snapshot,
        mode=view.mode,
        backend=view.backend,
        families=view.families,
        arguments=arguments(found.config) if found else None,
        dns_servers=tuple(map(str, inferred.around.dns_servers)) if inferred else (),
        exact=found is not None and found.exact,
        release=view.release,
        stores=stores(snapshot, explained),
        rows=explained,
        findings=findings(view),
        drift=drift(view, expected) if expected is not None else None,
    )
