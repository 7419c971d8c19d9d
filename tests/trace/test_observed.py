"""What the kernel was seen to do, held to a prediction: what counts as agreement, and how a difference is told."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple

import pytest

from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.save import parse_save
from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.rules import Store
from istio_init.netfilter.stages import Netfilter
from istio_init.report.live_text import place_words
from istio_init.trace.observed import Observed, Place, disagreement, settled
from istio_init.trace.tracer import Tracer

CAPTURE = """*nat
:OUTPUT ACCEPT
:SIDE -
-A OUTPUT -p udp -j ACCEPT
-A OUTPUT -p tcp -j SIDE
-A SIDE -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
MAYBE = """*filter
:OUTPUT ACCEPT
-A OUTPUT -m limit --limit 1/s -j DROP
-A OUTPUT -p tcp
COMMIT
"""
COUNTED = """*filter
:OUTPUT ACCEPT
-A OUTPUT -p tcp
-A OUTPUT -d 10.0.0.5/32
COMMIT
"""
PACKET = Packet(Direction.OUTBOUND, 6, IPv4Address("10.1.2.3"), IPv4Address("10.0.0.5"), 40000, 80, 1000, 1000)


def nft(table: str, chain: str, number: int) -> Place:
    return Store.NFT, "ip", table, chain, number


def legacy(chain: str, number: int) -> Place:
    return Store.LEGACY, "ip", "filter", chain, number


def model(nft: str = "", legacy: str = "") -> Netfilter:
    """The rules of both stores."""
    texts = ((nft, Store.NFT), (legacy, Store.LEGACY))
    return Netfilter(
        [table for text, store in texts for table in lower(parse_save(text, Family.IPV4).rules, store) if text]
    )


CAPTURED = (nft("nat", "OUTPUT", 2), nft("nat", "SIDE", 1))


class Case(NamedTuple):
    """Rules, what was seen, and what is said of it; None where that agrees."""

    rules: Netfilter
    seen: Observed
    said: str | None


CASES = {
    "the same rules and port": Case(model(CAPTURE), Observed((CAPTURED, ()), port=15001), None),
    "another rule": Case(
        model(CAPTURE),
        Observed(((nft("nat", "OUTPUT", 1),),), port=80),
        "the kernel's rules are nat OUTPUT 1, predicted are nat OUTPUT 2, nat SIDE 1; then via lo none",
    ),
    "a rule more": Case(
        model(CAPTURE),
        Observed(((*CAPTURED, nft("filter", "OUTPUT", 1)), ()), port=15001),
        "the kernel's rules are nat OUTPUT 2, nat SIDE 1, filter OUTPUT 1; then via lo none, "
        "predicted are nat OUTPUT 2, nat SIDE 1; then via lo none",
    ),
    "stopped on the way": Case(model(CAPTURE), Observed((CAPTURED,)), "the kernel stops it"),
    "stopped behind all rules": Case(model(CAPTURE), Observed((CAPTURED, ())), "the kernel stops it"),
    "another port": Case(
        model(CAPTURE),
        Observed((CAPTURED, ()), port=15006),
        "the kernel delivers it to port 15006, predicted is 15001",
    ),
    "undecidable, and it goes on": Case(model(MAYBE), Observed(((nft("filter", "OUTPUT", 2),),), port=80), None),
    "undecidable, and it is dropped": Case(model(MAYBE), Observed(((nft("filter", "OUTPUT", 1),),)), None),
    "undecidable, and what cannot be": Case(
        model(MAYBE),
        Observed(((nft("filter", "OUTPUT", 2),),), port=81),
        "the kernel delivers it to port 81, predicted is 80",
    ),
    "counters that rose as predicted": Case(
        model(legacy=COUNTED), Observed(((),), ((legacy("OUTPUT", 1), 1), (legacy("OUTPUT", 2), 1)), 80), None
    ),
    "a counter that did not rise": Case(
        model(legacy=COUNTED),
        Observed(((),), ((legacy("OUTPUT", 1), 1),), 80),
        "these counters did not rise: filter (legacy) OUTPUT 2",
    ),
    "a counter that rose twice": Case(
        model(legacy=COUNTED),
        Observed(((),), ((legacy("OUTPUT", 1), 2), (legacy("OUTPUT", 2), 1)), 80),
        "the counters that rose are filter (legacy) OUTPUT 1, filter (legacy) OUTPUT 1, filter (legacy) OUTPUT 2, "
        "predicted are filter (legacy) OUTPUT 1, filter (legacy) OUTPUT 2",
    ),
    "a counter that an answer raised": Case(
        model(legacy=COUNTED),
        Observed(((),), ((legacy("OUTPUT", 1), 2), (legacy("OUTPUT", 2), 1)), 80, with_answers=True),
        None,
    ),
    "both stores": Case(
        model(CAPTURE, COUNTED),
        Observed((CAPTURED, ()), ((legacy("OUTPUT", 1), 1),), 15001),
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_difference_is_told_and_only_that(name: str) -> None:
    case = CASES[name]

    assert disagreement(Tracer(case.rules).trace(PACKET), case.seen, place_words) == case.said


def test_chains_of_one_priority_are_tried_in_each_order() -> None:
    tied = Netfilter([*model(CAPTURE).tables, *lower(parse_save(CAPTURE, Family.IPV4).rules, Store.LEGACY)])

    first = {Tracer(each).trace(PACKET).legs[0].hops[0].rule.origin.store for each in settled(tied, Family.IPV4)}

    assert first == {Store.NFT, Store.LEGACY}
