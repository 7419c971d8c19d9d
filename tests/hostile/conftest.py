"""What these tests need: root, and namespaces for ordinary users."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _kernel(real_kernel: None) -> None:
    """Real namespaces."""
