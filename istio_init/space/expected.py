"""Which connections a namespace can have at all: those that it would send or deliver if it had no rules."""

from __future__ import annotations

from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.names import number_of
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.rules import Test
from istio_init.netfilter.stages import Netfilter
from istio_init.space.leaving import UNTRIED
from istio_init.space.namespace import Namespace
from istio_init.space.outcomes import outcome_of
from istio_init.space.walk import Walk
from istio_init.trace.result import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.diagram import Diagrams, Node
    from istio_init.space.layout import Layout
    from istio_init.space.regions import Packets

NOWHERE = "nowhere"
"""In place of what becomes of packets that there are not."""

ANY_HOST: Intervals = ((AddressType.UNICAST.value, AddressType.LOCAL.value),)
THIS_HOST: Intervals = ((AddressType.LOCAL.value, AddressType.LOCAL.value),)
TYPES = {
    Direction.OUTBOUND: (Test(Field.DESTINATION_TYPE, ANY_HOST), Test(Field.SOURCE_TYPE, THIS_HOST)),
    Direction.INBOUND: (Test(Field.DESTINATION_TYPE, ANY_HOST), Test(Field.SOURCE_TYPE, ANY_HOST)),
}
"""Connections are from one host to another; a pod sends from addresses of its own."""

ARRIVING = frozenset([Kind.DIRECT, Kind.FORWARD])


def expected(
    diagrams: Diagrams, layout: Layout, host: Host, direction: Direction, packets: Packets, refused: Node | None = None
) -> Node:
    """True for packets via interfaces that exist that the host itself does not drop; of an unknown host for all.

    Also for those that are ``refused`` to their sender, if that is given (`Leaving.refused`), as no route leads there;
    what nobody tries is left out, too.
    No packet comes in with a mark: it loses it where it changes its namespace (skb_scrub_packet, net/core/skbuff.c).
    """
    yes, no = diagrams.leaf(True), diagrams.leaf(False)

    def both(one: Node, other: Node) -> Node | None:
        if one is no or other is no:
            return no
        return one if other is yes else other if one is yes else None

    def tried(one: Node, refused: Node) -> Node | None:
        if refused.children:
            return None
        return one if refused.value is None else no if refused.value in UNTRIED else yes

    wanted = yes
    if direction is Direction.INBOUND:
        for group in layout.groups[Field.MARK]:
            wanted = diagrams.combine(wanted, diagrams.test(group.dim, ((0, 0),), yes, no), both)
    if host.routes is None:
        return wanted
    bare = Namespace(diagrams, layout, Netfilter([]), host)
    ends = Walk(bare, direction).run()
    arriving = diagrams.mapped(
        ends, lambda ends: yes if {outcome_of(way).kind for way in ends.ways} <= ARRIVING else no
    )
    names = sorted(number_of(link.name) for link in host.links if link.is_up)
    there = diagrams.test(layout.dim(packets.interface), tuple((name, name) for name in names), yes, no)
    to, source = [bare.truths.node(each) for each in TYPES[direction]]
    for node in (arriving, to):
        certain = diagrams.mapped(node, lambda answer: yes if answer is True else no)
        wanted = diagrams.combine(wanted, certain, both)
    if refused is not None:
        wanted = diagrams.combine(wanted, refused, tried)
    for node in (there, source):
        certain = diagrams.mapped(node, lambda answer: yes if answer is True else no)
        wanted = diagrams.combine(wanted, certain, both)
    return wanted


def only(diagrams: Diagrams, top: Node, wanted: Node) -> Node:
    """The diagram where packets are wanted, and NOWHERE elsewhere."""
    nowhere = diagrams.leaf(NOWHERE)

    def join(one: Node, other: Node) -> Node | None:
        if other.children:
            return None
        return one if other.value else nowhere

    return diagrams.combine(top, wanted, join)
