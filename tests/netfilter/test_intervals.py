"""The laws of sets of numbers that all of the map rests on."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from istio_init.netfilter.intervals import Intervals, contains, difference, intersection, size, union

numbers = st.integers(0, 40)
sets = st.lists(st.tuples(numbers, numbers).map(lambda ends: (min(ends), max(ends))), max_size=6).map(
    lambda found: union([((low, high),) for low, high in found])
)


def members(found: Intervals) -> set[int]:
    return {number for low, high in found for number in range(low, high + 1)}


@given(sets, sets)
def test_union_intersection_and_difference_are_those_of_sets(one: Intervals, other: Intervals) -> None:
    assert members(union([one, other])) == members(one) | members(other)
    assert members(intersection(one, other)) == members(one) & members(other)
    assert members(difference(one, other)) == members(one) - members(other)


@given(sets, sets)
def test_every_result_is_sorted_disjoint_and_not_adjacent(one: Intervals, other: Intervals) -> None:
    for found in (union([one, other]), intersection(one, other), difference(one, other)):
        ends = [end for interval in found for end in interval]
        assert ends == sorted(ends)
        assert all(high + 1 < low for (_, high), (low, _) in pairwise(found))


@given(sets, sets)
def test_equal_sets_are_equal_values(one: Intervals, other: Intervals) -> None:
    assert (one == other) == (members(one) == members(other))


@given(sets, sets)
def test_a_set_is_what_it_shares_with_another_and_what_it_does_not(one: Intervals, other: Intervals) -> None:
    shared, rest = intersection(one, other), difference(one, other)

    assert union([shared, rest]) == one
    assert intersection(shared, rest) == ()
    assert size(shared) + size(rest) == size(one)


@given(sets, numbers)
def test_contains_tells_members(found: Intervals, number: int) -> None:
    assert contains(found, number) == (number in members(found))


@given(sets)
def test_a_set_with_itself(found: Intervals) -> None:
    assert union([found, found]) == intersection(found, found) == found
    assert difference(found, found) == ()
