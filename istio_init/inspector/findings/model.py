"""What a finding is, and the shared view of a namespace that checks look at."""

from __future__ import annotations

from enum import Enum

from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.role import Role
from istio_init.inspector.infer import Inferred, infer
from istio_init.mesh.roles.recognise import is_istio_chain
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.value import Value
from istio_init.wording.words import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.config.model import Config
    from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet
    from istio_init.trace.engine import Hop


class Severity(Enum):
    """How bad it is: ``error``, traffic is lost, loops or escapes now; ``warning``, it will, or nobody can tell."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Kind(Value):
    """A kind of problem: its stable code, and what is said of it whatever the evidence."""

    code: str
    severity: Severity
    title: str
    why: str
    fix: str


class Finding(Value):
    """A problem that was found, with the actual rules, processes, addresses and counters that show it."""

    kind: Kind
    evidence: tuple[str, ...]


class Place(Value):
    """A rule of ours or of others at its place, for evidence."""

    backend: str
    family: Family
    table: Table
    chain: Chain
    number: int
    entry: Entry

    def __str__(self) -> str:
        where = f"{self.family.value} {self.table.value} ({self.backend})"
        counters = self.entry.counters
        seen = f"  [{packets(counters.packets)}]" if counters else ""
        return f"{where}: {self.chain.name} {self.number}: {entry_text(self.entry)}{seen}"


def place_of(hop: Hop, backend: str, rules: RuleSet) -> Place:
    """The place of a rule that a traced packet met."""
    chain = rules.tables[hop.table][hop.rule.chain]
    return Place(backend, rules.family, hop.table, chain, hop.rule.number, hop.rule.entry)


class View:
    """A snapshot with what several checks need: the sidecar's rules, by backend, and what they come from.

    ``expected`` is the configuration that the rules are compared with, if there is one.
    """

    def __init__(self, snapshot: Snapshot, expected: Config | None = None) -> None:
        self.snapshot = snapshot
        self.expected = expected
        self.places = list(_places(snapshot))
        self.backend = _main_backend(snapshot)
        rules = snapshot.of(self.backend)
        self.inferred: Inferred | None = infer(rules, snapshot.routing if snapshot.is_live else None)
        self.ambient = any(role.value.startswith("ambient-") for role in self._roles())

    def _roles(self) -> set[Role]:
        return {place.entry.role for place in self.places if place.entry.role is not None}

    @property
    def rules(self) -> dict[Family, RuleSet]:
        """The rule sets of the backend that holds the redirection."""
        return self.snapshot.of(self.backend)

    @property
    def captures(self) -> bool:
        """Whether a sidecar's redirection is there, whole or not."""
        return self.inferred is not None

    @property
    def families(self) -> tuple[Family, ...]:
        """The families with chains of Istio's."""
        return tuple(family for family in Family if family in self.rules and any(_chains(self.rules[family])))

    def with_role(self, *roles: Role, family: Family | None = None, table: Table | None = None) -> list[Place]:
        """The rules of these roles, in the main backend."""
        return [
            place
            for place in self.places
            if place.entry.role in roles
            and place.backend == self.backend
            and family in (None, place.family)
            and table in (None, place.table)
        ]


def _chains(rules: RuleSet) -> Iterator[Chain]:
    return (chain for _, chain in rules.chains() if is_istio_chain(chain.name))


def _places(snapshot: Snapshot) -> Iterator[Place]:
    for (backend, family), rules in snapshot.rules.items():
        for table, chain, number, entry in rules.entries():
            yield Place(backend, family, table, chain, number, entry)


def _main_backend(snapshot: Snapshot) -> str:
    """The backend with most chains of Istio's, or where there are none with most rules, or nft."""
    counts = {
        backend: (
            sum(1 for rules in snapshot.of(backend).values() for _ in _chains(rules)),
            sum(1 for rules in snapshot.of(backend).values() for _ in rules.entries()),
        )
        for backend in ("nft", "legacy")
    }
    return max(counts, key=lambda backend: counts[backend])
