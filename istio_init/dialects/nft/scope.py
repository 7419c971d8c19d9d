"""What the lowering of an expression is given: the table around it, and the rule so far."""

from __future__ import annotations

from istio_init.dialects.nft.values import OddError
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import Intervals, intersection
from istio_init.netfilter.rules import SOON, Elements, Test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.nft.maps import Mapped
    from istio_init.dialects.nft.misprints import Misprint
    from istio_init.dialects.nft.operands import Operand
    from istio_init.dialects.nft.ruleset import Json, Set, Table
    from istio_init.netfilter.host import Link
    from istio_init.netfilter.rules import Condition, Statement


class Scope:
    """A table, its sets, and which interfaces there are, by index. ``changing`` are sets that rules add to.

    ``misprinted`` are rules, by family, table, chain and handle, that nft does not print as they are. ``texts`` are
    those that iptables prints of all rules of a chain, by family, table and chain.
    """

    def __init__(
        self,
        table: Table,
        links: Mapping[int, Link],
        changing: frozenset[str],
        misprinted: Mapping[tuple[str, str, str, int], Misprint] | None = None,
        texts: Mapping[tuple[str, str, str], tuple[str, ...]] | None = None,
    ) -> None:
        self.family = table.family
        self.table = table.name
        self.sets = table.sets
        self.links = links
        self.changing = changing
        self.misprinted = misprinted or {}
        self.texts = texts or {}
        self.elements: dict[tuple[str, tuple[Operand, ...]], Elements] = {}
        self.maps: dict[tuple[str, tuple[Operand, ...]], Mapped] = {}

    def set_of(self, reference: str) -> Set:
        """The set that ``@name`` is.

        Raises:
            OddError: there is none.
        """
        found = self.sets.get(reference.removeprefix("@"))
        if found is None:
            raise OddError(f"no set {reference}")
        return found

    def is_complete(self, found: Set) -> bool:
        """Whether a set's elements stay what they are: no packet adds any, and none is about to expire."""
        if "dynamic" in found.flags or found.name in self.changing:
            return False
        return (found.timeout is None and "timeout" not in found.flags) or all(map(_stays, found.elements))


def _stays(element: Json) -> bool:
    match element:
        case {"elem": {"expires": int(left)}}:
            return left >= SOON
    return False


class Body:
    """The statements of a rule, and what its tests so far say of the protocol, so that none is repeated."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.statements: list[Statement] = []
        self.known: dict[Field, Intervals] = {}
        self.tracks = False
        self.tracks_only: Family | None = None

    @property
    def family(self) -> str:
        """The family that headers are read in: that of the table, or the one that a test has settled."""
        if self.scope.family == "inet":
            return _SETTLED.get(self.known.get(Field.NFPROTO, ()), "inet")
        return self.scope.family

    def add(self, *conditions: Condition) -> None:
        """Append tests."""
        for condition in conditions:
            self.statements.append(condition)
            if type(condition) is Test and condition.field in _REMEMBERED:
                self._remember(condition)

    def _remember(self, test: Test) -> None:
        if test.mask is None and not test.negated:
            known = self.known.get(test.field)
            self.known[test.field] = test.within if known is None else intersection(known, test.within)

    def need(self, conditions: tuple[Condition, ...]) -> None:
        """Append tests unless they are known to hold."""
        for condition in conditions:
            if type(condition) is Test and condition.field in _REMEMBERED:
                known = self.known.get(condition.field)
                if known is not None and intersection(known, condition.within) == known:
                    continue
            elif condition in self.statements:
                continue
            self.add(condition)

    def take(self, operands: tuple[Operand, ...]) -> None:
        """Append what operands need."""
        for operand in operands:
            self.need(operand.needs)
            self.tracks |= operand.tracks


_SETTLED: dict[Intervals, str] = {((2, 2),): "ip", ((10, 10),): "ip6"}
_REMEMBERED = frozenset([Field.PROTOCOL, Field.NFPROTO])
