"""What a store is: a place where the kernel keeps rules, which can be read and changed."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    from istio_init.dialects.iptables.rules import Rule, RuleSet
    from istio_init.dialects.rule_store import RuleStore
    from istio_init.netfilter.family import Family
    from istio_init.plan.model import TableEdit

    class Store(Protocol):
        """Rules of the current network namespace, in one of the kernel's two rule stores."""

        @property
        def name(self) -> RuleStore:
            """Which of the stores it is."""

        @property
        def means(self) -> str:
            """How it is reached, for the curious: the programs or the library."""

        def families(self) -> tuple[Family, ...]:
            """The families in which tables exist. Looking creates none."""

        def read(self, family: Family, known: Mapping[str, Rule] | None = None, *, counters: bool = False) -> RuleSet:
            """The rules of a family; ``known`` spares parsing texts whose meaning the caller has. Creates no table.

            ``counters`` asks for those of each rule.

            Raises:
                ToolError: they cannot be read.
            """

        def admit(self, wanted: RuleSet) -> None:
            """Make sure, after reading, that rules in these tables can be written and are evaluated.

            Raises:
                ToolError: they cannot, or would not be.
            """

        def commit(self, family: Family, edits: Sequence[TableEdit]) -> None:
            """Carry the edits out in order, each table in one transaction; a failing table is left as it was.

            Raises:
                BusyError: another process held the lock for too long.
                ToolError: the kernel refused; tables before the failing one are committed.
            """
