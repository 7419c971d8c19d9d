"""Whether a packet's trace says what the class says that it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import render_save
from istio_init.space.classes import TrafficClass, classes
from istio_init.space.space import is_inside
from istio_init.trace.engine import Trace, Tracer
from istio_init.trace.packet import Direction, Packet
from istio_init.wording.arguments import packet_arguments
from istio_init.wording.region_words import decider_words, outcome_words


class Disagreement(NamedTuple):
    """A packet that is in no class or in several, or whose trace ends otherwise."""

    rules: RuleSet
    packet: Packet
    traced: Trace
    found: list[TrafficClass]

    def __str__(self) -> str:
        by = self.traced.delivered_by
        where = f"{by.table.value} {by.rule.chain} {by.rule.number}" if by else "no rule"
        said = "; ".join(f"{outcome_words(each.outcome)}, {decider_words(each.decider)}" for each in self.found)
        return (
            f"{render_save(self.rules)}istio-init trace {packet_arguments(self.packet)}\n"
            f"trace: {outcome_words(self.traced.delivered)}, {where}\nmap: {said or 'no class'}"
        )


def disagreements(
    rules: RuleSet, direction: Direction, packets: list[Packet], local_marks: frozenset[int]
) -> Iterator[Disagreement]:
    """Every packet about which trace and map do not agree."""
    space, found = classes(rules, direction, local_marks)
    tracer = Tracer(rules, local_marks)
    for packet in packets:
        place = space.region_of(packet)
        holding = [each for each in found for region in each.regions if is_inside(place, region)]
        traced = tracer.trace(packet)
        if len(holding) != 1 or not _same(holding[0], traced):
            yield Disagreement(rules, packet, traced, holding)


def _same(found: TrafficClass, traced: Trace) -> bool:
    """Whether outcome, port and deciding rule are the same; a class whose packets keep their port names none."""
    outcome, hop, decider = traced.delivered, traced.delivered_by, found.decider
    kept = found.outcome.kind == "redirect" and found.outcome.port is None
    if outcome.kind != found.outcome.kind or (outcome.port != found.outcome.port and not kept):
        return False
    if kept and outcome.port != traced.packet.destination_port:
        return False
    if hop is None or decider is None:
        return hop is None and decider is None
    same_place = (hop.table, hop.rule.chain) == (decider.table, decider.chain)
    return same_place and decider.first <= hop.rule.number <= decider.last
