"""What one table does to a packet decides what the next one can: for a packet and for the map of all alike."""

from __future__ import annotations

import pytest

from istio_init.netfilter.host import Host
from istio_init.space.map import classes

from .words import netfilter_of, outcome_of, packet_of, rules_of, tracer_of

MARK = 0x539

RAW_MARK = """
raw OUTPUT -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x539/0xffffffff
mangle OUTPUT -j ACCEPT
mangle PREROUTING -i lo -j DROP
"""
MANGLE_MARK = """
mangle OUTPUT -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x539/0xffffffff
mangle PREROUTING -i lo -j DROP
"""
BOTH_MARKS = """
raw OUTPUT -p tcp -j MARK --set-xmark 0x1/0xffffffff
mangle OUTPUT -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x539/0xffffffff
mangle PREROUTING -i lo -j DROP
"""
TPROXY_FIRST = """
mangle PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff
nat PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9090
"""
UNKNOWN_MARK = """
mangle OUTPUT -p tcp -j HMARK --hmark-tuple dst --hmark-mod 1 --hmark-offset 0x77 --hmark-rnd 1
filter OUTPUT -m mark --mark 0x77 -j DROP
"""


@pytest.mark.parametrize(
    ("rules", "packet", "expected"),
    [
        pytest.param(RAW_MARK, "outbound tcp 10.0.0.5:80", "direct", id="only mangle has the kernel route again"),
        pytest.param(MANGLE_MARK, "outbound tcp 10.0.0.5:80", "drop", id="as it does"),
        pytest.param(BOTH_MARKS, "outbound tcp 10.0.0.5:80", "drop", id="also where raw gave another mark"),
        pytest.param(BOTH_MARKS, "outbound tcp 10.0.0.5:81", "direct", id="which leads nowhere by itself"),
        pytest.param(TPROXY_FIRST, "inbound tcp 10.1.2.3:8080", "tproxy 15006", id="who has a socket keeps it"),
        pytest.param(UNKNOWN_MARK, "outbound tcp 10.0.0.5:80", "unknown", id="a mark that nobody can tell"),
    ],
)
def test_a_packet_and_the_map_meet_the_same_fate(rules: str, packet: str, expected: str) -> None:
    sent, known = packet_of(packet), rules_of(rules)
    marks = frozenset([MARK])

    traced = tracer_of(known, marks).trace(sent)
    host = Host(local_marks={known.family: marks})
    own = classes(netfilter_of(known), host, known.family, sent.direction).class_of(sent)

    assert outcome_of(traced.delivered) == outcome_of(own.outcome) == expected
