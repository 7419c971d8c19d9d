"""What the kernel calls at each hook, in order, over all stores."""

from __future__ import annotations

from enum import Enum
from itertools import groupby

from istio_init.netfilter.chains import BaseChain, Chain, ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.orders import orders, together
from istio_init.netfilter.rules import Hook, Store
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

NFT_FAMILIES = {Family.IPV4: frozenset(["ip", "inet"]), Family.IPV6: frozenset(["ip6", "inet"])}
"""The families of tables that see packets of an address family."""

CONNTRACK_PRIORITY = -200
NAT_PRIORITIES = {Hook.PREROUTING: -100, Hook.OUTPUT: -100, Hook.INPUT: 100, Hook.POSTROUTING: 100}
"""Where the one nat hook of a family lies, whatever the chains' own priorities (linux/netfilter_ipv4.h)."""


class Call(Value):
    """The evaluation of a base chain."""

    table: Table
    chain: Chain


class Core(Enum):
    """What the kernel does by itself between base chains."""

    CONNTRACK = "connection tracking"
    """The packet's connection is looked up, unless it is not to be tracked."""

    NAT = "translation"
    """Where the nat base chains are called; a stage has them as `NatCalls`, this names the place in an order."""

    __hash__ = object.__hash__


class NatCalls(Value):
    """All nat base chains of a hook, in order: asked for a connection's first packet until one translates it."""

    calls: tuple[Call, ...]


Stage = Call | Core | NatCalls

Registered = tuple[Store, str, str, str]
"""Store, family, table and base chain."""


class Netfilter:
    """Everything that is registered, of all stores.

    ``order`` lists the base chains of a family and hook as the kernel calls them, and what it does by itself, where it
    told (nfnetlink_hook); a missing entry means that what has the same priority may stand in either order, but for
    chains of one table. ``tracks`` is whether connections are tracked, by family, where that is known otherwise than
    from the rules. ``ingress`` and ``egress`` are the interfaces, "" any, at which something is called that nobody
    follows here, with its name: before PREROUTING and behind POSTROUTING.
    """

    __slots__ = ("egress", "ingress", "order", "tables", "tracks")

    def __init__(
        self,
        tables: Iterable[Table],
        order: Mapping[tuple[Family, Hook], tuple[Registered | Core, ...]] | None = None,
        tracks: Mapping[Family, bool] | None = None,
        *,
        ingress: Mapping[str, str] | None = None,
        egress: Mapping[str, str] | None = None,
    ) -> None:
        self.tables = tuple(tables)
        self.order = order or {}
        self.tracks = tracks or {}
        self.ingress = ingress or {}
        self.egress = egress or {}

    def in_order(self, order: Mapping[tuple[Family, Hook], tuple[Registered | Core, ...]]) -> Netfilter:
        """The same, with the order that the kernel told."""
        return Netfilter(self.tables, order, self.tracks, ingress=self.ingress, egress=self.egress)

    def beside(self, ingress: Mapping[str, str], egress: Mapping[str, str]) -> Netfilter:
        """The same, with what else takes packets at interfaces."""
        if not ingress and not egress:
            return self
        return Netfilter(
            self.tables,
            self.order,
            self.tracks,
            ingress={**ingress, **self.ingress},
            egress={**egress, **self.egress},
        )

    def tracks_connections(self, family: Family) -> bool:
        """Whether the kernel tracks connections of a family: a rule makes it do so, called or not."""
        known = self.tracks.get(family)
        if known is not None:
            return known
        return any(
            rule.tracks and rule.tracks_only in (None, family)
            for table in self.tables
            if table.family in NFT_FAMILIES[family]
            for chain in table.chains.values()
            for rule in chain.rules
        )

    def calls(self, family: Family, hook: Hook) -> Iterator[Call]:
        """The base chains of a hook that are in force, unordered."""
        for table in self.tables:
            if table.is_dormant or table.family not in NFT_FAMILIES[family]:
                continue
            for chain in table.chains.values():
                if chain.base is not None and chain.base.hook is hook:
                    yield Call(table, chain)

    def stages(self, family: Family, hook: Hook) -> list[tuple[Stage, ...]]:
        """The possible orders in which the hook's stages are called: one, unless priorities tie and nobody told."""
        stages: list[Stage] = [call for call in self.calls(family, hook) if _base(call).type is not ChainType.NAT]
        nat: list[Stage] = [call for call in self.calls(family, hook) if _base(call).type is ChainType.NAT]
        if hook in (Hook.PREROUTING, Hook.OUTPUT):
            stages.append(Core.CONNTRACK)
        if nat:
            stages.append(Core.NAT)
        both = together([self._orders(family, hook, stages), self._orders(family, hook, nat)])
        return [tuple(_with_nat(order, calls)) for order, calls in both]

    def _orders(self, family: Family, hook: Hook, stages: Sequence[Stage]) -> list[list[Stage]]:
        told = {place: number for number, place in enumerate(self.order.get((family, hook), ()))}

        def rank(stage: Stage) -> tuple[int, int]:
            return _priority(stage, hook), told.get(_place(stage), -1)

        groups = [_possible(list(group)) for _, group in groupby(sorted(stages, key=rank), key=rank)]
        return [[stage for group in choice for stage in group] for choice in together(groups)]


def _priority(stage: Stage, hook: Hook) -> int:
    if isinstance(stage, Call):
        return _base(stage).priority
    return CONNTRACK_PRIORITY if stage is Core.CONNTRACK else NAT_PRIORITIES[hook]


def _place(stage: Stage) -> Registered | Core:
    """What an order calls a stage."""
    if isinstance(stage, Call):
        return registered(stage)
    return stage if isinstance(stage, Core) else Core.NAT


def registered(call: Call) -> Registered:
    """What names a base chain."""
    return call.table.store, call.table.family, call.table.name, call.chain.name


def _base(call: Call) -> BaseChain:
    assert call.chain.base is not None
    return call.chain.base


def _with_nat(order: Iterable[Stage], calls: Iterable[Stage]) -> Iterator[Stage]:
    for stage in order:
        yield NatCalls(tuple(call for call in calls if isinstance(call, Call))) if stage is Core.NAT else stage


def _possible(stages: list[Stage]) -> list[list[Stage]]:
    """The orders in which what has the same priority may stand.

    Of one table's chains the last one is called first, as of all that is registered (nf_hook_entries_grow); a dormant
    table that wakes up registers them in the same order again. Chains that are empty and accept do the same anywhere.
    """
    tables: dict[Registered | Core, list[Stage]] = {}
    idle: list[Stage] = []
    for stage in stages:
        if not isinstance(stage, Call):
            tables[_place(stage)] = [stage]
        elif stage.chain.rules or _base(stage).drops:
            tables.setdefault((*registered(stage)[:3], ""), []).insert(0, stage)
        else:
            idle.append(stage)
    return [[*order, *idle] for order in orders(list(tables.values()))]
