"""Chains of equal priority stand in the order that the kernel tells, or in any."""

from __future__ import annotations

import pytest

from istio_init.netfilter.chains import BaseChain, Chain, ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.rules import End, Hook, Origin, Rule, Store, Verdict
from istio_init.netfilter.stages import Call, Core, NatCalls, Netfilter, Registered
from istio_init.observe.netfilter import has_ties

V4 = Family.IPV4


def table(name: str, priority: int, kind: ChainType = ChainType.FILTER, rules: int = 1) -> Table:
    origin = Origin(Store.NFT, "ip", name, "c", 1, "accept")
    rule = Rule((End(Verdict.ACCEPT),), origin, None, True)
    chain = Chain("c", (rule,) * rules, BaseChain(Hook.OUTPUT, priority, kind))
    return Table(Store.NFT, "ip", name, {"c": chain})


def names(netfilter: Netfilter) -> list[list[str]]:
    return [
        [
            each.table.name
            if isinstance(each, Call)
            else "+".join(call.table.name for call in each.calls)
            if isinstance(each, NatCalls)
            else each.name
            for each in stages
        ]
        for stages in netfilter.stages(V4, Hook.OUTPUT)
    ]


def place(name: str) -> Registered:
    return Store.NFT, "ip", name, "c"


def test_different_priorities_leave_no_doubt() -> None:
    netfilter = Netfilter([table("late", 5), table("early", -300), table("nat", 7, ChainType.NAT)])
    assert names(netfilter) == [["early", "CONNTRACK", "nat", "late"]]
    assert not has_ties(netfilter)


def test_equal_priorities_may_stand_in_either_order() -> None:
    netfilter = Netfilter([table("a", 5), table("b", 5)])
    assert names(netfilter) == [["CONNTRACK", "a", "b"], ["CONNTRACK", "b", "a"]]
    assert has_ties(netfilter)


def test_of_the_chains_of_one_table_the_last_one_comes_first() -> None:
    one, other = table("a", 5), table("b", 5)
    chain = one.chains["c"]
    both = Table(Store.NFT, "ip", "a", {"c": chain, "d": chain.replace(name="d", base=chain.base)})
    [found] = Netfilter([both]).stages(V4, Hook.OUTPUT)
    assert [each.chain.name for each in found if isinstance(each, Call)] == ["d", "c"]
    orders = Netfilter([both, other]).stages(V4, Hook.OUTPUT)
    told = [[each.table.name + each.chain.name for each in found if isinstance(each, Call)] for found in orders]
    assert sorted(told) == [["ad", "ac", "bc"], ["ad", "bc", "ac"], ["bc", "ad", "ac"]]


@pytest.mark.parametrize("count", [4, 5, 8])
def test_of_many_chains_each_may_be_the_first(count: int) -> None:
    netfilter = Netfilter([table(name, -100, ChainType.NAT) for name in "abcdefgh"[:count]])
    assert {each[1][0] for each in names(netfilter)} == set("abcdefgh"[:count])


def test_orders_of_two_priorities_are_followed_each() -> None:
    netfilter = Netfilter(
        [*(table(name, 5) for name in "abcd"), *(table(name, -100, ChainType.NAT) for name in "nmop")]
    )
    found = names(netfilter)
    assert (len({each[1] for each in found}), len({tuple(each[2:]) for each in found})) == (24, 24)


def test_an_empty_chain_makes_no_difference() -> None:
    assert not has_ties(Netfilter([table("a", 5), table("b", 5, rules=0)]))


def test_the_kernel_tells_the_order() -> None:
    order = {(V4, Hook.OUTPUT): (place("b"), Core.CONNTRACK, place("d"), Core.NAT, place("c"), place("a"))}
    netfilter = Netfilter(
        [table("a", 5), table("b", -200), table("c", -100), table("d", -100), table("n", 0, ChainType.NAT)], order
    )
    assert names(netfilter) == [["b", "CONNTRACK", "d", "n", "c", "a"]]
    assert not has_ties(netfilter)


def test_a_chain_where_the_kernel_works_by_itself_may_stand_before_or_behind() -> None:
    assert names(Netfilter([table("a", -200)])) == [["a", "CONNTRACK"], ["CONNTRACK", "a"]]
    netfilter = Netfilter([table("a", -100), table("n", 0, ChainType.NAT)])
    assert names(netfilter) == [["CONNTRACK", "a", "n"], ["CONNTRACK", "n", "a"]]


def test_nat_chains_of_equal_priority_may_stand_in_either_order() -> None:
    netfilter = Netfilter([table("n", -100, ChainType.NAT), table("m", -100, ChainType.NAT)])
    assert names(netfilter) == [["CONNTRACK", "n+m"], ["CONNTRACK", "m+n"]]
    assert not has_ties(netfilter)  # None that the kernel would tell.
