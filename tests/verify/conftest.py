"""Fixtures of the tests of verify and of the drop-in's validation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from support.rules import BACKENDS, program

from istio_init.model.netfilter import Family
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod
from istio_init.testing.processes import CommandError


@pytest.fixture(scope="session", autouse=True)
def real_kernel() -> None:
    """Skip where namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("tests against the kernel need root")
    missing = [name for name in ("ip", "nft", "setpriv", "ss") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"tests against the kernel need {', '.join(missing)}")
    try:
        with Namespace.create("probe"):
            pass
    except CommandError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")


@pytest.fixture(scope="session")
def both_backends() -> None:
    """Skip where one of the two does not work."""
    with Namespace.create("probe") as namespace:
        for backend in BACKENDS:
            for family in Family:
                try:
                    namespace.run(program(backend, family), "-t", "nat", "-L", "-n")
                except CommandError as error:
                    pytest.skip(f"{backend} does not work here: {error}")


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A dual-stack pod that nothing was applied to."""
    with Pod.create() as made:
        yield made
