"""Settings of the property tests, and what tests against the kernel need."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings
from support.rules import BACKENDS, program

from istio_init.model.netfilter import Family
from istio_init.testing.namespaces import Namespace
from istio_init.testing.processes import CommandError

settings.register_profile(
    "trace",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("trace")


@pytest.fixture(scope="session")
def real_kernel() -> None:
    """Skip where namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("sending from inside namespaces needs root")
    missing = [name for name in ("ip", "nft") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"tests against the kernel need {', '.join(missing)}")
    try:
        with Namespace.create("probe"):
            pass
    except CommandError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest, real_kernel: None) -> str:
    """Each backend that works here."""
    name: str = request.param
    with Namespace.create("probe") as namespace:
        try:
            namespace.run(program(name, Family.IPV4), "-t", "nat", "-L", "-n")
        except CommandError as error:
            pytest.skip(f"{name} does not work here: {error}")
    return name
