"""Rules in order: chains, how the kernel calls them, and tables, whose chains call each other."""

from __future__ import annotations

from enum import Enum

from istio_init.netfilter.rules import Hook, Rule, Store
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class ChainType(Enum):
    """What a base chain may do: nat chains are called for a connection's first packet alone, route chains re-route."""

    FILTER = "filter"
    NAT = "nat"
    ROUTE = "route"

    __hash__ = object.__hash__


class BaseChain(Value):
    """How the kernel calls a chain: at a hook, by priority."""

    hook: Hook
    priority: int
    type: ChainType
    drops: bool = False
    """Its policy."""


class Chain(Value):
    """Rules in order; ``base`` is None for one that is jumped to."""

    name: str
    rules: tuple[Rule, ...]
    base: BaseChain | None = None


class Table:
    """Chains that call each other, of one store. ``family`` is ip, ip6 or inet."""

    __slots__ = ("chains", "family", "is_dormant", "name", "store")

    def __init__(
        self, store: Store, family: str, name: str, chains: Mapping[str, Chain], *, is_dormant: bool = False
    ) -> None:
        self.store = store
        self.family = family
        self.name = name
        self.chains = chains
        self.is_dormant = is_dormant

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Table({self.store.value} {self.family} {self.name}, {len(self.chains)} chains)"

    def _key(self) -> tuple[object, ...]:
        return self.store, self.family, self.name, dict(self.chains), self.is_dormant
