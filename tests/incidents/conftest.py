"""The pod that incidents are made in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .ward import Ward


@pytest.fixture(scope="module")
def shared(real_kernel: None) -> Iterator[Ward]:
    """One pod for a module's incidents."""
    with Ward.create() as made:
        yield made


@pytest.fixture
def ward(shared: Ward) -> Ward:
    """The pod, without rules."""
    shared.empty()
    return shared
