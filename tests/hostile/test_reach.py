"""No command goes below a pod's root for anything but the files that it names, and executes nothing there."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from support.command import PROGRAM, Result, execute, istio_init

from istio_init.testing.pods import Pod

from .test_files import SERVER, process_with_root

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

NAMED = {"/etc/resolv.conf", "/etc/passwd", "/etc/group"}
OF_POD_NAMES = {"/etc/hostname", "/var/run/secrets/kubernetes.io/serviceaccount/namespace"}
OF_A_PROXY = {"/etc/istio/pod/annotations"}
OF_NODE = ("ps", "ps, again and again", "explain, everything", "explain, by a name")
LOOKS = 8
"""Seconds in which a node is looked at at least once, if the machine has time for it."""

CONSOLE = str(Path(sys.executable).parent / "istio-iptables")
BENEATH = re.compile(r'openat2\(\d+<([^>]*)>, "([^"]*)"')
EXECUTED = re.compile(r'exec\w+\([^"]*"([^"]*)"')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a container that holds programs, modules and libraries of its own."""
    made = tmp_path / "pods-root"
    for directory in ("etc", "usr/sbin", "usr/lib", "sbin", "proc"):
        (made / directory).mkdir(parents=True)
    (made / "etc" / "resolv.conf").write_text(f"nameserver {SERVER}\n")
    (made / "etc" / "passwd").write_text("envoy:x:1337:1337::/:\n")
    (made / "etc" / "group").write_text("envoy:x:1337:\n")
    for name in ("iptables-nft-save", "iptables-nft-restore", "iptables-legacy-save", "nft"):
        (made / "usr" / "sbin" / name).write_text("#!/bin/sh\n")
        (made / "usr" / "sbin" / name).chmod(0o755)
    return made


def traced(log: Path, *argv: str) -> Result:
    return execute("strace", "-ff", "-y", "-s", "4096", "-e", "trace=%file,execveat", "-o", str(log), *argv)


COMMANDS = {
    "apply": ("apply", "--redirect-dns", "--proxy-uid", "envoy", "--proxy-gid", "envoy"),
    "clean": ("clean",),
    "explain": ("explain",),
    "explain, as a page": ("explain", "--format", "html"),
    "trace": ("trace", "outbound", "tcp", "1.2.3.4:80"),
    "trace, sent": ("trace", "outbound", "tcp", "127.0.0.1:80", "--live"),
    "map": ("map",),
    "diff": ("diff",),
    "verify": ("verify", "--timeout", "1s"),
    "ps": ("ps",),
    "ps, again and again": ("ps", "--watch", "1s"),
    "snapshot": ("snapshot", "--output", "pod.tar"),
    "explain, everything": ("explain", "--all"),
    "explain, by a name": ("explain", "no-such-pod-anywhere"),
}
LEAVING = {
    "apply": 0, "clean": 0, "diff": 3, "istio-iptables": 0, "ps": 0, "snapshot": 0, "explain, by a name": 4,
    "ps, again and again": 124,
}  # fmt: skip
"""Exit status of those that find nothing to complain of, of a difference from no rules at all, and of timeout(1)."""

OF_A_PROCESS = re.compile(
    r"(ns/(net|user|pid|mnt)|root|status|stat|cgroup|comm|cmdline|(uid|gid)_map|fd(/\d+)?|net/\w+|task(/\d+)?|)$"
)
"""What is read of a pod's processes: the kernel's own words about them, and the doors to their namespaces."""


EVERY = (*COMMANDS, "istio-iptables")
OF_LEGACY = [(each, "legacy") for each in ("apply", "clean", "explain", "istio-iptables")]
"""The others read legacy rules as explain does."""


@pytest.mark.parametrize(("command", "backend"), [*((each, "nft") for each in EVERY), *OF_LEGACY])
def test_only_the_named_files_of_a_pod_are_looked_at(
    command: str, backend: str, both_backends: None, pod: Pod, root: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with process_with_root(root, pod.name) as pid:
        run_traced(command, backend, pid, log)
    lines = [line for each in tmp_path.glob("log.*") for line in each.read_text().splitlines()]
    assert lines
    below = [line for line in lines if str(root) in line or f"/proc/{pid}/root" in line]
    looked_at: set[str] = set()
    for line in below:
        if found := BENEATH.search(line):
            assert found[1] == str(root)
            looked_at.add(found[2])
            continue
        assert not EXECUTED.search(line), line
        # The root itself is held as a descriptor, and a file once found is opened by its descriptor.
        by_descriptor = '"/proc/self/fd/' in line or "AT_EMPTY_PATH" in line
        assert "O_PATH|O_DIRECTORY" in line or by_descriptor, line
    assert looked_at <= NAMED | OF_A_PROXY | (OF_POD_NAMES if command in OF_NODE else set())
    assert (looked_at == NAMED) == (command == "apply")
    for line in lines:
        if (executed := EXECUTED.search(line)) and "= 0" in line:
            assert executed[1].startswith(("/usr/", "/sbin/", "/bin/", sys.prefix, sys.base_prefix)), line
        for path in re.findall(rf'"/proc/{pid}/([^"]*)"', line):
            assert OF_A_PROCESS.match(path), line


def run_traced(command: str, backend: str, pid: int, log: Path) -> None:
    """Run a command on a pod in which the rules of a store are, if it is not what writes them."""
    netns, forced = f"/proc/{pid}/ns/net", ("--force-iptables-binary", backend)
    if command == "istio-iptables":
        done = traced(log, CONSOLE, "--network-namespace", netns, "--redirect-dns", "--run-validation", *forced)
    else:
        name, *words = COMMANDS[command]
        target = {"diff": (str(pid), "-b '' -i ''")}.get(name, ("--pid", str(pid)))
        if name not in ("apply", "ps"):
            istio_init("apply", "--pid", str(pid), *forced).ok()
        words = [str(log.parent / word) if word.endswith(".tar") else word for word in words]
        ended = ("timeout", "-s", "INT", str(LOOKS)) if "--watch" in words else ()
        options = forced if name in ("apply", "clean") else ()
        done = traced(log, *ended, *PROGRAM, name, *(() if command in OF_NODE else target), *words, *options)
    allowed = (LEAVING[command],) if command in LEAVING else (0, 1, 3, 126)
    assert done.status in allowed, done.stdout + done.stderr
