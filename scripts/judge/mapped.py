"""Whether the map puts a packet into the class of what becomes of it, by the tracer, under wild rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Direction, Packet
from istio_init.space.diagram import TooManyPieces
from istio_init.space.map import classes
from istio_init.space.traffic import TrafficClass
from istio_init.trace.result import Kind, Trace
from istio_init.trace.tracer import Tracer
from judge.live import Seen, look
from judge.predict import packet_of
from judge.record import recording
from judge.wild_load import LabError
from judge.wild_packets import SYN, draw_packet
from judge.wild_pools import LINKS, Draw, local_addresses


class Compared(NamedTuple):
    """One rule set: how many packets agree, what became of them, and what differs."""

    seed: str
    agree: int
    kinds: Counter[str]
    cases: tuple[str, ...]
    failed: str


def compare(seed: str, count: int, lacking: Mapping[str, Sequence[str]]) -> Compared:
    """Load a wild rule set, read it, and ask map and tracer about so many packets that nobody sends."""
    try:
        _, seen = recording(seed, 0, lacking, look)
    except (LabError, OSError) as error:
        return Compared(seed, 0, Counter(), (), f"{type(error).__name__}: {error}")
    packets: dict[tuple[Family, Direction], list[Packet]] = {}
    draw = Draw(f"packets {seed}")
    for packet in (draw_unsent(draw) for _ in range(count)):
        packets.setdefault((packet.family, packet.direction), []).append(packet)
    agree, kinds, cases, failed = 0, Counter[str](), [], ""
    tracer = Tracer(seen.netfilter, seen.host)
    for (family, direction), some in packets.items():
        try:
            verdicts = list(_verdicts(seen, tracer, family, direction, some))
        except TooManyPieces:
            failed = f"{family.value} {direction.value}: too many pieces"
            continue
        for trace, found in verdicts:
            kinds[trace.delivered.kind.value] += 1
            if differs := difference(trace, found):
                cases.append(f"--- {seed}\n{differs}")
            else:
                agree += 1
    return Compared(seed, agree, kinds, tuple(cases), failed)


def _verdicts(
    seen: Seen, tracer: Tracer, family: Family, direction: Direction, packets: Sequence[Packet]
) -> Iterator[tuple[Trace, TrafficClass]]:
    found = classes(seen.netfilter, seen.host, family, direction)
    for packet in packets:
        yield tracer.trace(packet), found.class_of(packet)


def difference(trace: Trace, found: TrafficClass) -> str:
    """What differs of kind, port and address, in words; a class whose packets keep theirs names none."""
    one, other = trace.delivered, found.outcome
    if one.kind is other.kind and other.port in (None, one.port) and other.address in (None, one.address):
        return ""
    causes = "; ".join(f"{each.openness.value}: {each.words}" for each in (*trace.causes, *found.causes))
    return f"  {trace.packet}\n  trace: {one} {trace.delivered_by}\n  map: {other} {found.decider}\n  {causes}"


def draw_unsent(draw: Draw) -> Packet:
    """A connection's first packet as the map knows it: of what is beside its flow nothing is said."""
    made = draw_packet(draw)
    facts: dict[str, Any] = made.as_json() | dict.fromkeys(("bound", "ttl", "length", "type", "code", "pkttype"))
    here = local_addresses(made.family)
    if made.direction == "outbound":
        facts["interface"] = "lo" if made.dst in here else draw.choice(LINKS)
        facts["src"] = made.src or draw.choice(here)
    facts |= {"raw": False, "priority": 0, "tos": 0, "flags": SYN if made.proto == "tcp" else None}
    return packet_of(facts)


def is_decided(kinds: Counter[str]) -> int:
    """How many packets were sure to end somewhere."""
    return kinds.total() - kinds[Kind.UNKNOWN.value]
