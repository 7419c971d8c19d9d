"""Kernels that hold no rules of iptables: what the programs say, and that native nftables is taken, at every run.

What the programs say was read on Linux 6.1 without x_tables' modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from istio_init.cli.app import run
from istio_init.errors import BusyError, IstioInitError, LackError, PrivilegeError, ToolError
from istio_init.stores.failure import failure
from istio_init.stores.nftables import failure as nft_failure
from istio_init.system import xtables
from istio_init.system.process import Completed
from istio_init.testing.pods import Pod

WARNINGS = (
    "Warning: Extension tcp revision 0 not supported, missing kernel module?\n"
    "Warning: Extension owner is not supported, missing kernel module?\n"
)
SAID: dict[str, tuple[str, int, str, type[IstioInitError]]] = {
    "no nft_compat": (
        "iptables-nft-restore",
        4,
        f"{WARNINGS}iptables-nft-restore v1.8.9 (nf_tables): \n"
        "line 4: RULE_APPEND failed (No such file or directory): rule in chain ISTIO_OUTPUT",
        LackError,
    ),
    "no ip_tables, by the program": (
        "iptables-legacy",
        3,
        "modprobe: module ip_tables not found in modules.dep\n"
        "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Resource temporarily unavailable\n"
        "Perhaps iptables or your kernel needs to be upgraded.",
        LackError,
    ),
    "no ip_tables, by restore": (
        "iptables-legacy-restore",
        2,
        "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'\n"
        "Error occurred at line: 1",
        LackError,
    ),
    "no table": (
        "iptables-legacy",
        3,
        "iptables v1.8.9 (legacy): can't initialize iptables table `raw': "
        "Table does not exist (do you need to insmod?)",
        LackError,
    ),
    "no nf_tables": (
        "iptables-nft",
        1,
        "iptables: Failed to initialize nft: Protocol not supported",
        LackError,
    ),
    "no privilege": (
        "iptables-legacy",
        4,
        "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Permission denied (you must be root)",
        PrivilegeError,
    ),
    "a writer beside": (
        "iptables-nft-restore",
        4,
        "iptables-nft-restore: line 12 failed: Resource temporarily unavailable",
        BusyError,
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_program_says_tells_a_kernel_that_lacks_something_from_other_failures(name: str) -> None:
    program, status, said, kind = SAID[name]

    assert type(failure(Completed((program,), status, "", said))) is kind


NFT_SAID: dict[str, tuple[str, type[IstioInitError], str]] = {
    "nft 0.9.8 without /dev/stdin": (
        'Could not open file "/dev/stdin": No such file or directory',
        ToolError,
        "it has to lead to /proc/self/fd/0",
    ),
    "no nft_tproxy": (
        "/dev/stdin:9:60-75: Error: Could not process rule: No such file or directory\n"
        "add rule inet istio-proxy-mangle istio-tproxy meta l4proto tcp tproxy to :15006\n      ^^^",
        LackError,
        "load nft_tproxy",
    ),
}


@pytest.mark.parametrize("name", NFT_SAID)
def test_what_nft_says_tells_a_kernel_that_lacks_something_from_other_failures(name: str) -> None:
    said, kind, fix = NFT_SAID[name]

    error = nft_failure(Completed(("nft", "-f", "-"), 1, "", said))

    assert type(error) is kind
    assert fix in str(error.fix)


@pytest.fixture
def without_xtables(real_kernel: None) -> Iterator[None]:
    """A kernel whose nf_tables knows no matches and targets of x_tables, and that has no legacy iptables."""
    with (
        patch.object(xtables, "runs_in_nft", return_value=False),
        patch.object(xtables, "has_legacy", return_value=False),
    ):
        yield


def test_this_kernel_runs_what_iptables_writes_to_nf_tables(both_backends: None) -> None:
    assert xtables.runs_in_nft()


@pytest.mark.usefixtures("without_xtables")
@pytest.mark.parametrize("kind", [(), ("--ambient",)], ids=["sidecar", "ambient"])
def test_native_nftables_is_taken_with_a_warning_and_found_by_the_next_run(
    pod: Pod, capfd: pytest.CaptureFixture[str], kind: tuple[str, ...]
) -> None:
    argv = ["apply", "--netns", pod.name, "--no-reconcile", *kind]
    warning = "iptables cannot be used here, native nftables is: this kernel has no x_tables"

    assert run(argv) == 0
    said = capfd.readouterr()
    assert warning in said.err
    assert "applied (native" in said.out
    assert run(argv) == 0
    assert "as wanted already (native" in capfd.readouterr().out
    assert run([*argv[:3], "--dry-run", "--native-nftables", *kind]) == 0
    assert run(["clean", "--netns", pod.name]) == 0
    assert "istio-" not in pod.inside.run("nft", "list", "ruleset")
    assert warning not in capfd.readouterr().err


@pytest.mark.usefixtures("without_xtables")
def test_legacy_iptables_is_taken_where_it_is_loaded(pod: Pod, capfd: pytest.CaptureFixture[str]) -> None:
    with patch.object(xtables, "has_legacy", return_value=True):
        assert run(["apply", "--netns", pod.name]) == 0

    assert "applied (legacy" in capfd.readouterr().out


@pytest.mark.usefixtures("without_xtables")
def test_without_nft_iptables_is_tried_and_what_it_says_is_told(pod: Pod, capfd: pytest.CaptureFixture[str]) -> None:
    with patch("istio_init.stores.detect.has_native", return_value=False):
        assert run(["apply", "--netns", pod.name]) == 0

    assert "applied (nft" in capfd.readouterr().out


def test_a_run_after_one_that_had_to_be_native_writes_nothing_whatever_it_would_choose(
    pod: Pod, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["apply", "--netns", pod.name, "--native-nftables"]) == 0
    capfd.readouterr()

    assert run(["apply", "--netns", pod.name, "--no-reconcile"]) == 0
    assert "as wanted already (native" in capfd.readouterr().out
    assert run(["apply", "--netns", pod.name, "--no-reconcile", "-x", "10.0.0.0/8"]) == 1
    assert "rules of ours that are not wanted" in capfd.readouterr().err
