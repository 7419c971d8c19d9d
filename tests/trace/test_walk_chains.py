"""Chains: verdicts, calls, and what becomes of a packet where nobody can tell whether a rule matches."""

from __future__ import annotations

import time

import pytest

from istio_init.netfilter.chains import Chain, ChainType
from istio_init.netfilter.fields import Field
from istio_init.netfilter.packet import Packet
from istio_init.netfilter.rules import (
    Assign,
    AssignFrom,
    Cause,
    Dispatch,
    Elements,
    End,
    Forget,
    Hook,
    Key,
    Lookup,
    Nat,
    NatKind,
    Note,
    Openness,
    Statement,
    Test,
    Undecided,
    Unknowable,
    Verdict,
)
from istio_init.trace.result import Kind, PolicyDecider

from .walking import base, chain, inbound, matched, packet, table, trace

ACCEPT, DROP, RETURN = (End(each) for each in (Verdict.ACCEPT, Verdict.DROP, Verdict.RETURN))
TCP = Test(Field.PROTOCOL, ((6, 6),))
UDP = Test(Field.PROTOCOL, ((17, 17),))
LIMIT = Undecided(Cause(Openness.OPEN, "limit rate 1/second"))
OTHER_LIMIT = Undecided(Cause(Openness.OPEN, "limit rate 2/second"))


def jump(name: str) -> End:
    return End(Verdict.JUMP, name)


def goto(name: str) -> End:
    return End(Verdict.GOTO, name)


def mark(value: int) -> Assign:
    return Assign(Field.MARK, (), value)


def is_marked(value: int) -> Test:
    return Test(Field.MARK, ((value, value),))


Body = tuple[Statement, ...]

VERDICTS: dict[str, tuple[tuple[Body, ...], dict[str, tuple[Body, ...]], bool, Kind]] = {
    "the policy drops what no rule takes": ((), {}, True, Kind.DROP),
    "accept passes by the policy": (((ACCEPT,),), {}, True, Kind.DIRECT),
    "return in a base chain is its policy": (((RETURN,), (ACCEPT,)), {}, True, Kind.DROP),
    "the end of a chain that was jumped to is no end": (
        ((jump("a"),), (DROP,)),
        {"a": ((Note(""),),)},
        False,
        Kind.DROP,
    ),
    "return goes on behind the jump": (((jump("a"),), (DROP,)), {"a": ((RETURN,), (ACCEPT,))}, False, Kind.DROP),
    "accept ends all chains of the hook": (((jump("a"),), (DROP,)), {"a": ((ACCEPT,),)}, False, Kind.DIRECT),
    "a goto does not come back": (((goto("a"),), (DROP,)), {"a": ((RETURN,),)}, False, Kind.DIRECT),
    "a goto of a chain that was jumped to comes back behind the jump": (
        ((jump("a"),), (DROP,)),
        {"a": ((goto("b"),), (ACCEPT,)), "b": ((RETURN,),)},
        False,
        Kind.DROP,
    ),
    "reject": (((End(Verdict.REJECT),),), {}, False, Kind.REJECT),
    "a program decides": (((End(Verdict.QUEUE),),), {}, False, Kind.UNKNOWN),
    "what is taken away": (((End(Verdict.STOLEN),),), {}, False, Kind.UNKNOWN),
    "what could do anything": (((Unknowable(Cause(Openness.NOT_MODELLED, "FOO")),),), {}, False, Kind.UNKNOWN),
    "a test behind an effect leaves the rule": (((mark(7), UDP, DROP), (is_marked(7), ACCEPT)), {}, True, Kind.DIRECT),
    "a chain that is missing": (((jump("a"),),), {}, False, Kind.UNKNOWN),
    "a chain that calls itself": (((jump("a"),),), {"a": ((jump("a"),),)}, False, Kind.UNKNOWN),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts_end_what_the_kernel_has_them_end(name: str) -> None:
    bodies, others, drops, kind = VERDICTS[name]
    chains = [chain(each, *rules) for each, rules in others.items()]
    found = trace(packet("8.8.8.8"), table(base(Hook.OUTPUT, *bodies, drops=drops), *chains))
    assert found.delivered.kind is kind
    assert bool(found.causes) is (kind is Kind.UNKNOWN)


def test_an_accepted_packet_meets_the_next_base_chain() -> None:
    first = table(base(Hook.OUTPUT, (ACCEPT,), priority=-10), name="first")
    second = table(base(Hook.OUTPUT, (DROP,), priority=10), name="second")
    found = trace(packet("8.8.8.8"), second, first)
    assert found.delivered.kind is Kind.DROP
    assert matched(found) == [["first output 1", "second output 1"]]


def test_a_policy_is_named_by_its_chain() -> None:
    found = trace(packet("8.8.8.8"), table(base(Hook.OUTPUT, drops=True), name="firewall"))
    assert isinstance(found.delivered_by, PolicyDecider)
    assert (found.delivered_by.table, found.delivered_by.chain) == ("firewall", "output")


UNDECIDED: dict[str, tuple[tuple[Body, ...], Kind, set[Kind], list[str]]] = {
    "both ways drop": (((LIMIT, DROP), (DROP,)), Kind.DROP, {Kind.DROP}, []),
    "it only logs": (((LIMIT, Note("LOG")), (TCP, DROP)), Kind.DROP, {Kind.DROP}, []),
    "one way drops": (((LIMIT, DROP),), Kind.UNKNOWN, {Kind.DIRECT, Kind.DROP}, ["limit rate 1/second"]),
    "another test of the rule fails": (((LIMIT, UDP, DROP),), Kind.DIRECT, {Kind.DIRECT}, []),
    "what it changes makes no difference": (((LIMIT, mark(1)), (ACCEPT,)), Kind.DIRECT, {Kind.DIRECT}, []),
    "only one of two matters": (
        ((LIMIT, mark(1)), (OTHER_LIMIT, DROP)),
        Kind.UNKNOWN,
        {Kind.DIRECT, Kind.DROP},
        ["limit rate 2/second"],
    ),
    "what it changes makes a difference": (
        ((LIMIT, mark(1)), (is_marked(1), DROP)),
        Kind.UNKNOWN,
        {Kind.DIRECT, Kind.DROP},
        ["limit rate 1/second"],
    ),
    "a field that cannot be told": (
        ((Forget(Field.MARK, Cause(Openness.OPEN, "HMARK")),), (is_marked(1), DROP)),
        Kind.UNKNOWN,
        {Kind.DIRECT, Kind.DROP},
        ["HMARK"],
    ),
    "a field that cannot be told, and is then set": (
        ((Forget(Field.MARK, Cause(Openness.OPEN, "HMARK")), mark(1)), (is_marked(1), DROP)),
        Kind.DROP,
        {Kind.DROP},
        [],
    ),
    "what one test says of a field another knows": (
        (
            (Forget(Field.MARK, Cause(Openness.OPEN, "HMARK")),),
            (is_marked(1), DROP),
            (is_marked(1), End(Verdict.QUEUE)),
            (Test(Field.MARK, ((1, 1),), None, True), DROP),
        ),
        Kind.DROP,
        {Kind.DROP},
        [],
    ),
    "a set of which not all is known": (
        ((Lookup((Key(Field.DPORT),), Elements("dynamic", (), is_complete=False)), DROP),),
        Kind.UNKNOWN,
        {Kind.DIRECT, Kind.DROP},
        ["the elements of dynamic"],
    ),
    "a map of which not all is known": (
        ((Dispatch((Key(Field.DPORT),), (), is_complete=False),),),
        Kind.UNKNOWN,
        {Kind.DIRECT, Kind.UNKNOWN},
        ["the elements of a map"],
    ),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_both_ways_of_what_nobody_can_tell_are_followed(name: str) -> None:
    bodies, kind, ways, causes = UNDECIDED[name]
    found = trace(packet("8.8.8.8"), table(base(Hook.OUTPUT, *bodies)))
    assert found.delivered.kind is kind
    assert {way.delivered.kind for way in found.ways} == ways
    assert [cause.words for cause in found.causes] == causes


def test_the_rule_that_cannot_be_told_is_listed_and_decides() -> None:
    found = trace(packet("8.8.8.8"), table(base(Hook.OUTPUT, (TCP, LIMIT, DROP))))
    [hop] = found.legs[0].hops
    assert (hop.matched, hop.missed) == (None, LIMIT)
    assert found.decided_by == hop


def test_the_way_that_is_listed_is_the_one_on_which_undecided_tests_do_not_hold() -> None:
    rules = base(Hook.OUTPUT, (LIMIT, jump("a")), (TCP, Note("LOG")))
    found = trace(packet("8.8.8.8"), table(rules, chain("a", (Note("LOG"),))))
    assert [(hop.rule.origin.chain, hop.matched) for hop in found.legs[0].hops] == [("output", None), ("output", True)]


MAPS = {
    80: ((DROP,), Kind.DROP),
    443: ((End(Verdict.JUMP, "a"),), Kind.REJECT),
    8080: ((), Kind.DIRECT),
}


@pytest.mark.parametrize("port", MAPS)
def test_a_verdict_map_gives_its_verdict_or_leaves_the_rule(port: int) -> None:
    verdicts = ((((80, 80),),), DROP), ((((443, 443),),), jump("a"))
    dispatch = Dispatch((Key(Field.DPORT),), verdicts)
    found = trace(packet("8.8.8.8", port), table(base(Hook.OUTPUT, (dispatch,)), chain("a", (End(Verdict.REJECT),))))
    assert found.delivered.kind is MAPS[port][1]


@pytest.mark.parametrize(
    ("port", "goes_on", "kind"), [(80, False, Kind.DROP), (81, False, Kind.DIRECT), (81, True, Kind.DROP)]
)
def test_a_map_of_values_leaves_the_rule_where_it_has_none(port: int, goes_on: bool, kind: Kind) -> None:
    given = AssignFrom(Field.MARK, (Key(Field.DPORT),), (((((80, 80),),), 7),), True, goes_on)
    found = trace(packet("8.8.8.8", port), table(base(Hook.OUTPUT, (given, DROP))))
    assert found.delivered.kind is kind


SETS: dict[str, tuple[tuple[Key, ...], tuple[tuple[tuple[tuple[int, int], ...], ...], ...], bool]] = {
    "one of many ports": ((Key(Field.DPORT),), tuple((((each, each),),) for each in range(70, 90)), True),
    "none of many ports": ((Key(Field.DPORT),), tuple((((each, each),),) for each in range(90, 99)), False),
    "a pair": ((Key(Field.PROTOCOL), Key(Field.DPORT)), (((((6, 6)),), ((80, 80),)),), True),
    "a range and a port": ((Key(Field.SPORT), Key(Field.DPORT)), ((((20000, 22000),), ((80, 80),)),), True),
    "a pair that is none": ((Key(Field.PROTOCOL), Key(Field.DPORT)), (((((6, 6)),), ((81, 81),)),), False),
    "some bits": ((Key(Field.DPORT, 0xF0),), ((((0x50, 0x50),),),), True),
    "ranges that overlap": ((Key(Field.DPORT),), ((((1, 90),),), (((85, 99),),)), True),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("negated", [False, True])
def test_a_set_has_what_lies_in_one_of_its_boxes(name: str, negated: bool) -> None:
    keys, boxes, holds = SETS[name]
    found = trace(packet("8.8.8.8"), table(base(Hook.OUTPUT, (Lookup(keys, Elements("s", boxes), negated), DROP))))
    assert found.delivered.kind is (Kind.DROP if holds is not negated else Kind.DIRECT)


def test_what_a_packet_does_not_have_answers_as_the_test_says() -> None:
    ping = packet("8.8.8.8", 0, protocol=1, icmp_type=8, icmp_code=0)
    for if_absent, kind in ((False, Kind.DIRECT), (True, Kind.DROP)):
        rule = (Test(Field.DPORT, ((80, 80),), None, True, if_absent), DROP)
        assert trace(ping, table(base(Hook.OUTPUT, rule))).delivered.kind is kind


FACTS = {
    "length": (Field.LENGTH, "the packet's length"),
    "ttl": (Field.TTL, "the packet's TTL"),
    "tos": (Field.TOS, "the packet's TOS"),
    "tcp_flags": (Field.TCP_FLAGS, "the packet's TCP flags"),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_that_is_not_given_is_named_where_it_matters(fact: str) -> None:
    field, words = FACTS[fact]
    sent = packet("8.8.8.8").replace(**{fact: None})
    found = trace(sent, table(base(Hook.OUTPUT, (Test(field, ((1, 9),)), DROP))))
    assert found.causes == (Cause(Openness.NOT_GIVEN, words),)
    assert trace(sent, table(base(Hook.OUTPUT, (TCP, DROP)))).causes == ()


def _nest(depth: int, *first: Statement) -> tuple[Chain, ...]:
    """Chains each of which calls the next one twice."""
    names = [f"c{number}" for number in range(depth)]
    called = [(jump(name),) for name in names]
    return (
        base(Hook.OUTPUT, (*first, *called[0])),
        *(chain(name, following, following) for name, following in zip(names[:-1], called[1:], strict=True)),
        chain(names[-1], (Note("LOG"),)),
    )


@pytest.mark.parametrize("first", [(), (LIMIT,)])
def test_chains_that_call_each_other_twice_are_not_walked_a_quintillion_times(first: tuple[Statement, ...]) -> None:
    found = trace(packet("8.8.8.8"), table(*_nest(58, *first)))
    assert (found.delivered.kind, found.causes) == (Kind.DIRECT, ())
    assert len(found.legs[0].hops) <= 100_000


def test_rules_that_lead_to_too_many_ways_end_in_an_answer() -> None:
    bits = [(LIMIT, Assign(Field.MARK, ((Field.MARK, 0xFFFFFFFF),), 1 << bit)) for bit in range(32)]
    started = time.process_time()
    found = trace(packet("8.8.8.8"), table(base(Hook.OUTPUT, *bits)))
    assert found.delivered.kind is Kind.UNKNOWN
    assert "too many" in found.causes[0].words
    assert time.process_time() - started < 5


def test_many_undecided_rules_that_change_nothing_cost_nothing() -> None:
    rules = [(LIMIT, Assign(Field.MARK, (), 5)) for _ in range(200)]
    found = trace(packet("8.8.8.8"), table(base(Hook.OUTPUT, *rules, (ACCEPT,))))
    assert (found.delivered.kind, found.causes) == (Kind.DIRECT, ())


def test_twenty_thousand_rules_are_walked_at_once() -> None:
    rules = [(Test(Field.DESTINATION, ((number, number),)), TCP, DROP) for number in range(20_000)]
    tables = table(base(Hook.OUTPUT, *rules))
    trace(packet("8.8.8.8"), tables)
    started = time.process_time()
    found = trace(packet("8.8.8.8"), tables)
    assert time.process_time() - started < 2
    assert len(found.legs[0].hops) == 20_000


def test_chains_of_the_same_priority_are_called_in_either_order_where_nobody_told() -> None:
    marks = table(base(Hook.OUTPUT, (mark(1),)), name="marks")
    drops = table(base(Hook.OUTPUT, (is_marked(1), DROP)), name="drops")
    found = trace(packet("8.8.8.8"), marks, drops)
    assert found.delivered.kind is Kind.UNKNOWN
    assert "order" in found.causes[0].words
    harmless = table(base(Hook.OUTPUT, (UDP, DROP)), name="harmless")
    assert trace(packet("8.8.8.8"), marks, harmless).causes == ()


def test_each_of_many_chains_of_the_same_priority_is_called_before_each_other() -> None:
    idle = [table(base(Hook.OUTPUT, (UDP, DROP)), name=f"idle{number}") for number in range(3)]
    marks = table(base(Hook.OUTPUT, (mark(1),)), name="marks")
    drops = table(base(Hook.OUTPUT, (is_marked(1), DROP)), name="drops")
    assert trace(packet("8.8.8.8"), drops, *idle, marks).delivered.kind is Kind.UNKNOWN
    assert trace(packet("8.8.8.8"), marks, *idle, drops).delivered.kind is Kind.UNKNOWN


DECIDERS: dict[str, tuple[Packet, Chain, str | None]] = {
    "a return of nat that keeps it from being redirected": (
        packet("8.8.8.8"),
        base(Hook.OUTPUT, (TCP, RETURN), (Nat(NatKind.REDIRECT, None, (15001, 15001)),), type=ChainType.NAT),
        "rule 1 of output",
    ),
    "an accept before routing": (
        inbound("10.1.2.3"),
        base(Hook.PREROUTING, (ACCEPT,), priority=-150),
        "rule 1 of prerouting",
    ),
    "an accept of a firewall decides nothing": (packet("8.8.8.8"), base(Hook.OUTPUT, (ACCEPT,)), None),
    "an accept of raw decides nothing": (inbound("10.1.2.3"), base(Hook.PREROUTING, (ACCEPT,), priority=-300), None),
    "a drop": (inbound("10.1.2.3"), base(Hook.INPUT, (DROP,)), "rule 1 of input"),
}


@pytest.mark.parametrize("name", DECIDERS)
def test_the_rule_is_named_that_decides(name: str) -> None:
    sent, rules, text = DECIDERS[name]
    found = trace(sent, table(rules), tracks=True)
    decider = found.delivered_by
    assert (None if decider is None else getattr(decider, "rule").origin.text) == text  # noqa: B009
