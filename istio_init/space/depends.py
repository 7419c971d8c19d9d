"""On which assumed values of a packet its outcome depends: on all of them together, not one at a time."""

from __future__ import annotations

from istio_init.netfilter.fields import CtState, Field
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.rules import AnyOf, Test
from istio_init.space.diagram import Diagrams
from istio_init.space.layout import NO_SOCKET
from istio_init.space.map import in_some_order, outcomes_of, possible
from istio_init.space.namespace import Namespace
from istio_init.space.regions import Packets
from istio_init.space.walk import Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.netfilter.host import Host
    from istio_init.netfilter.packet import Packet
    from istio_init.netfilter.rules import Condition, Rule, Statement
    from istio_init.netfilter.stages import Netfilter
    from istio_init.space.boxes import Region
    from istio_init.space.layout import Layout

FIELDS = {
    "src": Field.SOURCE,
    "dst": Field.DESTINATION,
    "sport": Field.SPORT,
    "dport": Field.DPORT,
    "uid": Field.UID,
    "gid": Field.GID,
    "mark": Field.MARK,
}
"""The fields of packets by the names under which people give them; the interface's depends on the direction."""


def depends_on(netfilter: Netfilter, host: Host, packet: Packet, assumed: Iterable[str]) -> tuple[str, ...]:
    """The names of the assumed values for which other values, together, would lead to another outcome.

    Raises:
        TooManyPieces: the rules divide such packets into more than can be looked at.
    """
    names = list(assumed)
    fields = {**FIELDS, "interface": _interface(packet)}
    free = {fields[name]: name for name in names if name in fields}

    def made(layout: Layout) -> frozenset[Field]:
        packets = Packets(layout, packet.direction, host)
        place = packets.place(packet)
        known: Region = {dim: ((number, number),) for dim, number in place.items() if layout.fields[dim] not in free}
        diagrams = Diagrams(layout.sizes)
        ends = Walk(Namespace(diagrams, layout, netfilter, host), packet.direction, known).run()
        top = possible(diagrams, outcomes_of(diagrams, diagrams.within(ends, known)), packets)
        if packet.uid is not None and Field.UID in free:
            top = diagrams.without(top, layout.dim(Field.UID), NO_SOCKET)
        return frozenset(
            field for dim, field in enumerate(layout.fields) if field is not None and top.support >> dim & 1
        )

    found = in_some_order(packet.family, [(netfilter, host)], made) if free else frozenset()
    return tuple(name for name in names if fields.get(name) in found)


def _interface(packet: Packet) -> Field:
    return Field.OUT_INTERFACE if packet.direction is Direction.OUTBOUND else Field.IN_INTERFACE


def looks_for_invalid(netfilter: Netfilter) -> bool:
    """Whether a rule looks for packets of no connection: a first packet could be one, then."""
    return any(_asks(statement) for rule in _rules(netfilter) for statement in rule.body)


def _asks(statement: Statement | Condition) -> bool:
    if isinstance(statement, AnyOf):
        return any(_asks(each) for option in statement.options for each in option)
    is_state = isinstance(statement, Test) and statement.field is Field.CT_STATE
    return is_state and bool((statement.mask or 0) & CtState.INVALID)  # type: ignore[union-attr]


def _rules(netfilter: Netfilter) -> Iterator[Rule]:
    for table in netfilter.tables:
        for chain in table.chains.values():
            yield from chain.rules
