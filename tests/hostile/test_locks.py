"""No lock that a pod's processes can hold keeps root from working on it."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.command import DROP_IN, INJECTED, execute, istio_init
from support.rules import has_rules_of_ours

from istio_init.system import namespaces
from istio_init.testing.pods import Pod

from .attacker import attacker
from .test_user_namespaces import rules, with_address

HELD = ("/proc/self/ns/net", "/proc/self/ns/user", "/proc/self/ns/mnt", "/proc/self/ns/pid")
QUICK = 50.0
"""Seconds within which nobody has waited for a lock, however busy the machine is."""


@contextmanager
def held_by_the_pod(pod: Pod) -> Iterator[None]:
    """An ordinary process of the pod holds its namespace's own file."""
    with open(f"/run/netns/{pod.inside.name}") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@pytest.mark.parametrize("wait", ["0s", "100s"])
def test_a_pod_that_locks_its_namespaces_is_programmed(pod: Pod, backend: str, wait: str) -> None:
    common = ("--netns", pod.name, "--force-iptables-binary", backend, "--wait", wait)
    with held_by_the_pod(pod):
        for command in ("apply", "clean"):
            began = time.monotonic()
            istio_init(command, *common).ok()
            assert time.monotonic() - began < QUICK
            assert has_rules_of_ours(pod.inside, backend) == (command == "apply")


def test_a_pod_that_locks_its_namespaces_is_verified(pod: Pod, backend: str) -> None:
    istio_init("apply", "--netns", pod.name, "--force-iptables-binary", backend).ok()
    with held_by_the_pod(pod):
        began = time.monotonic()
        done = istio_init("verify", "--netns", pod.name, "--timeout", "1s")
        assert time.monotonic() - began < QUICK
    assert "another run" not in done.stdout + done.stderr


def test_the_owner_of_a_user_namespace_who_locks_all_of_hers_is_programmed(backend: str) -> None:
    with attacker(hold=HELD) as made, with_address(made):
        target = ("--pid", str(made.pid), "--force-iptables-binary", backend)
        began = time.monotonic()
        istio_init("apply", *target, "--proxy-uid", "0", "--proxy-gid", "0").ok()
        assert "ISTIO_OUTPUT" in rules(made, backend)
        istio_init("clean", *target).ok()
        assert time.monotonic() - began < 2 * QUICK


def test_without_a_directory_to_write_to_the_lock_of_others_is_waited_for_a_moment(pod: Pod, backend: str) -> None:
    hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run -o ro && exec "$@"', "sh")
    entered = ("nsenter", f"--net=/run/netns/{pod.name}")
    argv = (*DROP_IN, *INJECTED, "--force-iptables-binary", "nft")
    with held_by_the_pod(pod):
        began = time.monotonic()
        done = execute(*entered, *hidden, *argv).ok()
        assert namespaces.UNSURE <= time.monotonic() - began < QUICK
    assert "not waiting any longer" in done.stderr + done.stdout
    assert has_rules_of_ours(pod.inside, "nft")


def test_another_run_of_roots_is_waited_for(pod: Pod) -> None:
    inode = os.stat(f"/run/netns/{pod.name}").st_ino
    descriptor = os.open(namespaces.LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for number, status in ((inode + 1, 0), (inode, 1)):
            span = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, span)
            done = istio_init("apply", "--netns", pod.name, "--wait", "300ms")
            assert done.status == status, done.stderr
    finally:
        os.close(descriptor)
    assert "another run of istio-init" in done.stderr


def test_only_root_can_hold_the_lock_of_runs(pod: Pod) -> None:
    istio_init("apply", "--netns", pod.name).ok()

    status = os.stat(namespaces.LOCK_FILE)
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)
