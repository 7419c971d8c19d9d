"""Rules that can never match are read as such."""

from __future__ import annotations

import pytest

from istio_init.dialects.iptables.tables import Table
from istio_init.netfilter.family import Family

from .conftest import Subject

EVERYTHING = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}


@pytest.mark.parametrize("flag", ["-s", "-d"])
def test_everything_but_everything_is_not_read_as_everything(flag: str, subject: Subject) -> None:
    if subject.kind == "nft":
        pytest.xfail("the kernel refuses such a rule")
    text = f"! {flag} {EVERYTHING[subject.family]} -j ACCEPT"
    subject.seed(Table.NAT, f"-A OUTPUT {text}")

    assert subject.chain(Table.NAT, "OUTPUT") == [text]
