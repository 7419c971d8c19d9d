"""The value classes behave like frozen, slotted dataclasses."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from istio_init.dialects.iptables.matches import Address, IdRange, PortRange
from istio_init.mesh.routing import MarkRoute
from istio_init.netfilter.family import Family
from istio_init.value import MANY, Value


class Point(Value):
    """Two fields, the second with a default."""

    x: int
    y: int = 7
    """A docstring of a field is not a field."""

    @property
    def total(self) -> int:
        """A property is not a field either."""
        return self.x + self.y


class Pixel(Value):
    """The same fields as `Point`, and still something else."""

    x: int
    y: int = 7


class Empty(Value):
    """No fields at all."""


def test_fields_are_given_by_position_or_by_name() -> None:
    assert Point(1, 2) == Point(1, y=2) == Point(x=1, y=2) == Point(y=2, x=1)


def test_a_field_that_is_not_given_has_its_default() -> None:
    assert (Point(1).x, Point(1).y, Point(1).total) == (1, 7, 8)


def test_values_are_equal_when_type_and_fields_are() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(2, 1)
    assert Point(1, 2) != Pixel(1, 2)
    assert Point(1, 2) != (1, 2)
    assert Empty() == Empty()
    assert PortRange(1, 2) != IdRange(1, 2)


def test_equal_values_have_one_hash_and_other_types_another() -> None:
    assert len({Point(1, 2), Point(1, y=2), Pixel(1, 2), Empty(), Empty()}) == 3


def test_a_field_can_be_neither_set_nor_deleted() -> None:
    point = Point(1)

    with pytest.raises(AttributeError, match="Point is frozen"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="Point is frozen"):
        del point.x
    with pytest.raises(AttributeError, match="Point is frozen"):
        point.z = 2
    assert point == Point(1)


def test_a_value_has_slots_and_no_dictionary() -> None:
    assert not hasattr(Point(1), "__dict__")
    assert not hasattr(Empty(), "__dict__")


@pytest.mark.parametrize("value", [Point(1, 2), Empty(), MarkRoute(Family.IPV6, 1337, 133)], ids=repr)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_value_survives_pickling(value: Value, protocol: int) -> None:
    assert pickle.loads(pickle.dumps(value, protocol)) == value


def test_an_enum_inside_a_pickled_value_is_still_the_same_object() -> None:
    assert pickle.loads(pickle.dumps(MarkRoute(Family.IPV4, 1, 2))).family is Family.IPV4


def test_replace_copies_with_some_fields_changed() -> None:
    point = Point(1, 2)

    assert point.replace(y=3) == Point(1, 3)
    assert point.replace() == point
    assert point == Point(1, 2)


def test_replace_can_set_a_field_to_none() -> None:
    assert Address.__match_args__ == ("network", "negated")
    assert Point(1, 2).replace(y=None).y is None


def test_the_representation_names_every_field() -> None:
    assert repr(Point(1, 2)) == "Point(x=1, y=2)"


def test_a_value_can_be_matched_by_position() -> None:
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        pytest.param((), {}, id="a missing field"),
        pytest.param((), {"y": 2}, id="a missing field beside one that is given"),
        pytest.param((1, 2, 3), {}, id="too many"),
        pytest.param((1,), {"x": 1}, id="one twice"),
        pytest.param((1, 2), {"y": 2}, id="one twice with all by position"),
        pytest.param((1,), {"z": 1}, id="an unknown name"),
        pytest.param((1, 2), {"z": 1}, id="an unknown name with all by position"),
    ],
)
def test_wrong_arguments_are_refused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Point(*args, **kwargs)


def test_replace_refuses_an_unknown_field() -> None:
    with pytest.raises(TypeError):
        Point(1).replace(z=3)


def test_a_class_of_many_instances_goes_on_as_before() -> None:
    class Many(Value):
        one: int
        two: tuple[int, ...] = ()

    made = [Many(number, (number,)) for number in range(MANY + 10)]
    assert made[0] == Many(0, (0,)) and made[-1].one == MANY + 9
    assert Many(1) == Many(one=1, two=())
    assert Many(1).replace(two=(2,)) == Many(1, (2,))
    for wrong in ((), (1, (), 2)):
        with pytest.raises(TypeError):
            Many(*wrong)
    with pytest.raises(TypeError):
        Many(1, three=3)  # type: ignore[call-arg]
