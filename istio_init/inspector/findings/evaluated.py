"""What the kernel evaluates in a namespace beside what the configuration means, whose each rule is, and its words."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import cast

from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.rules import as_in_kernel
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector import kept
from istio_init.inspector.findings.model import RuleAt
from istio_init.inspector.reader import FAMILIES
from istio_init.mesh.native import AMBIENT, SIDECAR
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours
from istio_init.netfilter.chains import BaseChain, Chain
from istio_init.netfilter.chains import Table as ModelTable
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import Store, Test
from istio_init.netfilter.stages import NFT_FAMILIES, Netfilter
from istio_init.observe.netfilter import STORES, local_marks
from istio_init.trace.result import Hop, PolicyDecider, ReversePathDecider, RoutingDecider, SocketDecider
from istio_init.trace.tracer import Tracer
from istio_init.wording.words import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.inspector.findings.model import View
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.rules import Origin, Rule
    from istio_init.trace.result import Decider

_BACKENDS = {store: backend for backend, store in STORES.items()}
_FAMILIES = {name: family for family, name in FAMILIES.items()}
_OWNERS = (Field.UID, Field.GID)


def evaluated_of(view: View) -> Evaluated:
    """The one of a view, which is made once."""
    key = Evaluated, view.is_literal
    if key not in view.made:
        view.made[key] = Evaluated(view)
    found: Evaluated = view.made[key]
    return found


class Evaluated:
    """The live rules of all stores, those that the configuration behind them means, and the host that both are on."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.live = view.snapshot.netfilter
        self.divided: set[Family] = set()
        """Families whose rules divide connections into too many for a map: that was tried, and takes long."""

    @cached_property
    def meant(self) -> Netfilter:
        """The rules that the configuration behind the live ones means."""
        return _meant(self.view)

    @cached_property
    def host(self) -> Host:
        """What both are on."""
        host = self.view.snapshot.host
        return host if host.rules is not None or host.local_marks else _host(host, self.live, self.meant)

    @cached_property
    def is_as_meant(self) -> bool:
        """Whether the live rules are just those that the configuration means."""
        found = self.view.inferred or self.view.ambient
        return found is not None and found.exact and len(self.view.holdings) == 1 and not self.has_others()

    @cached_property
    def live_tracer(self) -> Tracer:
        """Of the live rules."""
        return Tracer(self.live, self.host)

    @cached_property
    def meant_tracer(self) -> Tracer:
        """Of the rules that the configuration means."""
        return self.live_tracer if self.is_as_meant else Tracer(self.meant, self.host)

    def ours_alone(self) -> Netfilter:
        """The live rules without those of others, and without policies that drop."""
        return Netfilter([self._ours(table) for table in self.live.tables], self.live.order)

    def has_others(self) -> bool:
        """Whether anything is there beside rules of the mesh that are in force: rules, or policies that drop."""
        for table in self.live.tables:
            for chain in table.chains.values():
                if chain.base is not None and chain.base.drops:
                    return True
                if chain.rules and (table.is_dormant or not all(map(self.is_ours, chain.rules))):
                    return True
        return False

    def is_ours(self, rule: Rule) -> bool:
        """Whether a rule is one of the mesh's."""
        place = self.place(rule.origin)
        if place is not None:
            return is_ours(place.chain.name, place.entry)
        origin = rule.origin
        if origin.store is not Store.NFT or not _is_native(origin.table):
            return False
        # A rule that was put into a base chain of Istio's table by hand has no role.
        return (origin.family, origin.table, origin.chain, origin.number) not in self._added

    @cached_property
    def _added(self) -> frozenset[tuple[str, str, str, int]]:
        bases = {
            (table.family, table.name, chain.name)
            for table in self.live.tables
            for chain in table.chains.values()
            if chain.base is not None and _is_native(table.name)
        }
        return frozenset(
            (spot.family, spot.table, spot.chain, spot.number)
            for raised in self.view.snapshot.raised
            for spot, role in raised.roles().items()
            if role is None and (spot.family, spot.table, spot.chain) in bases
        )

    def place(self, origin: Origin) -> RuleAt | None:
        """Where iptables has a rule; None for a rule of native tables."""
        family = _FAMILIES.get(origin.family)
        rules = self.view.snapshot.rules.get((_BACKENDS[origin.store], family)) if family is not None else None
        if family is None or rules is None or origin.number < 1:
            return None
        try:
            table = Table(origin.table)
            chain = rules.tables[table][origin.chain]
            entry = chain.entries[origin.number - 1]
        except (LookupError, ValueError):
            return None
        return RuleAt(_BACKENDS[origin.store], family, table, chain, origin.number, entry)

    def where(self, decider: Decider | None, family: Family) -> str:
        """What decides, as its dialect names it, and the rule itself; the family where no rule does."""
        match decider:
            case Hop(rule=rule):
                return self.rule_words(rule)
            case SocketDecider(hop, _, port):
                return f"{self.rule_words(hop.rule)}: nothing transparent listens on port {port}"
            case PolicyDecider(_, store, name, table, chain):
                return self._policy(store, name, table, chain)
            case RoutingDecider(words):
                return f"{family.value} routing: {words}"
            case ReversePathDecider(_, words):
                return f"{family.value} reverse path filter: {words}"
        return self._nothing(family)

    def rule_words(self, rule: Rule) -> str:
        """A rule at its place, with its counter."""
        origin = rule.origin
        place = self.place(origin)
        if place is not None:
            return str(place)
        counted = f"  [{packets(rule.counters[0])}]" if rule.counters is not None else ""
        text = f" {origin.text}".replace(" counter", "", 1) if counted else f" {origin.text}"
        return f"{origin.family} {origin.table} {origin.chain} {origin.number}:{text}{counted}"

    def _policy(self, store: Store, name: str, table: str, chain: str) -> str:
        family, backend = _FAMILIES.get(name), _BACKENDS[store]
        rules = self.view.snapshot.rules.get((backend, family)) if family is not None else None
        if family is None or rules is None or table not in [each.value for each in rules.tables]:
            return f"{name} {table} {chain}: policy drop"
        return f"{family.value} {table} ({backend.value}): {chain}: policy DROP"

    def _nothing(self, family: Family) -> str:
        asleep = [
            f"{family.value} {table.name} ({_BACKENDS[table.store].value}) is dormant"
            if table.family in _FAMILIES
            else f"{table.family} {table.name} is dormant"
            for table in self.live.tables
            if table.is_dormant and table.family in NFT_FAMILIES[family] and self._holds_ours(table)
        ]
        return ", ".join(asleep) or f"{family.value}: no rule matches"

    def _holds_ours(self, table: ModelTable) -> bool:
        return _is_native(table.name) or any(map(is_istio_chain, table.chains))

    def _ours(self, table: ModelTable) -> ModelTable:
        chains = {
            name: Chain(name, tuple(filter(self.is_ours, chain.rules)), _accepting(chain.base))
            for name, chain in table.chains.items()
        }
        return ModelTable(table.store, table.family, table.name, chains, is_dormant=table.is_dormant)


def _accepting(base: BaseChain | None) -> BaseChain | None:
    return base.replace(drops=False) if base is not None else None


def _is_native(table: str) -> bool:
    return table.startswith((SIDECAR, AMBIENT))


def _meant(view: View) -> Netfilter:
    is_istios = view.backend is RuleStore.NATIVE and not any(each.is_ours for each in view.snapshot.raised)
    return _lowered(kept.Same(view.meant), is_istios=is_istios)


@lru_cache(maxsize=kept.MOST)
def _lowered(meant: kept.Same, *, is_istios: bool) -> Netfilter:
    [by_family] = cast("tuple[Mapping[Family, RuleSet]]", meant.things)
    tables = [table for rules in by_family.values() for table in lower(as_in_kernel(rules), Store.NFT)]
    return Netfilter(map(_as_native, tables) if is_istios else tables)


def _as_native(table: ModelTable) -> ModelTable:
    """As Istio writes it: to ``skuid !=`` a packet without a socket says no, to iptables' owner match it says yes."""
    chains = {
        name: chain.replace(rules=tuple([rule.replace(body=tuple(map(_owner, rule.body))) for rule in chain.rules]))
        for name, chain in table.chains.items()
    }
    return ModelTable(table.store, table.family, table.name, chains)


def _owner(statement: object) -> object:
    is_owner = isinstance(statement, Test) and statement.field in _OWNERS
    return statement.replace(if_absent=False) if isinstance(statement, Test) and is_owner else statement


def _host(host: Host, live: Netfilter, meant: Netfilter) -> Host:
    """Where nothing is known of the routing, it leads the marks of both to this machine."""
    return host.replace(local_marks=local_marks((*live.tables, *meant.tables)))
