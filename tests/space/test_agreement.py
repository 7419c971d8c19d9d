"""Map and tracer are two walkers of the same model: what they say of a packet is the same."""

from __future__ import annotations

import pytest

from istio_init.netfilter.packet import Direction, Packet
from istio_init.space.map import classes
from istio_init.space.traffic import Map, TrafficClass
from istio_init.space.ways import RuleDecider
from istio_init.trace.result import Hop, Kind, ReversePathDecider, RoutingDecider, SocketDecider, Trace
from istio_init.trace.tracer import Tracer

from .drawing import Drawing

ROUTING = (RoutingDecider, ReversePathDecider)
"""Of several that may drop a packet either is named."""


@pytest.mark.parametrize("seed", range(120))
def test_a_packet_is_in_the_class_of_what_becomes_of_it(seed: int) -> None:
    drawing = Drawing(seed)
    netfilter, host = drawing.netfilter(), drawing.host()
    tracer = Tracer(netfilter, host)
    for direction in Direction:
        found = classes(netfilter, host, drawing.family, direction)
        packets = [drawing.packet(direction) for _ in range(30)]
        for packet in (*packets, *(each.example for each in found.classes)):
            trace = tracer.trace(packet)
            assert not _difference(found, trace, packet)


@pytest.mark.parametrize("seed", range(40))
def test_an_example_is_in_its_class_and_in_one_of_its_regions_alone(seed: int) -> None:
    drawing = Drawing(f"regions {seed}")
    netfilter, host = drawing.netfilter(), drawing.host()
    for direction in Direction:
        found = classes(netfilter, host, drawing.family, direction)
        for each in found.classes:
            assert found.class_of(each.example) is each
            assert len(each.regions) == len(list(each.regions)) > 0


def _difference(found: Map, trace: Trace, packet: Packet) -> str:
    """What differs; empty where nothing does."""
    traced, mapped = trace.delivered, found.class_of(packet)
    same = traced.kind is mapped.outcome.kind
    same &= mapped.outcome.port in (None, traced.port) and mapped.outcome.address in (None, traced.address)
    if same and (traced.kind is Kind.UNKNOWN or _decides(trace, mapped)):
        return ""
    return f"{packet}\ntrace: {traced} {trace.delivered_by} {trace.causes}\nmap: {mapped}"


def _decides(trace: Trace, mapped: TrafficClass) -> bool:
    one, other = trace.delivered_by, mapped.decider
    if isinstance(one, SocketDecider):
        one = one.hop
    if isinstance(one, Hop) and isinstance(other, RuleDecider):
        origin = one.rule.origin
        return origin.chain == other.rule.origin.chain and other.first <= origin.number <= other.last
    return type(one) is type(other) or isinstance(one, ROUTING) is isinstance(other, ROUTING) is True
