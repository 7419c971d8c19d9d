"""Machines of other releases: what they are made of, and what is said where it cannot be got."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from machines import releases
from machines.image import XTABLES
from machines.part import Part
from machines.steps import checks, whole

KEPT = (
    "nf_tables",
    "nft_ct",
    "nft_redir",
    "nft_tproxy",
    "nft_chain_nat",
    "nf_nat",
    "nf_conntrack",
    "nfnetlink",
    "veth",
)
LEFT_OUT = ("x_tables", "nft_compat", "ip_tables", "ip6_tables", "iptable_nat", "ip6table_raw", "xt_owner", "ip_set")


def test_packages_that_cannot_be_got_end_with_the_release_and_what_apt_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("packages are got by apt-get")
    monkeypatch.setattr(releases, "CACHE", tmp_path)
    monkeypatch.setattr(releases, "_mirror", lambda: f"file:{tmp_path}/nowhere")

    with pytest.raises(SystemExit) as ended:
        releases.fetch(releases.RELEASES["trixie"])

    assert "the packages of Debian's trixie cannot be got: apt-get update ended with status" in str(ended.value)
    assert "nowhere" in str(ended.value)


def test_without_x_tables_no_module_of_iptables_is_left_and_those_of_nftables_are() -> None:
    assert [name for name in LEFT_OUT if not XTABLES.fullmatch(name)] == []
    assert [name for name in KEPT if XTABLES.fullmatch(name)] == []


@pytest.mark.parametrize("xtables", [True, False])
def test_every_step_in_a_machine_says_what_it_has_to_print_under_a_name_of_its_own(xtables: bool) -> None:
    steps = checks(xtables=xtables) + whole(xtables=xtables)

    assert len({step.what for step in steps}) == len(steps)
    assert all(step.words for step in steps)


def test_the_parts_of_tests_are_all_of_them_each_in_one() -> None:
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None))
    names = [f"test_{number}" for number in range(7)]
    found: list[str] = []
    for part in (1, 2, 3):
        items = list(names)
        Part(part, 3).pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
        found += items

    assert found == names


def test_of_a_sample_every_machine_does_another_part_of_what_is_done_in_parts() -> None:
    [first, second] = ({step.what for step in whole(xtables=True, sample=number)} for number in (0, 1))

    names = {"reading only", "verify, of every configuration", "traffic of every kind, where it arrives"}
    assert names <= {each.rpartition(", ")[0] for each in first - second}
    assert len(first) == len(second) < len(whole(xtables=True))
