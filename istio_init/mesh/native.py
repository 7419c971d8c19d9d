"""Istio's native nftables rules, raised to what iptables would write: tables, chains and rules of each family.

The policy is the same, only written otherwise, so that what is known of iptables rules (roles, configuration, drift)
holds for native ones. Each raised rule leads back to the nft rule that it comes from.
"""

from __future__ import annotations

from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import Goto, Jump
from istio_init.dialects.role import Role
from istio_init.mesh.native_names import AMBIENT, FAMILY, SIDECAR, chain_name
from istio_init.mesh.raising import lift
from istio_init.mesh.roles.recognise import recognise
from istio_init.mesh.spreading import Placed, as_stated, spread
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.dialects.nft import ruleset as nft
    from istio_init.dialects.nft.ruleset import Ruleset

__all__ = ["AMBIENT", "FAMILY", "SIDECAR", "Raised", "Spot", "chain_name", "raised"]


ROLES = {role.value: role for role in Role}


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
    has no word for, ``in_doubt`` the tables that may or may not be dormant. ``prefix`` is how their
    names begin. ``named`` has the roles that rules name in their comments, as ours do and Istio's own do not.
    """

    __slots__ = ("captured", "in_doubt", "named", "prefix", "rules", "spots", "unread")

    def __init__(
        self,
        rules: Mapping[Family, RuleSet],
        spots: Mapping[tuple[Family, Table, str, int], Spot],
        unread: tuple[Spot, ...] = (),
        in_doubt: tuple[str, ...] = (),
        prefix: str = SIDECAR,
        *,
        ipv6: bool,
        named: Mapping[Spot, Role] | None = None,
    ) -> None:
        self.prefix = prefix
        self.rules = rules
        self.spots = spots
        self.unread = unread
        self.in_doubt = in_doubt
        self.named = named or {}
        self.captured = {family: each for family, each in rules.items() if ipv6 or family is Family.IPV4}

    @property
    def is_ours(self) -> bool:
        """Whether we wrote them, and not Istio itself."""
        return bool(self.named)

    def roles(self) -> dict[Spot, Role | None]:
        """The role of each nft rule; None for one of no kind that is known."""
        found: dict[Spot, Role | None] = dict(self.named)
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
        self.named: dict[Spot, Role] = {}
        self.unread: list[Spot] = []
        self.ipv6 = False

    def add(self, kind: Table, table: nft.Table) -> None:
        found: dict[Family, dict[str, list[Placed]]] = {family: {} for family in Family}
        is_ours = any(rule.comment in ROLES for chain in table.chains for rule in chain.rules)
        for chain in table.chains:
            name = chain_name(kind, chain.name)
            for family in Family:
                found[family][name] = []
            for number, rule in enumerate(chain.rules, 1):
                spot = Spot(table.family, table.name, chain.name, number)
                if rule.comment in ROLES:
                    self.named[spot] = ROLES[rule.comment]
                for family, entry in self._entries(kind, spot, rule, table.sets):
                    found[family][name].append((entry, spot))
        policies = {chain_name(kind, chain.name): chain.policy for chain in table.chains}
        if is_ours:
            # A chain that holds rules of the other family alone, is not there for this one.
            used = {chain_name(kind, chain.name) for chain in table.chains if chain.rules}
            found = {
                family: {name: placed for name, placed in chains.items() if placed or name not in used}
                for family, chains in found.items()
            }
        for family, chains in found.items():
            made = self.chains.setdefault(family, {}).setdefault(kind, {})
            for name, placed in as_stated(chains).items():
                policy = policies[name]
                entries = tuple([entry for entry, _ in placed])
                made[name] = Chain(name, entries, policy.upper() if policy else None)
                for number, (_, spot) in enumerate(placed, 1):
                    self.spots[family, kind, name, number] = spot

    def _entries(
        self, kind: Table, spot: Spot, rule: nft.Rule, sets: Mapping[str, nft.Set]
    ) -> Iterator[tuple[Family, Entry]]:
        for expressions in spread(rule.expressions, sets):
            lifted = lift(expressions)
            if not lifted.is_whole and spot not in self.unread:
                self.unread.append(spot)
            self.ipv6 |= lifted.families == (Family.IPV6,)
            target = lifted.rule.target
            if isinstance(target, Jump | Goto):
                target = type(target)(chain_name(kind, target.chain))
            for family in lifted.families:
                yield family, Entry(lifted.rule.replace(target=target), counters=lifted.counters)

    def raised(self, in_doubt: tuple[str, ...], prefix: str) -> Raised:
        rules = {family: recognise(RuleSet(family, tables)) for family, tables in self.chains.items()}
        if self.named:
            # What we write ourselves holds the families apart: none reaches chains without a base chain that jumps.
            rules = {family: each for family, each in rules.items() if any(map(_is_reached, each.tables.values()))}
        is_ipv6 = self.ipv6 or (bool(self.named) and Family.IPV6 in rules)
        spots = {key: spot for key, spot in self.spots.items() if key[0] in rules}
        return Raised(rules, spots, tuple(self.unread), in_doubt, prefix, ipv6=is_ipv6, named=self.named)


def _is_reached(chains: Mapping[str, Chain]) -> bool:
    return any(chain.entries for name, chain in chains.items() if name in ("PREROUTING", "OUTPUT"))
