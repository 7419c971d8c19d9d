"""What takes root besides namespaces."""

from __future__ import annotations

import os

import pytest


def need_sight_of_all() -> None:
    """Skip where not every process may be looked into: what is not found is not ruled out there; the answer is 5."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an ordinary user may not look into every process")
