"""What the tests of the kit need of the machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def as_root() -> None:
    """Skip where namespaces cannot have names, or other users cannot be taken."""
    if os.geteuid() != 0:
        pytest.skip("named namespaces and other users need root")
    missing = [name for name in ("ip", "mount", "newuidmap", "setpriv", "unshare") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"this needs {', '.join(missing)}")


@pytest.fixture
def project(as_root: None) -> Iterator[Path]:
    """An empty directory that everybody may read and use."""
    with tempfile.TemporaryDirectory(prefix="project-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
