"""Fixtures of the tests of explain and ps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .sidecar import Sidecar


@pytest.fixture
def healthy(real_kernel: None) -> Iterator[Sidecar]:
    """A dual-stack pod with which nothing is wrong."""
    with Sidecar.create("--dual-stack") as made:
        yield made


@pytest.fixture(scope="session")
def untouched(real_kernel: None) -> Iterator[Sidecar]:
    """The same, one for all tests that only look."""
    with Sidecar.create("--dual-stack") as made:
        yield made
