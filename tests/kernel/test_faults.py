"""A sample of scripts/faults: a system call that fails, or a signal, leaves the state before or the wanted one."""

from __future__ import annotations

import shutil

import pytest
from judge.fault_points import Fault, counted, faults
from judge.faulty import COMMANDS, PROGRAMS, Bench, table

from istio_init.testing.pods import Pod

SAMPLE = (
    Fault("pidfd_open", "EMFILE", 3, False),
    Fault("memfd_create", "ENOMEM", 16, False),
    Fault("poll", "EIO", 5, False),
    Fault("sendto", "ENOMEM", 2, True),
    Fault("lseek", "EIO", 3, False),
    Fault("sendto", "EIO", 8, True),
    Fault("recvmsg", "ENOSPC", 12, True),
    Fault("wait4", "SIGTERM", 4, False),
    Fault("pidfd_open", "SIGINT", 5, False),
    Fault("poll", "SIGHUP", 6, False),
    Fault("pidfd_open", "SIGKILL", 5, False),
)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_rules_that_a_program_fails_to_print_are_not_taken_for_none(pod: Pod, command: str) -> None:
    """The programs of legacy iptables exit 0 where what they print cannot be written."""
    found = Bench(pod, PROGRAMS, command).judge(Fault("write", "ENOSPC", 1, True))

    assert not found.is_wrong, found.said
    assert (found.state, found.status) == ("old", 1)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(("store", "command"), [("nft", "apply"), ("native", "clean")])
def test_no_fault_leaves_anything_but_the_state_before_or_the_wanted_one(pod: Pod, store: str, command: str) -> None:
    bench = Bench(pod, store, command)

    found = [bench.judge(each) for each in SAMPLE]

    print(table(found))
    assert [(each.case.fault.injection, each.state, each.said) for each in found if each.is_wrong] == []
    assert {each.state for each in found} & {"old", "converged"}


def test_of_a_programs_start_the_sweep_takes_the_first_and_last_call_and_of_its_work_each_one() -> None:
    start = ["execve", *["read"] * 9, "socket", "socket(AF_NETLINK"]
    child = ["dup2", *start, *["read"] * 2]

    found = counted(["read", "poll"], [child, ["dup2", "dup2"]])
    points = {(each.call, each.number, each.children) for each in faults(found)}

    assert found["read"] == (1, (10, 11), tuple(range(1, 10)))
    assert found["dup2"] == (0, (1, 2), ())
    assert {number for call, number, children in points if (call, children) == ("read", True)} == {1, 9, 10, 11}
    assert {each.what for each in faults(found) if each.call == "poll"} >= {"EINTR", "ENOMEM", "SIGKILL"}
