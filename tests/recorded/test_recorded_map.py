"""All traffic of every recorded state is divided into classes, and each class is what its packets' traces say."""

from __future__ import annotations

import pytest
from judge.mapped import difference, draw_unsent
from judge.wild_pools import Draw

from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.save import parse_save
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.rules import Store
from istio_init.netfilter.stages import Netfilter
from istio_init.space.map import classes
from istio_init.trace.tracer import Tracer

from .cases import KEYS, Case, recorded, save_text

PACKETS = 220
"""For each family and direction of a case: more than 100,000 in all."""


@pytest.mark.parametrize("family", Family, ids=lambda family: family.value)
@pytest.mark.parametrize("case", recorded(), ids=lambda case: str(case["name"]))
def test_every_packet_is_in_the_one_class_that_its_trace_ends_in(case: Case, family: Family) -> None:
    rules = parse_save(save_text(case["expect"][KEYS[family]] or {}), family).rules
    netfilter, host = Netfilter(lower(rules, Store.NFT)), Host(local_marks={family: frozenset([1337])})
    tracer, draw = Tracer(netfilter, host), Draw(str(case["name"]))
    drawn = [draw_unsent(draw) for _ in range(4 * PACKETS)]
    for direction in Direction:
        found = classes(netfilter, host, family, direction)
        packets = [each for each in drawn if (each.family, each.direction) == (family, direction)]
        for packet in (*packets, *(each.example for each in found.classes)):
            assert not difference(tracer.trace(packet), found.class_of(packet))
