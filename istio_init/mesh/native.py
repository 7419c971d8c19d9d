"""Istio's native nftables rules, raised to what iptables would write: tables, chains and rules of each family.

The policy is the same, only written otherwise, so that what is known of iptables rules (roles, configuration, drift)
holds for native ones. Each raised rule leads back to the nft rule that it comes from.
"""

from __future__ import annotations

from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import Goto, Jump
from istio_init.mesh.native_names import AMBIENT, FAMILY, SIDECAR, chain_name
from istio_init.mesh.raising import lift
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.dialects.nft import ruleset as nft
    from istio_init.dialects.nft.ruleset import Ruleset
    from istio_init.dialects.role import Role

__all__ = ["AMBIENT", "FAMILY", "SIDECAR", "Raised", "Spot", "chain_name", "raised"]


class Spot(Value):
    """Where an nft rule stands: ``family`` as nft names it (ip, ip6, inet), numbers from 1."""

    family: str
    table: str
    chain: str
    number: int


class Raised:
    """Rules of native tables as iptables would write them. Read-only by convention.

    ``rules`` has both families, as a rule without an address holds for both; ``captured`` has those that the
    configuration asked for: IPv6 where a rule names an IPv6 address. ``unread`` are the rules that hold what iptables
    has no word for, ``in_doubt`` the tables of which nobody can tell whether they are dormant. ``prefix`` is how their
    names begin.
    """

    __slots__ = ("captured", "in_doubt", "prefix", "rules", "spots", "unread")

    def __init__(
        self,
        rules: Mapping[Family, RuleSet],
        spots: Mapping[tuple[Family, Table, str, int], Spot],
        unread: tuple[Spot, ...] = (),
        in_doubt: tuple[str, ...] = (),
        prefix: str = SIDECAR,
        *,
        ipv6: bool,
    ) -> None:
        self.prefix = prefix
        self.rules = rules
        self.spots = spots
        self.unread = unread
        self.in_doubt = in_doubt
        self.captured = {family: each for family, each in rules.items() if ipv6 or family is Family.IPV4}

    def roles(self) -> dict[Spot, Role | None]:
        """The role of each nft rule; None for one of no kind that is known."""
        found: dict[Spot, Role | None] = {}
        for family, rules in self.rules.items():
            for table, chain, number, entry in rules.entries():
                spot = self.spots[family, table, chain.name, number]
                found[spot] = found.get(spot) or entry.role
        return found


def raised(ruleset: Ruleset, prefix: str = SIDECAR) -> Raised | None:
    """The rules of the tables whose names begin with a prefix; None where there is no such table in force."""
    known = {f"{prefix}{table.value}": table for table in Table}
    found = [
        (known[table.name], table)
        for table in ruleset.tables
        if table.name in known and table.family == FAMILY and table.is_dormant is not True
    ]
    raising = _Raising()
    for kind, table in found:
        raising.add(kind, table)
    in_doubt = tuple(table.name for _, table in found if table.is_dormant is None)
    return raising.raised(in_doubt, prefix) if found else None


class _Raising:
    def __init__(self) -> None:
        self.chains: dict[Family, dict[Table, dict[str, Chain]]] = {}
        self.spots: dict[tuple[Family, Table, str, int], Spot] = {}
        self.unread: list[Spot] = []
        self.ipv6 = False

    def add(self, kind: Table, table: nft.Table) -> None:
        for chain in table.chains:
            name = chain_name(kind, chain.name)
            entries: dict[Family, list[Entry]] = {family: [] for family in Family}
            for number, rule in enumerate(chain.rules, 1):
                spot = Spot(table.family, table.name, chain.name, number)
                for family, entry in self._entries(kind, spot, rule):
                    entries[family].append(entry)
                    self.spots[family, kind, name, len(entries[family])] = spot
            policy = chain.policy.upper() if chain.policy else None
            for family, found in entries.items():
                self.chains.setdefault(family, {}).setdefault(kind, {})[name] = Chain(name, tuple(found), policy)

    def _entries(self, kind: Table, spot: Spot, rule: nft.Rule) -> Iterator[tuple[Family, Entry]]:
        lifted = lift(rule.expressions)
        if not lifted.is_whole:
            self.unread.append(spot)
        self.ipv6 |= lifted.families == (Family.IPV6,)
        target = lifted.rule.target
        if isinstance(target, Jump | Goto):
            target = type(target)(chain_name(kind, target.chain))
        for family in lifted.families:
            yield family, Entry(lifted.rule.replace(target=target), counters=lifted.counters)

    def raised(self, in_doubt: tuple[str, ...], prefix: str) -> Raised:
        rules = {family: recognise(RuleSet(family, tables)) for family, tables in self.chains.items()}
        return Raised(rules, self.spots, tuple(self.unread), in_doubt, prefix, ipv6=self.ipv6)
