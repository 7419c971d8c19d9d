"""A plan: the edits of each table, and the same told as changes of rules."""

from __future__ import annotations

from enum import Enum

from istio_init.dialects.iptables.tables import Table
from istio_init.mesh.routing import Routing
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.dialects.role import Role


NATIVE = "native"
"""The backend that holds no rules of iptables but Istio's own tables of nf_tables."""


class Declare(Value):
    """Create a chain, or empty it where it exists."""

    chain: str


class Append(Value):
    """Add a rule at the end of a chain."""

    chain: str
    text: str


class Insert(Value):
    """Add a rule so that it gets this number, from 1, in its chain."""

    chain: str
    number: int
    text: str


class Delete(Value):
    """Remove the first rule of this text from a chain, or the one of this number where its text could be misread."""

    chain: str
    text: str
    number: int | None = None


class Remove(Value):
    """Remove an empty chain that nothing jumps to."""

    chain: str


Step = Declare | Append | Insert | Delete | Remove


class TableEdit(Value):
    """What is done to one table, in one transaction."""

    table: Table
    steps: tuple[Step, ...]


class Kind(Enum):
    """What happens to a rule."""

    ADD = "add"
    REMOVE = "remove"
    MOVE = "move"
    KEEP = "keep"
    FOREIGN = "foreign"


class Change(Value):
    """What happens to one rule; ``role`` is None for a rule that is not in the catalogue."""

    kind: Kind
    table: Table
    chain: str
    text: str
    role: Role | None = None


class FamilyPlan(Value):
    """The edits of one family's tables in the order in which they are committed, and what they mean."""

    family: Family
    edits: tuple[TableEdit, ...] = ()
    changes: tuple[Change, ...] = ()
    only_adds: bool = True
    """Every live rule of ours is wanted and in the wanted order; what is missing is added."""

    def in_turn(self) -> tuple[tuple[TableEdit, ...], ...]:
        """The edits, apart where capture moves between nat and mangle: a packet could meet neither, on its way."""
        moving = {change.kind for change in self.changes if change.table in _CAPTURING}
        if {Kind.ADD, Kind.REMOVE} <= moving and {edit.table for edit in self.edits} >= _CAPTURING:
            return tuple([(edit,) for edit in self.edits])
        return (self.edits,) if self.edits else ()


_CAPTURING = {Table.NAT, Table.MANGLE}


class BackendPlan(Value):
    """What is done to the rules of one backend.

    ``scripts`` is what nft reads, each in one transaction, and ``changes`` is what they mean: of rules that hold for
    both families at once. Between two of them, no packet may be left on its way.
    """

    backend: str
    families: tuple[FamilyPlan, ...] = ()
    scripts: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    script_only_adds: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be written."""
        return not self.scripts and not any(family.edits for family in self.families)

    @property
    def only_adds(self) -> bool:
        """Every live rule of ours is wanted and in the wanted order; what is missing is added."""
        return self.script_only_adds and all(family.only_adds for family in self.families)

    def told(self) -> Iterator[tuple[str, Change]]:
        """Every change, with the family that it concerns: a family's, or ``inet`` for both."""
        for family in self.families:
            for change in family.changes:
                yield family.family.value, change
        for change in self.changes:
            yield "inet", change


class Plan(Value):
    """Everything that a run does, in this order: routing added, routing removed, rules, the other backend's rules.

    Routing is removed before the rules because it is they that tell whose it is, should the run be cut short.
    """

    rules: BackendPlan
    other_backends: tuple[BackendPlan, ...] = ()
    add_routing: Routing = Routing()
    remove_routing: Routing = Routing()

    @property
    def is_empty(self) -> bool:
        """Whether the live state is the wanted one."""
        nothing = Routing()
        return (
            all(each.is_empty for each in (self.rules, *self.other_backends))
            and self.add_routing == nothing
            and self.remove_routing == nothing
        )

    @property
    def only_adds(self) -> bool:
        """Whether the live state is a part of the wanted one, as an interrupted first run leaves it."""
        return (
            self.rules.only_adds
            and all(each.is_empty for each in self.other_backends)
            and self.remove_routing == Routing()
        )
