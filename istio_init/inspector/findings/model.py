"""What a finding is, and the shared view of a namespace that checks look at."""

from __future__ import annotations

from enum import Enum
from functools import cached_property

from istio_init.config.model import Config
from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.nft.text import rule_text
from istio_init.dialects.role import Role
from istio_init.dialects.rule_store import IPTABLES, RuleStore
from istio_init.inspector.holdings import holding_of
from istio_init.inspector.release import is_older
from istio_init.mesh.mode import Mode, mode_of
from istio_init.mesh.native import AMBIENT, SIDECAR, Spot
from istio_init.mesh.neighbours import neighbours
from istio_init.mesh.policy import ambient, merged, native, sidecar
from istio_init.mesh.roles.recognise import is_istio_chain
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.value import Value
from istio_init.wording.words import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    from istio_init.config.ambient import AmbientConfig
    from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet
    from istio_init.inspector.infer import Inferred
    from istio_init.inspector.infer_ambient import InferredAmbient
    from istio_init.mesh.neighbours import Neighbour


class Severity(Enum):
    """How bad it is: ``error``, traffic is lost, loops or escapes now; ``warning``, it will, or it is undecidable."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class FindingKind(Value):
    """A kind of problem: its stable code, and what is said of it whatever the evidence.

    ``fix`` is what to do where nothing more is known of the pod: `istio_init.inspector.remedies` says it of one.
    """

    code: str
    severity: Severity
    title: str
    why: str
    fix: str


class Shown(str):
    """Evidence with a command that shows it: both are the text, and ``said`` and ``command`` each by itself."""

    said: str
    command: str

    def __new__(cls, said: str, command: str) -> Self:
        """The text of both."""
        made = super().__new__(cls, f"{said}: {command}")
        made.said, made.command = said, command
        return made

    def __reduce__(self) -> tuple[type[Shown], tuple[str, str]]:
        """For pickle, as the text of both does not tell them apart."""
        return type(self), (self.said, self.command)


class Finding(Value):
    """A problem that was found, with the actual rules, processes, addresses and counters that show it."""

    kind: FindingKind
    evidence: tuple[str, ...]
    fix: str = ""
    """What to do in this pod."""

    commands: tuple[str, ...] = ()
    """What of that is a command: whole, on one line, for this namespace, and safe in a pod of this kind."""

    worse: Severity | None = None
    """Its severity where the traffic that is lost or escapes makes it another than its kind's."""

    @property
    def severity(self) -> Severity:
        """How bad it is here."""
        return self.kind.severity if self.worse is None else self.worse


class RuleAt(Value):
    """A rule of ours or of others at its place, for evidence."""

    backend: RuleStore
    family: Family
    table: Table
    chain: Chain
    number: int
    entry: Entry
    native: str | None = None
    """The rule of native tables that it was raised from, at its place, as nft prints it."""

    def __str__(self) -> str:
        if self.native is not None:
            return self.native + (f"  [{packets(self.entry.counters.packets)}]" if self.entry.counters else "")
        where = f"{self.family.value} {self.table.value} ({self.backend.value})"
        counters = self.entry.counters
        seen = f"  [{packets(counters.packets)}]" if counters else ""
        return f"{where}: {self.chain.name} {self.number}: {entry_text(self.entry)}{seen}"


ASKED_FOR = "the pod asked for it, by its own word"


class View:
    """A snapshot with what several checks need: the rules of the mesh, by store, and what they come from.

    Where several stores hold some, the main one is looked at; ``holdings`` has all. ``expected`` is the configuration
    that the rules are compared with, if there is one.
    """

    def __init__(self, snapshot: Snapshot, expected: Config | AmbientConfig | None = None) -> None:
        self.snapshot = snapshot
        self.expected = expected
        self.asked: Config | AmbientConfig | None = None
        """What the pod says that it asked for. It makes commands, and takes no finding away."""
        self._by_place: dict[tuple[RuleStore, Family, Table, str, int], RuleAt] | None = None
        self.holdings = tuple(each for store in RuleStore if (each := holding_of(snapshot, store)) is not None)
        self.main = max(self.holdings, key=lambda each: each.size, default=None)
        self.backend = _busiest(snapshot) if self.main is None else self.main.store

    @cached_property
    def places(self) -> list[RuleAt]:
        """Every rule of iptables' stores and of Istio's native tables, where it stands."""
        return list(_places(self.snapshot))

    @cached_property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """Others whose rules are here."""
        return tuple(neighbours(self.snapshot.netfilter.tables))

    @property
    def meshes(self) -> tuple[Neighbour, ...]:
        """Other meshes among them."""
        return tuple(each for each in self.neighbours if each.is_mesh)

    @property
    def inferred(self) -> Inferred | None:
        """The sidecar's configuration behind the rules; None where there is none, or it cannot be told."""
        found = self.main.sidecar if self.main is not None else None
        if found is None or found.literal is None or found.literal not in (self.expected, self.asked):
            return found
        return found.replace(config=found.literal, exact=True, literal=None)

    @property
    def ambient(self) -> InferredAmbient | None:
        """The configuration of a pod in an ambient mesh; None where the rules are a sidecar's."""
        return self.main.ambient if self.main is not None and self.main.sidecar is None else None

    @property
    def ambient_families(self) -> tuple[Family, ...]:
        """The families that an ambient pod's rules capture."""
        return self.ambient.config.families if self.ambient is not None else ()

    @property
    def mode(self) -> Mode:
        """How traffic is captured."""
        found = self.inferred or self.ambient
        return mode_of(found.config if found is not None else None)

    @property
    def release(self) -> str | None:
        """The releases that program such rules; None where no configuration is known."""
        return self.main.release if self.main is not None and self.mode is not Mode.NONE else None

    @property
    def is_older(self) -> bool:
        """Whether an older release than today's programmed the rules."""
        return self.release is not None and is_older(self.release)

    @property
    def rules(self) -> dict[Family, RuleSet]:
        """The rule sets of the store that holds the redirection."""
        return self.snapshot.of(self.backend)

    @property
    def meant(self) -> Mapping[Family, RuleSet]:
        """The rules that the configuration behind the live ones means, as their store writes them, by family.

        Of native rules only those of the families that the configuration captures.
        """
        native_policy = merged if any(each.is_ours for each in self.snapshot.raised) else native
        if (found := self.inferred) is not None:
            write = native_policy.sidecar_rules if self.backend is RuleStore.NATIVE else sidecar.rules
            built = write(found.config, found.around)
            return {family: built[family] for family in built if family in found.around.families}
        if (other := self.ambient) is not None:
            built = (native_policy.ambient_rules if self.backend is RuleStore.NATIVE else ambient.rules)(other.config)
            return {family: built[family] for family in other.config.families}
        return {}

    def asked_for(self, is_it: Callable[[Config], bool]) -> list[str]:
        """Evidence that the pod asked for something itself, which makes it no better."""
        return [ASKED_FOR] if isinstance(self.asked, Config) and is_it(self.asked) else []

    @property
    def captures(self) -> bool:
        """Whether a sidecar's redirection is there, whole or not."""
        return self.inferred is not None

    @property
    def families(self) -> tuple[Family, ...]:
        """The families with chains of Istio's."""
        return tuple(family for family in Family if family in self.rules and any(_chains(self.rules[family])))

    def at(self, family: Family, table: Table, chain: Chain, index: int) -> RuleAt:
        """A rule of the main store, by its index in a chain."""
        if self._by_place is None:
            self._by_place = {(p.backend, p.family, p.table, p.chain.name, p.number): p for p in self.places}
        return self._by_place[self.backend, family, table, chain.name, index + 1]

    def with_role(self, *roles: Role, family: Family | None = None, table: Table | None = None) -> list[RuleAt]:
        """The rules of these roles, in the main store."""
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


def _places(snapshot: Snapshot) -> Iterator[RuleAt]:
    for (backend, family), rules in snapshot.rules.items():
        texts = _texts(snapshot) if backend is RuleStore.NATIVE else {}
        for table, chain, number, entry in rules.entries():
            native = texts.get((family, table, chain.name, number))
            yield RuleAt(backend, family, table, chain, number, entry, native)


def _texts(snapshot: Snapshot) -> dict[tuple[Family, Table, str, int], str]:
    """Of each raised rule, by its place, the native one that it comes from."""
    if snapshot.ruleset is None:
        return {}
    written = {
        Spot(table.family, table.name, chain.name, number): rule_text(rule.expressions, rule.comment)
        for table in snapshot.ruleset.tables
        if table.name.startswith((SIDECAR, AMBIENT))
        for chain in table.chains
        for number, rule in enumerate(chain.rules, 1)
    }
    spots = snapshot.raised[0].spots if snapshot.raised else {}
    return {place: f"{s.family} {s.table} {s.chain} {s.number}: {_uncounted(written[s])}" for place, s in spots.items()}


def _uncounted(text: str) -> str:
    return " ".join(text.replace("counter", "").split())


def _busiest(snapshot: Snapshot) -> RuleStore:
    """Where nothing is Istio's: the store of iptables with most rules, or nft."""
    return max(IPTABLES, key=lambda store: sum(1 for rules in snapshot.of(store).values() for _ in rules.entries()))
