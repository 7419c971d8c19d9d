"""Istio's native nftables rules, raised to what iptables would write: tables, chains and rules of each family.

The policy is the same, only written otherwise, so that what is known of iptables rules (roles, configuration, drift)
holds for native ones. Each raised rule leads back to the nft rule that it comes from.
"""

from __future__ import annotations

from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.dialects.iptables.targets import Goto, Jump
from istio_init.mesh.raising import lift
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from istio_init.dialects.role import Role

SIDECAR = "istio-proxy-"
AMBIENT = "istio-ambient-"
"""How the names of Istio's own tables begin; the rest is ``nat``, ``mangle`` or ``raw``."""

_FAMILIES = {"ip": (Family.IPV4,), "ip6": (Family.IPV6,), "inet": tuple(Family)}
_RENAMED = {"istio-prerouting": "ISTIO_PRERT"}


class Spot(Value):
    """Where an nft rule stands: ``family`` as nft names it (ip, ip6, inet), numbers from 1."""

    family: str
    table: str
    chain: str
    number: int


class Raised:
    """Rules of native tables as iptables would write them. Read-only by convention.

    ``rules`` has both families, as a rule without an address holds for both; ``captured`` has those that the
    configuration asked for: IPv6 where a rule names an IPv6 address.
    """

    __slots__ = ("captured", "rules", "spots", "unread")

    def __init__(
        self,
        rules: Mapping[Family, RuleSet],
        spots: Mapping[tuple[Family, Table, str, int], Spot],
        unread: tuple[Spot, ...],
        *,
        ipv6: bool,
    ) -> None:
        self.rules = rules
        self.spots = spots
        self.unread = unread
        self.captured = {family: each for family, each in rules.items() if ipv6 or family is Family.IPV4}

    def roles(self) -> dict[Spot, Role | None]:
        """The role of each nft rule; None for one of no kind that is known."""
        found: dict[Spot, Role | None] = {}
        for family, rules in self.rules.items():
            for table, chain, number, entry in rules.entries():
                spot = self.spots[family, table, chain.name, number]
                found[spot] = found.get(spot) or entry.role
        return found


def raised(items: Iterable[Mapping[str, Any]], prefix: str = SIDECAR) -> Raised | None:
    """The rules of the tables whose names begin with a prefix; None where there is no such table.

    ``items`` are what ``nft -j list ruleset`` has under ``nftables``.
    """
    collected = _Collected(prefix)
    for item in items:
        collected.add(*next(iter(item.items())))
    return collected.raised() if collected.tables else None


class _Collected:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.tables: dict[tuple[str, str], Table] = {}
        self.chains: dict[Family, dict[Table, dict[str, Chain]]] = {}
        self.entries: dict[tuple[Family, Table, str], list[tuple[Entry, Spot]]] = {}
        self.numbers: dict[tuple[str, str, str], int] = {}
        self.unread: list[Spot] = []
        self.ipv6 = False

    def add(self, kind: str, content: Mapping[str, Any]) -> None:
        if kind == "table":
            self._table(content)
        elif kind in ("chain", "rule"):
            table = self.tables.get((content["family"], content["table"]))
            if table is not None:
                (self._chain if kind == "chain" else self._rule)(table, content)

    def _table(self, content: Mapping[str, Any]) -> None:
        name, family = content["name"], content["family"]
        known = {f"{self.prefix}{table.value}": table for table in Table}
        if name in known and family in _FAMILIES and "dormant" not in content.get("flags", ()):
            self.tables[family, name] = known[name]

    def _chain(self, table: Table, content: Mapping[str, Any]) -> None:
        name = chain_name(table, content["name"])
        policy = content["policy"].upper() if "policy" in content else None
        for family in _FAMILIES[content["family"]]:
            self.chains.setdefault(family, {}).setdefault(table, {})[name] = Chain(name, policy=policy)

    def _rule(self, table: Table, content: Mapping[str, Any]) -> None:
        place = (content["family"], content["table"], content["chain"])
        number = self.numbers[place] = self.numbers.get(place, 0) + 1
        spot = Spot(*place, number)
        lifted = lift(content["expr"], _FAMILIES[content["family"]])
        if not lifted.is_whole:
            self.unread.append(spot)
        self.ipv6 |= lifted.families == (Family.IPV6,)
        target = lifted.rule.target
        if isinstance(target, Jump | Goto):
            target = type(target)(chain_name(table, target.chain))
        entry = Entry(lifted.rule.replace(target=target), counters=lifted.counters)
        for family in lifted.families:
            key = (family, table, chain_name(table, content["chain"]))
            self.entries.setdefault(key, []).append((entry, spot))

    def raised(self) -> Raised:
        rules, spots = {}, {}
        for family, tables in self.chains.items():
            filled: dict[Table, dict[str, Chain]] = {}
            for table, name, chain in _each(tables):
                found = self.entries.get((family, table, name), [])
                filled.setdefault(table, {})[name] = chain.replace(entries=tuple([entry for entry, _ in found]))
                spots.update({(family, table, name, number): spot for number, (_, spot) in enumerate(found, 1)})
            rules[family] = recognise(RuleSet(family, filled))
        return Raised(rules, spots, tuple(self.unread), ipv6=self.ipv6)


def _each(tables: Mapping[Table, Mapping[str, Chain]]) -> Iterator[tuple[Table, str, Chain]]:
    for table, chains in tables.items():
        for name, chain in chains.items():
            yield table, name, chain


def chain_name(table: Table, name: str) -> str:
    """What iptables' rules call a chain: ``istio-output-dns`` is ISTIO_OUTPUT_DNS, ``output`` OUTPUT."""
    if name.upper() in BUILTIN_CHAINS[table]:
        return name.upper()
    return _RENAMED.get(name) or (name.upper().replace("-", "_") if name.startswith("istio-") else name)
