"""Fixtures of the tests of verify and of the drop-in's validation."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def everywhere(real_kernel: None) -> None:
    """None of these tests goes without."""
