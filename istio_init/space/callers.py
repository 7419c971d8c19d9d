"""Which chains of a table are called from where, and which of them depend on where they are evaluated."""

from __future__ import annotations

from istio_init.netfilter.rules import Dispatch, End, Nat, NatKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.netfilter.chains import Table
    from istio_init.netfilter.rules import Rule


class Callers:
    """Answers about the tables that it is asked for."""

    def __init__(self) -> None:
        self._counts: dict[int, tuple[Table, dict[str, int]]] = {}
        """By a table's identity the table, which is kept for that, and how often each of its chains is called."""

        self._dependent: dict[tuple[int, str], bool] = {}

    def count(self, table: Table, name: str) -> int:
        """In how many places a chain is called, by the kernel or by rules."""
        known = self._counts.get(id(table))
        if known is None:
            counts = {chain.name: int(chain.base is not None) for chain in table.chains.values()}
            for chain in table.chains.values():
                for called in (each for rule in chain.rules for each in _called(rule)):
                    counts[called] = counts.get(called, 0) + 1
            known = self._counts[id(table)] = table, counts
        return known[1].get(name, 0)

    def depends_on_hook(self, table: Table, name: str) -> bool:
        """Whether a chain, or one that it calls, redirects: where to depends on the hook."""
        key = id(table), name
        if key not in self._dependent:
            self._dependent[key] = False  # What calls itself is not followed.
            self._dependent[key] = any(
                _redirects(rule) or any(self.depends_on_hook(table, called) for called in _called(rule))
                for rule in (table.chains[name].rules if name in table.chains else ())
            )
        return self._dependent[key]


def _redirects(rule: Rule) -> bool:
    return any(isinstance(statement, Nat) and statement.kind is NatKind.REDIRECT for statement in rule.body)


def _called(rule: Rule) -> Iterator[str]:
    """The chains that a rule jumps or goes to."""
    for statement in rule.body:
        if isinstance(statement, End):
            if statement.chain is not None:
                yield statement.chain
        elif isinstance(statement, Dispatch):
            yield from (end.chain for _, end in statement.verdicts if end.chain is not None)
