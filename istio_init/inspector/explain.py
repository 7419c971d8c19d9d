"""Puts a snapshot into words and values: mode, configuration, release, each rule's reason, drift, findings."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import Entry, RuleSet
from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.iptables.tables import Table
from istio_init.inspector.arguments import Arguments, arguments
from istio_init.inspector.drift import Drift, drift
from istio_init.inspector.findings import findings
from istio_init.inspector.findings.model import Finding, View
from istio_init.inspector.release import release_span
from istio_init.mesh.roles.catalogue import CATALOGUE
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours, resembles
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.config.model import Config
    from istio_init.dialects.role import Role


class Row(Value):
    """One rule, explained."""

    backend: str
    family: Family
    table: Table
    chain: str
    number: int
    entry: Entry
    foreign: bool
    resembles: Role | None = None
    """What an older release would have had the foreign rule for."""

    @property
    def text(self) -> str:
        """The rule as it was read."""
        return entry_text(self.entry)

    @property
    def role(self) -> Role | None:
        """Its role; None for a foreign or unknown rule."""
        return self.entry.role

    @property
    def why(self) -> str:
        """Why it exists, in one sentence."""
        if self.entry.role is not None:
            return CATALOGUE[self.entry.role].why
        if self.resembles is not None:
            return f"Foreign, as its table has no chain of Istio's; but: {CATALOGUE[self.resembles].why}"
        if self.foreign:
            return "Foreign: somebody else's rule."
        return "In a chain of Istio's, but of no kind that is known."

    @property
    def options(self) -> tuple[str, ...]:
        """The options that cause it."""
        return CATALOGUE[self.entry.role].options if self.entry.role is not None else ()


class Explanation(Value):
    """All that is said of a namespace. ``arguments`` is None where there is no sidecar's redirection."""

    snapshot: Snapshot
    mode: str
    backend: str
    families: tuple[Family, ...]
    arguments: Arguments | None
    dns_servers: tuple[str, ...]
    exact: bool
    release: str | None
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    drift: Drift | None = None

    @property
    def rules(self) -> dict[Family, RuleSet]:
        """The rule sets of the backend that holds the redirection."""
        return self.snapshot.of(self.backend)

    @property
    def facts(self) -> str:
        """What is there, in a line."""
        nothing = "no redirection, as far as the rules could be read" if self.snapshot.partial else "no redirection"
        facts = [{"none": nothing, "ambient": "ambient mesh"}.get(self.mode, f"sidecar, {self.mode}")]
        if self.families:
            facts += [self.backend, " and ".join(family.value for family in self.families)]
        if self.release:
            facts.append(f"rules as of {self.release}")
        return ", ".join(facts)

    @property
    def is_broken(self) -> bool:
        """Whether there is an error, or drift."""
        errors = any(finding.kind.severity.value == "error" for finding in self.findings)
        return errors or (self.drift is not None and not self.drift.is_equal)


def explain(snapshot: Snapshot, expected: Config | None = None) -> Explanation:
    """Explain a snapshot; with ``expected`` also how it differs from that configuration."""
    view = View(snapshot, expected)
    inferred = view.inferred
    return Explanation(
        snapshot=snapshot,
        mode=_mode(view),
        backend=view.backend,
        families=view.families,
        arguments=arguments(inferred.config) if inferred else None,
        dns_servers=tuple(map(str, inferred.around.dns_servers)) if inferred else (),
        exact=inferred.exact if inferred else False,
        release=release_span(view.rules) if inferred else None,
        rows=tuple(_rows(snapshot)),
        findings=findings(view),
        drift=drift(view, expected) if expected is not None else None,
    )


def _mode(view: View) -> str:
    if view.inferred is not None:
        return view.inferred.config.mode.value
    return "ambient" if view.ambient else "none"


def _rows(snapshot: Snapshot) -> Iterator[Row]:
    for (backend, family), rules in snapshot.rules.items():
        ours = {table for table, chain in rules.chains() if is_istio_chain(chain.name)}
        for table, chain, number, entry in rules.entries():
            foreign = not is_ours(chain.name, entry)
            older = resembles(table, chain.name, entry.rule) if ours and table not in ours else None
            yield Row(backend, family, table, chain.name, number, entry, foreign, older)
