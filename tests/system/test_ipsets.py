"""Sets of ipset are read as they are."""

from __future__ import annotations

import shutil

import pytest

from istio_init.errors import NoBackendError
from istio_init.system import ipsets
from istio_init.testing.namespaces import Namespace


@pytest.mark.skipif(shutil.which("ipset") is None, reason="needs ipset")
def test_sets_are_read_with_their_elements(real_kernel: None) -> None:
    with Namespace.create("sets") as namespace:
        namespace.run("ipset", "create", "blocked", "hash:net")
        namespace.run("ipset", "add", "blocked", "10.0.0.0/8")
        read = namespace.call(ipsets.read)
    assert isinstance(read, str)
    assert "create blocked hash:net family inet" in read
    assert "add blocked 10.0.0.0/8" in read


def test_without_the_program_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipsets, "PROGRAM", "not-there")
    assert isinstance(ipsets.read(), NoBackendError)
