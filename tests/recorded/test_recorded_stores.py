"""The arguments of each case written natively and for iptables: both do the same, and are what is expected."""

from __future__ import annotations

import json
import shlex

import pytest
from support.command import drop_in

from istio_init.cli.app import run

from .cases import Case, recorded
from .test_recorded_cases import place

CASES = [case for case in recorded() if case["expect"]["v4"] or case["expect"]["v6"]]


def line(case: Case) -> str:
    """The arguments of a case as --expect takes them."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in case["env"].items()]
    return " ".join([*variables, shlex.join(case["argv"])])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_native_nftables_and_iptables_rules_are_equal_in_behaviour(
    case: Case, real_kernel: None, capfd: pytest.CaptureFixture[str]
) -> None:
    told = []
    with place(case) as one, place(case) as other:
        drop_in(one, *case["argv"], env=case["env"]).ok()
        drop_in(other, *case["argv"], "--native-nftables", env=case["env"]).ok()

        status = run(["diff", one.name, other.name])
        said = capfd.readouterr()
        for namespace in (one, other):
            run(["explain", "--netns", namespace.name, "--expect", line(case), "--format", "json"])
            told.append(json.loads(capfd.readouterr().out))

    assert status == 0, said.out + said.err
    assert said.out == "equal: every new connection has the same outcome\n"
    assert [each["drift"] for each in told] == [{"equal": True, "note": None, "changes": [], "command": None}] * 2
    assert [each["exact"] for each in told] == [True, True]
    assert [each["backend"] for each in told] == ["nft", "native"]
