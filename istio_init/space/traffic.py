"""Traffic in classes: packets that one thing becomes of, with the regions in which they are."""

from __future__ import annotations

from itertools import islice

from istio_init.space.covering import Cover, Told
from istio_init.space.expected import NOWHERE
from istio_init.space.nodes import count, paths, value_at
from istio_init.space.shares import shares
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from istio_init.netfilter.packet import Packet
    from istio_init.netfilter.rules import Cause
    from istio_init.space.diagram import Node
    from istio_init.space.outcomes import Verdict
    from istio_init.space.regions import Packets, Region
    from istio_init.space.ways import Decider
    from istio_init.trace.result import Outcome


class Regions:
    """The disjoint regions of some packets, worked out when they are asked for."""

    __slots__ = ("_packets", "_top", "_values")

    def __init__(self, top: Node, values: frozenset[Hashable], packets: Packets) -> None:
        self._top = top
        self._values = values
        self._packets = packets

    def __iter__(self) -> Iterator[Region]:
        for path in paths(self._top, self._values, self._packets.layout.sizes):
            yield self._packets.region(path)

    def __len__(self) -> int:
        return count(self._top, self._values)

    def first(self, most: int) -> list[Region]:
        """So many of them at most."""
        return list(islice(self, most))

    def simplest(self, most: int) -> list[Region]:
        """Fewer and wider regions with the same packets, which may overlap; so many at most."""
        told = self._packets.told
        if self._top not in told:
            told[self._top] = Told(self._top, self._packets.layout.sizes)
        absent = frozenset([NOWHERE])
        found = Cover(told[self._top], self._values, absent, self._packets.layout).paths(most)
        return [self._packets.region(path) for path in found]


class TrafficClass(Value):
    """Packets with one outcome, decided by one rule; UNKNOWN for the same causes."""

    outcome: Outcome
    decider: Decider | None
    causes: tuple[Cause, ...]
    regions: Regions
    example: Packet


class Map:
    """All classes; each packet is in exactly one."""

    __slots__ = ("_by_verdict", "_packets", "_top", "classes")

    def __init__(self, top: Node, packets: Packets) -> None:
        self._top = top
        self._packets = packets
        found = packets.examples(top)
        self.classes = tuple(
            TrafficClass(
                leaf.value.outcome,
                leaf.value.decider,
                leaf.value.causes,
                Regions(top, frozenset([leaf.value]), packets),
                example,
            )
            for leaf, (_, example) in found.items()
            if leaf.value != NOWHERE
        )
        verdicts = [leaf.value for leaf in found if leaf.value != NOWHERE]
        self._by_verdict: dict[Verdict, TrafficClass] = dict(zip(verdicts, self.classes, strict=True))

    def by_share(self) -> list[tuple[float, TrafficClass]]:
        """The classes with their part of all packets, the largest first, each number as likely as any other."""
        found = shares(self._top, self._packets.layout.sizes)
        total = sum(share for value, share in found.items() if value != NOWHERE) or 1.0
        parts = [(found.get(verdict, 0.0) / total, each) for verdict, each in self._by_verdict.items()]
        return sorted(parts, key=lambda part: -part[0])

    def together(self, classes: Sequence[TrafficClass]) -> Regions:
        """The regions of several classes, told as if they were one."""
        values = [verdict for verdict, each in self._by_verdict.items() if any(each is one for one in classes)]
        return Regions(self._top, frozenset(values), self._packets)

    def class_of(self, packet: Packet) -> TrafficClass:
        """The class of a packet of this direction and family, the first one of a connection."""
        return self._by_verdict[value_at(self._top, self._packets.place(packet))]
