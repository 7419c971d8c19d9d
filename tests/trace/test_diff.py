"""Two rule sets compared by what they do: a witness for each change of behaviour, none for a change of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.rules import Entry, RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.stages import Netfilter
from istio_init.space.differences import differences
from istio_init.trace.result import Trace

from .words import netfilter_of, rules_of, sidecar_rules, tracer_of

REDIRECT = "-u 1337 -b * -d 15090,15021 -i * -x 10.0.0.0/8,192.168.0.0/16 -o 9000,9001"
TPROXY = "-u 1337 -m TPROXY -b * -d 15090 -i *"
LISTS = "-u 1337 -b 80,443 -i 10.0.0.0/8,172.16.0.0/12 -q 5000"
DNS = f"{REDIRECT} --redirect-dns --capture-all-dns"

MARKS = frozenset([1337])
Edit = Callable[[list[str]], list[str]]


class Change(NamedTuple):
    """An edit of one chain of a configuration's rules."""

    what: str
    arguments: str
    table: Table
    chain: str
    edit: Edit


def without(number: int) -> Edit:
    return lambda texts: texts[: number - 1] + texts[number:]


def with_rule(number: int, text: str) -> Edit:
    return lambda texts: [*texts[: number - 1], text, *texts[number - 1 :]]


def replaced(number: int, old: str, new: str) -> Edit:
    def edit(texts: list[str]) -> list[str]:
        assert old in texts[number - 1]
        return [*texts[: number - 1], texts[number - 1].replace(old, new), *texts[number:]]

    return edit


def swapped(one: int, other: int) -> Edit:
    def edit(texts: list[str]) -> list[str]:
        texts = list(texts)
        texts[one - 1], texts[other - 1] = texts[other - 1], texts[one - 1]
        return texts

    return edit


def changed(rules: RuleSet, change: Change) -> RuleSet:
    """The rule set with one chain edited."""
    chain = rules.tables[change.table][change.chain]
    texts = change.edit([str(entry.text) for entry in chain.entries])
    entries = tuple(Entry(parse_rule(text), text=text) for text in texts)
    chains = {**rules.tables[change.table], change.chain: chain.replace(entries=entries)}
    return RuleSet(rules.family, {**rules.tables, change.table: chains})


NAT, MANGLE = Table.NAT, Table.MANGLE

DIFFERENT = [
    Change("an excluded port less", REDIRECT, NAT, "ISTIO_INBOUND", without(2)),
    Change("an excluded port more", REDIRECT, NAT, "ISTIO_INBOUND", with_rule(1, "-p tcp -m tcp --dport 22 -j RETURN")),
    Change("another excluded port", REDIRECT, NAT, "ISTIO_INBOUND", replaced(2, "15090", "15091")),
    Change("no inbound capture", REDIRECT, NAT, "PREROUTING", without(1)),
    Change("no outbound capture", REDIRECT, NAT, "OUTPUT", without(1)),
    Change("another proxy port", REDIRECT, NAT, "ISTIO_REDIRECT", replaced(1, "15001", "15002")),
    Change("the proxy's user is another", REDIRECT, NAT, "ISTIO_OUTPUT", replaced(8, "1337", "1338")),
    Change("the proxy is captured itself", REDIRECT, NAT, "ISTIO_OUTPUT", without(8)),
    Change("a range wider", REDIRECT, NAT, "ISTIO_OUTPUT", replaced(13, "10.0.0.0/8", "10.0.0.0/7")),
    Change("a range less", REDIRECT, NAT, "ISTIO_OUTPUT", without(14)),
    Change("an excluded outbound port less", REDIRECT, NAT, "ISTIO_OUTPUT", without(1)),
    Change("a negation lost", REDIRECT, NAT, "ISTIO_OUTPUT", replaced(7, "! --uid", "--uid")),
    Change("capture before the exclusions", REDIRECT, NAT, "ISTIO_OUTPUT", swapped(13, 15)),
    Change("a foreign accept ahead", REDIRECT, NAT, "OUTPUT", with_rule(1, "-p tcp -m tcp --dport 443 -j ACCEPT")),
    Change("a foreign drop", REDIRECT, NAT, "ISTIO_REDIRECT", replaced(1, "REDIRECT --to-ports 15001", "DROP")),
    Change("a match that is not known", REDIRECT, NAT, "OUTPUT", with_rule(1, "-m recent --rcheck -j ACCEPT")),
    Change("a jump becomes a goto", REDIRECT, NAT, "OUTPUT", lambda texts: ["-g ISTIO_REDIRECT", *texts]),
    Change("an interface more", LISTS, NAT, "PREROUTING", with_rule(1, "-i net1 -j RETURN")),
    Change("an included port less", LISTS, NAT, "ISTIO_INBOUND", without(2)),
    Change("an included range less", LISTS, NAT, "ISTIO_OUTPUT", without(10)),
    Change("tproxy: no capture", TPROXY, MANGLE, "PREROUTING", without(1)),
    Change("tproxy: the proxy's own on lo is not marked", TPROXY, MANGLE, "OUTPUT", without(2)),
    Change("tproxy: another port", TPROXY, MANGLE, "ISTIO_TPROXY", replaced(1, "15006", "15007")),
    Change("dns: udp goes past the proxy", DNS, NAT, "ISTIO_OUTPUT_DNS", without(2)),
    Change("dns: to another port", DNS, NAT, "ISTIO_OUTPUT_DNS", replaced(1, "15053", "15054")),
]

EQUAL = [
    Change("a jump of udp to a chain that only takes tcp", REDIRECT, NAT, "PREROUTING", replaced(1, "-p tcp ", "")),
    Change("nothing", REDIRECT, NAT, "ISTIO_OUTPUT", lambda texts: texts),
    Change("excluded ports in another order", REDIRECT, NAT, "ISTIO_INBOUND", swapped(1, 3)),
    Change("ranges in another order", REDIRECT, NAT, "ISTIO_OUTPUT", swapped(13, 14)),
    Change("the proxy's user and its group in another order", REDIRECT, NAT, "ISTIO_OUTPUT", swapped(8, 11)),
    Change("a duplicate", REDIRECT, NAT, "ISTIO_OUTPUT", with_rule(14, "-d 10.0.0.0/8 -j RETURN")),
    Change("a shadowed range", REDIRECT, NAT, "ISTIO_OUTPUT", with_rule(14, "-d 10.1.0.0/16 -j RETURN")),
    Change("a shadowed port", REDIRECT, NAT, "ISTIO_INBOUND", with_rule(4, "-p tcp -m tcp --dport 15090 -j DROP")),
    Change("a rule behind one that takes everything", REDIRECT, NAT, "ISTIO_REDIRECT", with_rule(2, "-p tcp -j DROP")),
    Change("a rule that only counts", REDIRECT, NAT, "OUTPUT", with_rule(1, "-p tcp")),
    Change("a log", REDIRECT, NAT, "OUTPUT", with_rule(1, '-j LOG --log-prefix "x"')),
    Change("two halves of a range", REDIRECT, NAT, "ISTIO_OUTPUT",
           lambda texts: [*texts[:12], "-d 10.0.0.0/9 -j RETURN", "-d 10.128.0.0/9 -j RETURN", *texts[13:]]),
    Change("ports as one multiport", REDIRECT, NAT, "ISTIO_INBOUND",
           lambda texts: [texts[0], "-p tcp -m multiport --dports 15021,15090 -j RETURN", texts[3]]),
    Change("an accept where it returned", REDIRECT, NAT, "ISTIO_OUTPUT", replaced(8, "RETURN", "ACCEPT")),
    Change("a return at the end", REDIRECT, NAT, "ISTIO_OUTPUT", lambda texts: [*texts, "-j RETURN"]),
    Change("a comment", REDIRECT, NAT, "ISTIO_OUTPUT", replaced(15, "-j", "-m comment --comment note -j")),
    Change("a test of what is new anyway", REDIRECT, NAT, "ISTIO_REDIRECT",
           replaced(1, "-j", "-m conntrack --ctstate NEW -j")),
    # A packet that changes its namespace loses its mark (skb_scrub_packet, net/core/skbuff.c).
    Change("a test of a mark that no packet comes in with", TPROXY, MANGLE, "ISTIO_INBOUND", without(1)),
    Change("what only established connections meet", TPROXY, MANGLE, "ISTIO_INBOUND", without(5)),
    Change("tproxy: rules for the proxy's user and group in another order", TPROXY, MANGLE, "OUTPUT", swapped(2, 3)),
]  # fmt: skip


def found(before: RuleSet, after: RuleSet) -> list[tuple[Packet, bool]]:
    """The witnesses of all differences, and whether only marks differ."""
    return [
        (each.witness, each.before.outcome == each.after.outcome)
        for direction in Direction
        for each in differences(_side(before), _side(after), before.family, direction)
    ]


def _side(rules: RuleSet) -> tuple[Netfilter, Host]:
    return netfilter_of(rules), Host(local_marks={rules.family: MARKS})


def ends(trace: Trace) -> tuple[object, ...]:
    return trace.delivered, trace.state.mark, trace.state.connection_mark


def named(change: Change) -> str:
    return change.what.replace(" ", "-")


@pytest.mark.parametrize("change", DIFFERENT, ids=named)
def test_a_change_of_behaviour_has_witnesses_whose_traces_differ(change: Change) -> None:
    before = sidecar_rules(change.arguments)
    after = changed(before, change)

    witnesses = found(before, after)

    assert [only_marks for _, only_marks in witnesses].count(False) > 0
    for packet, only_marks in witnesses:
        one, other = tracer_of(before, MARKS).trace(packet), tracer_of(after, MARKS).trace(packet)
        assert ends(one) != ends(other)
        assert (one.delivered == other.delivered) == only_marks


@pytest.mark.parametrize("change", EQUAL, ids=named)
def test_a_change_of_text_has_none(change: Change) -> None:
    before = sidecar_rules(change.arguments)

    assert found(before, changed(before, change)) == []


@pytest.mark.parametrize("arguments", [REDIRECT, TPROXY, LISTS, DNS])
@pytest.mark.parametrize("family", Family, ids=lambda family: family.value)
def test_every_configuration_equals_itself(arguments: str, family: Family) -> None:
    assert found(sidecar_rules(arguments, family), sidecar_rules(arguments, family)) == []


UNKNOWN = """
    nat OUTPUT -m recent --rcheck --name one -j ONE
    nat OUTPUT -p tcp -j REDIRECT --to-ports 1
    nat ONE -p tcp -m tcp --dport 80 -j ACCEPT
"""


class Unknown(NamedTuple):
    """A rule set with a match that is not known, and what is done to it."""

    what: str
    old: str
    new: str
    equal: bool


@pytest.mark.parametrize(
    "case",
    [
        Unknown("the same on both sides", "", "", True),
        Unknown("a duplicate ahead of it", "nat OUTPUT -m", "nat OUTPUT -p tcp\nnat OUTPUT -m", True),
        Unknown("another one", "--name one", "--name two", False),
        Unknown("a change where it holds", "--dport 80", "--dport 81", False),
        Unknown("a change where it does not hold", "--to-ports 1", "--to-ports 2", False),
        Unknown("a change of how it goes on behind the match", "--dport 80 -j ACCEPT", "--dport 80 -g TWO", False),
    ],
    ids=lambda case: case.what.replace(" ", "-"),
)
def test_a_match_that_is_not_known_is_taken_to_answer_alike_on_both_sides(case: Unknown) -> None:
    after = UNKNOWN.replace(case.old, case.new, 1) if case.old else UNKNOWN

    assert (found(rules_of(UNKNOWN), rules_of(after)) == []) == case.equal


def test_the_same_target_that_is_not_known_is_equal() -> None:
    one = rules_of("nat OUTPUT -p tcp -j DNAT --to-destination 10.0.0.9")
    other = rules_of("nat OUTPUT -p udp\nnat OUTPUT -p tcp -j DNAT --to-destination 10.0.0.9")
    third = rules_of("nat OUTPUT -p tcp -j DNAT --to-destination 10.0.0.8")

    assert found(one, other) == []
    assert found(one, third) != []


def test_what_rejects_differs_from_what_drops() -> None:
    one = rules_of("filter INPUT -j REJECT --reject-with icmp-port-unreachable")

    assert found(one, rules_of("filter INPUT -j DROP")) != []


def test_marks_alone_make_a_difference() -> None:
    before = sidecar_rules(TPROXY)
    after = changed(before, Change("", TPROXY, MANGLE, "PREROUTING", without(2)))

    witnesses = found(before, after)

    assert witnesses
    assert all(only_marks for _, only_marks in witnesses)
