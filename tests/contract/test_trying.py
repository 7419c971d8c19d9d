"""python-iptables is tried where it can work; elsewhere the legacy programs are used at once, and it is said why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from istio_init.dialects.iptables.tables import Table
from istio_init.plan.model import Append, Declare
from istio_init.stores.legacy import IptablesLegacy

from .conftest import WAIT, Subject

LEGACY = pytest.mark.parametrize("subject", ["legacy with the programs"], indirect=True)
REASONS = {
    "iptables-restore v1.8.7 (legacy)": "",
    "iptables-restore v1.8.11 (legacy)": "python-iptables 1.2 cannot work with iptables 1.8.11",
    "iptables-restore v1.10.0 (legacy)": "python-iptables 1.2 cannot work with iptables 1.10.0",
    "no version": "",
}


@LEGACY
@pytest.mark.parametrize("said", REASONS)
def test_it_is_not_tried_with_an_iptables_that_is_too_new(
    said: str, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "iptables-legacy-restore"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    subject.seed(Table.FILTER, "-A OUTPUT -j ACCEPT")
    (tmp_path / "iptc.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin")
    subject.backend = made = IptablesLegacy(WAIT)

    assert subject.read() == {Table.FILTER: {"OUTPUT": ["-j ACCEPT"]}}
    assert ("cannot work with" in made.means) == bool(REASONS[said])
    assert REASONS[said] in made.means


@LEGACY
def test_without_it_the_programs_read_and_write(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    subject.backend = made = IptablesLegacy(WAIT)

    subject.commit(Table.NAT, Declare("ISTIO_OUTPUT"), Append("ISTIO_OUTPUT", "-j RETURN"))

    assert subject.read() == subject.saved() == {Table.NAT: {"ISTIO_OUTPUT": ["-j RETURN"]}}
    assert made.means == "iptables-legacy-restore (python-iptables is not installed)"
