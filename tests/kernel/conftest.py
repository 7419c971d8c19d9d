"""Fixtures of the tests against the real kernel."""

from __future__ import annotations

import pytest

from istio_init.netfilter.family import Family


@pytest.fixture(params=Family, ids=lambda family: family.value)
def family(request: pytest.FixtureRequest) -> Family:
    """Each address family."""
    found: Family = request.param
    return found


@pytest.fixture(autouse=True)
def everywhere(real_kernel: None) -> None:
    """None of these tests goes without."""
