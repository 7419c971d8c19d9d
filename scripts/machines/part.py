"""Run in a machine: one of several equal parts of some tests, as an emulated processor takes long for all of them.

usage: part.py NUMBER OF FILE...
"""

from __future__ import annotations

import sys

import pytest

OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--timeout=1800", "-ra", "-k", "not fake")
"""The store that is a fake is the same on every kernel."""


class Part:
    """Leaves the tests that belong to one part, in their order."""

    def __init__(self, number: int, of: int) -> None:
        self.number, self.of = number, of

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep them."""
        first, end = (len(items) * number // self.of for number in (self.number - 1, self.number))
        config.hook.pytest_deselected(items=[*items[:first], *items[end:]])
        items[:] = items[first:end]


if __name__ == "__main__":
    sys.exit(pytest.main([*OPTIONS, *sys.argv[3:]], [Part(int(sys.argv[1]), int(sys.argv[2]))]))
