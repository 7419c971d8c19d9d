"""Rules, the chains that hold them in order, and the whole rule set of one address family."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import Address, Interface, Match, Protocol
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.dialects.iptables.targets import Goto, Jump, Target
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.dialects.role import Role


class Rule(Value):
    """A rule's meaning: all tests must hold for the target to apply. No target: the rule only counts."""

    source: Address | None = None
    destination: Address | None = None
    in_interface: Interface | None = None
    out_interface: Interface | None = None
    protocol: Protocol | None = None
    matches: tuple[Match, ...] = ()
    target: Target | None = None

    @property
    def called_chain(self) -> str | None:
        """The chain that the rule jumps or goes to, if it does."""
        return self.target.chain if isinstance(self.target, Jump | Goto) else None


class Counters(Value):
    """Packets and bytes that a rule or a chain's policy has seen."""

    packets: int
    bytes: int


class Entry(Value):
    """A rule at its place in a chain.

    ``text`` is the line as it was read (without ``-A CHAIN``), kept so that nothing is lost in writing it back.
    ``first`` says that a wanted rule stands above whatever else the chain holds.
    """

    rule: Rule
    role: Role | None = None
    text: str | None = None
    counters: Counters | None = None
    first: bool = False


class Chain(Value):
    """An ordered list of rules. ``policy`` is None for a chain that users made."""

    name: str
    entries: tuple[Entry, ...] = ()
    policy: str | None = None
    counters: Counters | None = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The meanings of the rules, in order."""
        return tuple([entry.rule for entry in self.entries])


class RuleSet:
    """All tables of one family. Read-only by convention: build a new one instead of changing it."""

    __slots__ = ("family", "tables")

    def __init__(self, family: Family, tables: Mapping[Table, Mapping[str, Chain]] | None = None) -> None:
        self.family = family
        self.tables: Mapping[Table, Mapping[str, Chain]] = tables or {}

    def chain(self, table: Table, name: str) -> Chain | None:
        """The chain, or None where it does not exist."""
        return self.tables.get(table, {}).get(name)

    def chains(self) -> Iterator[tuple[Table, Chain]]:
        """Every chain with its table."""
        for table, chains in self.tables.items():
            for chain in chains.values():
                yield table, chain

    def entries(self) -> Iterator[tuple[Table, Chain, int, Entry]]:
        """Every rule with its table, chain and number, which counts from 1."""
        for table, chain in self.chains():
            for number, entry in enumerate(chain.entries, 1):
                yield table, chain, number, entry

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuleSet) and self.family is other.family and self.tables == other.tables

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RuleSet({self.family.value}, {sum(1 for _ in self.entries())} rules)"


def as_in_kernel(rules: RuleSet) -> RuleSet:
    """Rules that are wanted, as the kernel would hold them: its own chains have a policy, which accepts."""
    tables = {
        table: {
            name: chain.replace(policy="ACCEPT") if chain.policy is None and is_builtin(table, name) else chain
            for name, chain in chains.items()
        }
        for table, chains in rules.tables.items()
    }
    return RuleSet(rules.family, tables)


def is_builtin(table: Table, chain: str) -> bool:
    """Whether the kernel itself calls the chain."""
    return chain in BUILTIN_CHAINS[table]
