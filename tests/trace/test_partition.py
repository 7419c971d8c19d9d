"""The map and the tracer agree: every packet is in exactly one class, with its outcome and the rule that decides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge.agreement import disagreements
from judge.draw import Draw

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.netfilter.family import Family
from istio_init.space.classes import classes
from istio_init.space.marks import Marks
from istio_init.space.space import is_inside
from istio_init.trace.engine import Tracer
from istio_init.trace.packet import Direction
from istio_init.wording.region_words import condition_words, decider_words, outcome_words

from .words import outcome_of, packet_of, rules_of, sidecar_rules

NO_MARKS: frozenset[int] = frozenset()
PACKETS = 25
"""Packets for each rule set and direction; scripts/map-check draws as many as one likes."""


def agree(draw: Draw, rules: RuleSet) -> None:
    marks = frozenset([0x539]) if draw.maybe() else NO_MARKS
    for direction in Direction:
        packets = draw.packets(rules, direction, PACKETS)
        found = next(disagreements(rules, direction, packets, marks), None)
        assert found is None, str(found)


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.sampled_from(Family))
def test_a_sidecars_rules_with_rules_of_others_among_them(seed: int, family: Family) -> None:
    draw = Draw(seed)

    agree(draw, draw.sidecar_rules(family))


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.sampled_from(Family))
def test_wild_rules_of_every_kind_in_every_table(seed: int, family: Family) -> None:
    draw = Draw(seed)

    agree(draw, draw.wild_rules(family))


def map_of(rules: RuleSet, direction: str) -> dict[str, list[str]]:
    """The conditions of each class."""
    space, found = classes(rules, Direction(direction))
    return {
        f"{outcome_words(each.outcome)}: {decider_words(each.decider)}": condition_words(space, each.regions)
        for each in found
    }


def test_the_map_of_the_injected_rules_can_be_read_aloud() -> None:
    rules = sidecar_rules("-b * -d 15090,15021,15020 -i * -u 1337")

    assert map_of(rules, "inbound") == {
        "to port 15006: nat ISTIO_IN_REDIRECT 1": ["tcp, not port 15008, 15020-15021, 15090"],
        "direct: nat ISTIO_INBOUND 1-4": ["tcp, port 15008, 15020-15021, 15090"],
        "direct: no rule takes it": ["not tcp"],
    }
    assert map_of(rules, "outbound") == {
        "to port 15001: nat ISTIO_REDIRECT 1": ["tcp, not to 127.0.0.1, not user 1337, not group 1337, not by lo"],
        "to port 15006: nat ISTIO_IN_REDIRECT 1": [
            "tcp, not to 127.0.0.1, not port 15008, user 1337, not from 127.0.0.6, by lo"
        ],
        "direct: nat ISTIO_OUTPUT 1": ["from 127.0.0.6, by lo"],
        "direct: nat ISTIO_OUTPUT 3": ["not user 1337, not from 127.0.0.6, by lo"],
        "direct: nat ISTIO_OUTPUT 4": [
            "user 1337, not by lo",
            "not tcp, user 1337, not from 127.0.0.6",
            "to 127.0.0.1, user 1337, not from 127.0.0.6",
            "tcp, port 15008, user 1337, not from 127.0.0.6",
        ],
        "direct: nat ISTIO_OUTPUT 7": ["not user 1337, group 1337, not by lo"],
        "direct: nat ISTIO_OUTPUT 8": ["to 127.0.0.1, not user 1337, not group 1337, not by lo"],
        "direct: no rule takes it": ["not tcp, not to 127.0.0.1, not user 1337, not group 1337, not by lo"],
    }


def test_a_thousand_ranges_are_one_class() -> None:
    ranges = ",".join(f"10.{number >> 8}.{number & 255}.0/24" for number in range(0, 2000, 2))
    found = map_of(sidecar_rules(f"-i * -x {ranges}"), "outbound")

    [excluded] = [lines for name, lines in found.items() if "9-" in name or "8-" in name]
    assert len(excluded) == 1


@pytest.mark.parametrize(
    ("interfaces", "name", "matches"),
    [
        (["eth+"], "eth0", True),
        (["eth+"], "net1", False),
        (["eth+", "eth0"], "eth1", False),
        (["e+", "eth+"], "ens1", False),
        (["+"], "anything", True),
    ],
)
def test_interfaces_that_rules_tell_apart_stay_apart(interfaces: list[str], name: str, matches: bool) -> None:
    """The last interface's rule redirects; names of the others are in the space as well."""
    others = "\n".join(f"nat OUTPUT -o {each} -p udp -j ACCEPT" for each in interfaces[:-1])
    rules = rules_of(f"{others}\nnat OUTPUT -o {interfaces[-1]} -p tcp -j REDIRECT --to-ports 1")
    packet = packet_of("outbound tcp 10.0.0.5:80", interface=name)
    space, found = classes(rules, Direction.OUTBOUND)

    [holding] = [each for each in found for region in each.regions if is_inside(space.region_of(packet), region)]

    assert outcome_of(holding.outcome) == outcome_of(Tracer(rules).trace(packet).delivered)
    assert (holding.outcome.kind == "redirect") == matches


def test_every_class_holds_a_packet_that_traces_to_its_outcome() -> None:
    rules = sidecar_rules(
        "-m TPROXY -b 80,8000:8090 -i 10.0.0.0/8 -x 10.1.0.0/16 -k net1 --redirect-dns", servers=("10.9.9.9",)
    )
    for direction in Direction:
        space, found = classes(rules, direction)
        for each in found:
            for region in each.regions:
                for possible in space.possible(region):
                    traced = Tracer(rules).trace(space.packet_in(possible))
                    assert outcome_of(traced.delivered) == outcome_of(each.outcome)


marks = st.integers(0, 2**32 - 1) | st.integers(0, 255)
masks = st.sampled_from([0xFFFFFFFF, 0xFF, 0x4000, 0x4001, 0x1])


@given(st.lists(st.tuples(marks, masks), min_size=1, max_size=4), marks, marks)
def test_classes_of_marks_answer_every_test_and_follow_every_change(
    named: list[tuple[int, int]], mark: int, other: int
) -> None:
    rules = rules_of(
        "\n".join(f"mangle OUTPUT -j MARK --set-xmark {value & mask:#x}/{mask:#x}" for value, mask in named)
    )
    space = Marks([entry.rule for *_, entry in rules.entries()])
    number = space.number(mark)

    assert space.number(space.example(number)) == number
    for value, mask in named:
        value &= mask
        assert any(low <= number <= high for low, high in space.test(value, mask)) == (mark & mask == value)
        assert space.combined(number, ~mask, space.number(value), 0xFFFFFFFF) == space.number((mark & ~mask) ^ value)
        copied = space.combined(space.number(other), ~mask, number, mask)
        assert copied == space.number((other & ~mask) ^ (mark & mask))
