"""The pytest plugin: fixtures for tests that send real traffic through real redirection rules.

Every test run of an environment loads this, so that it imports what makes namespaces when a test asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from istio_init.testing.namespaces import Namespace
    from istio_init.testing.pods import Mesh, Pod


@pytest.fixture
def istio_namespace() -> Iterator[Namespace]:
    """An empty network namespace in which lo is up."""
    from istio_init.testing.namespaces import Namespace

    with Namespace.create() as made:
        yield made


@pytest.fixture
def istio_mesh() -> Iterator[Mesh]:
    """A mesh to which ``istio_mesh.pod("name")`` adds pods; they reach each other and the rest of the world."""
    from istio_init.testing.pods import Mesh

    with Mesh.create() as made:
        yield made


@pytest.fixture
def istio_pod(istio_mesh: Mesh) -> Pod:
    """A pod with an IPv4 and an IPv6 address, to which no rules are applied; the first of ``istio_mesh``."""
    return istio_mesh.pod()
