"""All traffic of every recorded state is divided into classes, and each class is what its packets' traces say."""

from __future__ import annotations

import pytest
from judge.agreement import disagreements
from judge.draw import Draw

from istio_init.dialects.iptables.save import parse_save
from istio_init.netfilter.family import Family
from istio_init.trace.packet import Direction

from .cases import KEYS, Case, recorded, save_text

PACKETS = 220
"""For each family and direction of a case: more than 100,000 in all."""


@pytest.mark.parametrize("family", Family, ids=lambda family: family.value)
@pytest.mark.parametrize("case", recorded(), ids=lambda case: str(case["name"]))
def test_every_packet_is_in_the_one_class_that_its_trace_ends_in(case: Case, family: Family) -> None:
    rules = parse_save(save_text(case["expect"][KEYS[family]] or {}), family).rules
    draw = Draw(case["name"])
    for direction in Direction:
        packets = draw.packets(rules, direction, PACKETS)
        found = next(disagreements(rules, direction, packets, frozenset([1337])), None)
        assert found is None, str(found)
