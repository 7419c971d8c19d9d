"""The second order of dimensions is tried with the memory that the first one took."""

from __future__ import annotations

import weakref

import pytest

from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.netfilter.stages import Netfilter
from istio_init.space.attempts import in_some_order
from istio_init.space.diagram import TooManyPieces
from istio_init.space.layout import Layout


class Much:
    """What takes memory."""


def test_what_the_first_order_made_is_let_go_before_the_second_is_tried() -> None:
    kept: list[weakref.ref[Much]] = []

    def made(layout: Layout) -> bool:
        if kept:
            return kept[0]() is None
        much = Much()
        kept.append(weakref.ref(much))
        raise TooManyPieces

    assert in_some_order(Family.IPV4, [(Netfilter([]), Host())], made)


def test_what_no_order_stands_is_too_much() -> None:
    def made(layout: Layout) -> bool:
        raise TooManyPieces

    with pytest.raises(TooManyPieces):
        in_some_order(Family.IPV4, [(Netfilter([]), Host())], made)
