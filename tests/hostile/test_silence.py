"""A pod that serves its own file system and never answers costs one process of ours, however often it is looked at."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from inspector.test_ps_watch import free_port, metrics, watching
from support.processes import wait_until

from istio_init.testing.pods import Pod

from .served import living_in, served

pytestmark = [
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="the kernel has no fuse"),
    pytest.mark.usefixtures("real_kernel"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


def uninterruptible(word: str) -> set[int]:
    """Processes with a word in their command line that wait for what no signal ends."""
    found = set()
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                line, stat = (each / "cmdline").read_text(errors="replace"), (each / "stat").read_text(errors="replace")
            except OSError:
                continue
            found |= {int(each.name)} if word in line and stat.rpartition(") ")[2][0] == "D" else set()
    return found


def has_looked(address: str, since: float) -> float:
    """When the last look ended, if that is since then."""
    at = metrics(address)["istio_init_scan_timestamp_seconds", ""]
    return at if at > since else 0.0


def test_metrics_leave_one_process_waiting_for_a_silent_pod_and_say_so_and_look_at_its_rules(
    root: Path, pod: Pod
) -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        served(root / "etc", b"x\n", "read"),
        living_in(root, pod.name) as pid,
        watching("--metrics", address) as child,
    ):
        wait_until(lambda: metrics(address)["istio_init_not_answering", ""] == 1)
        before, at = wait_until(lambda: uninterruptible(address)), 0.0
        for _ in range(2):
            at = wait_until(partial(has_looked, address, at))
        after = uninterruptible(address)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=60)

    inode = pod.inside.path.stat().st_ino
    assert after == before and len(before) == 1
    assert len([line for line in said.splitlines() if "not answering" in line and f"netns {inode}" in line]) == 1
    assert f"netns {inode}, pid {pid}" in said
    assert "not captured" in said
