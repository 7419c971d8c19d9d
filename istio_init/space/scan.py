"""What rules look at: fields, and the masks under which they take some of them apart."""

from __future__ import annotations

from istio_init.netfilter.family import MAX_MARK
from istio_init.netfilter.fields import ADDRESSES, PORTS, Field
from istio_init.netfilter.rules import AnyOf, Assign, AssignFrom, Dispatch, Forget, Lookup, Nat, Test, Tproxy, Zone
from istio_init.space.nodes import blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Key, NatKind, Rule, Statement

SPLIT = (Field.MARK, Field.CT_MARK, Field.TOS, Field.PRIORITY, Field.CT_STATE, Field.CT_STATUS)
"""Fields of groups of bits. Both marks have the same groups, as rules copy one into the other."""


class Scan:
    """The fields that some rules test or copy, those that they change, and masks of those that are split."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.fields: set[Field] = set()
        self.assigned: set[Field] = set()
        self.has_templates = self.tracks_after_all = False
        self.masks: dict[Field, set[int]] = {field: set() for field in SPLIT}
        self.tested: dict[int, None] = {}
        """The masks under which addresses are tested."""
        self.ports: dict[int, None] = {}
        """The masks under which ports are tested."""
        self.exchanged: dict[int, None] = {}
        """The masks of what rules keep of addresses."""
        for rule in rules:
            for statement in rule.body:
                self._take(statement)
                if isinstance(statement, Nat) and statement.netmap and statement.addresses is not None:
                    self._take_netmap(rule, statement.kind, *statement.addresses)

    def _take(self, statement: Statement) -> None:
        match statement:
            case Test(field, within, mask):
                self.fields.add(field)
                if field in self.masks:
                    self.masks[field].update(tested(within, mask))
                self._take_mask(field, mask)
            case AnyOf(options):
                for condition in (each for option in options for each in option):
                    self._take(condition)
            case Lookup(keys, elements):
                self._take_keys(keys, elements.boxes)
            case Dispatch(keys, verdicts):
                self._take_keys(keys, [box for box, _ in verdicts])
            case AssignFrom(field, keys, values):
                self.assigned.add(field)
                self._take_keys(keys, [box for box, _ in values])
            case Assign(field, parts):
                self.assigned.add(field)
                self.fields.update([source for source, _ in parts])
                for source, mask in parts:
                    if source in self.masks or field in self.masks:
                        self.masks[source if source in self.masks else field].add(mask & MAX_MARK)
                    if field in ADDRESSES:
                        self.exchanged[mask] = None
            case Forget(field):
                self.assigned.add(field)
            case Zone(_, even_untracked):
                self.has_templates = True
                self.tracks_after_all |= even_untracked
            case Tproxy(_, _, _, mask):
                self.masks[Field.MARK].add(mask)
            case _:
                pass

    def _take_keys(self, keys: tuple[Key, ...], boxes: Iterable[tuple[Intervals, ...]]) -> None:
        self.fields.update([key.field for key in keys])
        for place, key in enumerate(keys):
            if key.field in self.masks:
                self.masks[key.field].update(mask for box in boxes for mask in tested(box[place], key.mask))
            self._take_mask(key.field, key.mask)

    def _take_mask(self, field: Field, mask: int | None) -> None:
        if mask is not None and field in ADDRESSES:
            self.tested[mask] = None
        elif mask is not None and field in PORTS:
            self.ports[mask] = None

    def _take_netmap(self, rule: Rule, kind: NatKind, low: int, high: int) -> None:
        """What NETMAP keeps, unless the rule is for packets of one such network: then the others' bits are known."""
        field = Field.DESTINATION if kind.is_of_destination else Field.SOURCE
        network = ~(high - low)
        for statement in rule.body:
            match statement:
                case Test(tested, within, None, False) if tested is field and within:
                    if within[0][0] & network == within[-1][1] & network:
                        return
        self.exchanged[high - low] = None


def tested(within: Intervals, mask: int | None) -> Iterator[int]:
    """The masks of which a test of intervals is made."""
    mask = MAX_MARK if mask is None else mask
    for low, high in within:
        for _, size in blocks(low, min(high, MAX_MARK) + 1):
            yield mask & -size
