"""Puts a snapshot into words and values: mode, configuration, release, each rule's reason, drift, findings."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.arguments import Arguments, arguments, is_accepted
from istio_init.inspector.asked import Asked, Held, held
from istio_init.inspector.drift import Drift, drift
from istio_init.inspector.findings import SEVERITIES, findings
from istio_init.inspector.findings.model import Finding, Severity, View
from istio_init.inspector.flow import HookFlow, flow
from istio_init.inspector.impact import Impact, impacts
from istio_init.inspector.release import is_older
from istio_init.inspector.remedies import Remedies
from istio_init.inspector.rows import Row, rows
from istio_init.inspector.stores import StoreHeld, stores
from istio_init.mesh.mode import Mode
from istio_init.mesh.neighbours import Neighbour
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.ambient import AmbientConfig
    from istio_init.config.model import Config


class Explanation(Value):
    """All that is said of a namespace. ``arguments`` is None where there is no redirection.

    Nor are there any where what was read out of rules made by hand is nothing that could be asked for.
    """

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
    impacts: tuple[Impact, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    """Others whose rules are here, too."""

    drift: Drift | None = None
    ignored: tuple[str, ...] = ()
    """The codes of findings that were left out, as was asked for."""

    repair: str | None = None
    """The command that makes the rules those of the expected configuration, where one is safe and any is needed."""

    held: Held | None = None
    """What the pod asked for, where that is known and nothing else is expected; drift is from it then."""

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
        if meshes := [each.name for each in self.neighbours if each.is_mesh]:
            nothing = f"no redirection of Istio's, but of {' and '.join(meshes)}"
        named = {Mode.NONE: nothing, Mode.AMBIENT: "ambient mesh"}
        facts = [named.get(self.mode, f"sidecar, {self.mode.value}")]
        if self.families:
            facts += [self.backend.value, " and ".join(family.value for family in self.families)]
        if self.release:
            facts.append(f"rules as of {self.release}")
        return ", ".join(facts)

    @property
    def reserve(self) -> str | None:
        """What is to be known of the arguments, where they do not give the live rules."""
        if self.exact:
            return None
        if self.release is not None and is_older(self.release) and not self.is_broken_from(Severity.ERROR):
            return "Today's release of Istio writes other rules for these arguments."
        return "These arguments come closest, but give other rules than those that are live."

    def flow(self, family: Family) -> tuple[HookFlow, ...]:
        """The way of a family's traffic through the rules of the store that holds the redirection."""
        is_native = self.backend is RuleStore.NATIVE and self.snapshot.raised
        return flow(self.rules[family], self.snapshot.raised[0] if is_native else None)

    def is_broken_from(self, least: Severity) -> bool:
        """Whether there is a finding at least that severe, or drift."""
        found = any(SEVERITIES.index(finding.severity) <= SEVERITIES.index(least) for finding in self.findings)
        return found or (self.drift is not None and not self.drift.is_equal)


def explain(
    snapshot: Snapshot,
    expected: Config | AmbientConfig | None = None,
    *,
    asked: Asked | None = None,
    ignore: frozenset[str] = frozenset(),
    with_impacts: bool = True,
) -> Explanation:
    """Explain a snapshot; with ``expected`` also how it differs from that configuration, else from what was asked for.

    Findings whose codes are in ``ignore`` are left out. What becomes of all traffic takes a map of each family; for a
    list of many namespaces ordinary connections do.
    """
    view = View(snapshot, expected)
    told = held(view, asked) if asked is not None and expected is None else None
    if told is not None and told.is_certain:
        view.asked = told.config
    inferred, ambient = view.inferred, view.ambient
    found = inferred or ambient
    given = None
    if inferred is not None:
        given = arguments(inferred.config) if inferred.exact or is_accepted(inferred.config) else None
    elif ambient is not None:
        given = arguments(ambient.config)
    explained = tuple(rows(snapshot))
    remedies, every = Remedies(view), findings(view)
    drifted = drift(view, expected) if expected is not None else told.drift if told is not None else None
    return Explanation(
        snapshot=snapshot,
        mode=view.mode,
        backend=view.backend,
        families=view.families,
        arguments=given,
        dns_servers=tuple(map(str, inferred.around.dns_servers)) if inferred else (),
        exact=found is not None and found.exact,
        release=view.release,
        stores=stores(snapshot, explained),
        rows=explained,
        findings=tuple(remedies.of(each) for each in every if each.kind.code not in ignore),
        ignored=tuple(dict.fromkeys(each.kind.code for each in every if each.kind.code in ignore)),
        impacts=impacts(view, is_mapped=with_impacts),
        neighbours=view.neighbours if with_impacts else (),
        drift=drifted,
        repair=remedies.repair() if drifted is not None and not drifted.is_equal else None,
        held=told,
    )
