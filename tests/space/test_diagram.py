"""Decision diagrams, held against functions that are asked at every place."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from istio_init.space.diagram import (
    Diagrams,
    Moved,
    Node,
    TooManyPieces,
    Unknown,
    blocks,
    leaves,
    value_at,
)
from istio_init.space.rebuilding import Substitute

SIZES = (4, 8, 2, 8)
PLACES = [dict(enumerate(place)) for place in product(*map(range, SIZES))]


def drawn(diagrams: Diagrams, random: Random, values: str = "abc") -> Node:
    """Any function: a few tests over one another."""
    found = diagrams.leaf(random.choice(values))
    for _ in range(random.randrange(6)):
        parts = []
        for dim, size in enumerate(SIZES):
            if random.random() < 0.5:
                low = random.randrange(size)
                parts.append((dim, ((low, random.randrange(low, size)),)))
        yes = diagrams.leaf("yes")
        no = diagrams.leaf("no")
        test = yes
        for dim, within in reversed(parts):
            test = diagrams.test(dim, within, test, no)
        value = diagrams.leaf(random.choice(values))

        def first(one: Node, other: Node, value: Node = value, yes: Node = yes, no: Node = no) -> Node | None:
            return value if one is yes else other if one is no else None

        found = diagrams.combine(test, found, first)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_two_functions_together_are_what_their_values_are_together(seed: int) -> None:
    diagrams, random = Diagrams(SIZES), Random(seed)
    one, other = drawn(diagrams, random), drawn(diagrams, random)

    def join(one: Node, other: Node) -> Node | None:
        return diagrams.leaf(one.value + other.value) if one.value and other.value else None

    found = diagrams.combine(one, other, join)
    for place in PLACES:
        assert value_at(found, place) == value_at(one, place) + value_at(other, place)
    assert sorted(leaves(found)) == sorted({value_at(found, place) for place in PLACES})


@pytest.mark.parametrize("seed", range(40))
def test_a_number_in_place_of_a_dimension_is_the_function_there(seed: int) -> None:
    diagrams, random = Diagrams(SIZES), Random(seed)
    one = drawn(diagrams, random)
    dim = random.randrange(4)
    number = random.randrange(SIZES[dim])
    found = diagrams.substituted(one, {dim: number}, _never)
    assert not found.support >> dim & 1
    for place in PLACES:
        assert value_at(found, place) == value_at(one, {**place, dim: number})


@pytest.mark.parametrize("seed", range(80))
def test_a_dimension_can_stand_for_another_one_with_bits_flipped(seed: int) -> None:
    diagrams, random = Diagrams(SIZES), Random(seed)
    one = drawn(diagrams, random)
    flipped = random.choice([0, 1, 5, 7])
    third: Substitute = 2 if random.random() < 0.5 else Moved(1, flipped)
    values: dict[int, Substitute] = {1: Moved(3, flipped), 3: third}
    found = diagrams.substituted(one, values, _never)
    for place in PLACES:
        moved = {**place, 1: place[3] ^ flipped, 3: 2 if values[3] == 2 else place[1] ^ flipped}
        assert value_at(found, place) == value_at(one, moved)


@pytest.mark.parametrize("seed", range(40))
def test_a_number_that_is_not_known_gives_all_values_that_it_could_give(seed: int) -> None:
    diagrams, random = Diagrams(SIZES), Random(seed)
    one = diagrams.mapped(drawn(diagrams, random), lambda value: diagrams.leaf(frozenset(value)))
    dim = random.randrange(4)

    def either(one: Node, other: Node) -> Node | None:
        return diagrams.leaf(one.value | other.value) if one.value is not None and other.value is not None else None

    found = diagrams.substituted(one, {dim: Unknown("a rule")}, either)
    for place in PLACES:
        every = [value_at(one, {**place, dim: number}) for number in range(SIZES[dim])]
        assert value_at(found, place) == frozenset.union(*every)


@pytest.mark.parametrize("seed", range(20))
def test_equal_functions_are_the_same_object_whatever_they_were_made_of(seed: int) -> None:
    diagrams, random = Diagrams(SIZES), Random(seed)
    found = [drawn(diagrams, random, "ab") for _ in range(60)]
    by_values: dict[tuple[object, ...], Node] = {}
    for one in found:
        assert by_values.setdefault(tuple(value_at(one, place) for place in PLACES), one) is one


def test_too_many_edges_are_said() -> None:
    diagrams = Diagrams(SIZES, most=3)
    with pytest.raises(TooManyPieces):
        diagrams.test(0, ((1, 1), (3, 3)), diagrams.leaf(1), diagrams.leaf(0))


@pytest.mark.parametrize(("low", "high"), [(0, 8), (0, 1), (1, 8), (3, 13), (5, 5), (0, 7), (6, 7)])
def test_blocks_are_aligned_and_cover_an_interval(low: int, high: int) -> None:
    found = list(blocks(low, high))
    assert [number for start, size in found for number in range(start, start + size)] == list(range(low, high))
    assert all(start % size == 0 for start, size in found)


def _never(one: Node, other: Node) -> Node | None:
    raise AssertionError


@pytest.mark.parametrize("seed", range(20))
def test_steps_of_a_number_are_told_by_its_digits(seed: int) -> None:
    diagrams, random = Diagrams((4, 8, 2)), Random(seed)
    starts = [0, *sorted(random.sample(range(1, 64), random.randrange(6)))]
    found = diagrams.stepped([(0, 4), (1, 1), (2, 0)], starts, [diagrams.leaf(start) for start in starts])
    for number in range(64):
        place = {0: number >> 4, 1: number >> 1 & 7, 2: number & 1}
        assert value_at(found, place) == max(start for start in starts if start <= number)


def test_some_numbers_have_diagrams_of_their_own() -> None:
    diagrams = Diagrams((4, 8))
    found = diagrams.at(0, {0: diagrams.leaf("a"), 1: diagrams.leaf("b"), 3: diagrams.leaf("c")}, diagrams.leaf("-"))
    assert [value_at(found, {0: number}) for number in range(4)] == ["a", "b", "-", "c"]
