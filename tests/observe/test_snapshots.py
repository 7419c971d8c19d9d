"""A snapshot that was taken answers as the namespace does, later, elsewhere and without root."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from pathlib import Path

import pytest
from inspector.natives import SIDECAR
from inspector.sidecar import Sidecar
from support.command import PROGRAM, Result, environment, istio_init

from istio_init.observe.archive import unpack
from istio_init.observe.bundle import files_of, snapshot_of
from istio_init.observe.namespace import observe
from istio_init.observe.snapshot import Snapshot, Taken
from istio_init.system.places import HERE
from istio_init.testing.namespaces import Namespace

jsonschema = pytest.importorskip("jsonschema")

TAKEN = Taken("pod.tar", "2026-11-27 06:00:00 UTC", "node-1", "6.1.0", "1.0", ipv6_in_kernel=True)
NOBODY = 65534
ATTEMPTS = 5
"""The kernel itself sends packets now and then, such as neighbour discovery's, and they are counted."""

WILD = """
table inet mine {
  set bad { type ipv4_addr; flags interval; elements = { 203.0.113.0/24, 198.51.100.7-198.51.100.9 }; }
  map ports { type inet_service : verdict; elements = { 22 : drop }; }
  counter seen { packets 3 bytes 4 }
  chain out { type filter hook output priority 0; policy drop; ip daddr @bad drop; tcp dport vmap @ports; accept; }
  chain again { type filter hook output priority 0; iifname != "lo" meta mark set 7 comment "two  spaces"; }
}
table ip asleep { flags dormant; chain out { type filter hook output priority 0; policy drop; }; }
"""


@contextmanager
def sidecar(*flags: str, backend: str = "nft") -> Iterator[Namespace]:
    with Sidecar.create(*flags, backend=backend, servers=("10.9.9.53",)) as made:
        yield made.inside


@contextmanager
def plain(*commands: tuple[str, ...]) -> Iterator[Namespace]:
    with Namespace.create("taken") as made:
        for command in commands:
            made.run(*command)
        yield made


PODS: dict[str, Callable[[], AbstractContextManager[Namespace]]] = {
    "a TPROXY sidecar with DNS capture": lambda: sidecar("--dual-stack", "-m", "TPROXY", "--redirect-dns"),
    "a legacy sidecar": lambda: sidecar("--dual-stack", "-o", "9000", backend="legacy"),
    "native rules": lambda: plain(("nft", SIDECAR)),
    "rules of nft's own, of equal priority, and a dormant table": lambda: plain(("nft", WILD)),
    "an odd comment, a set and a mark": lambda: plain(
        ("ipset", "create", "blocked", "hash:net"),
        ("ipset", "add", "blocked", "198.51.100.0/24"),
        ("iptables-nft", "-A", "OUTPUT", "-m", "comment", "--comment", 'a "b" \\ \xff c\nd', "-j", "DROP"),
        ("iptables-nft", "-A", "OUTPUT", "-m", "set", "--match-set", "blocked", "dst", "-j", "REJECT"),
        ("ip6tables-legacy", "-t", "mangle", "-A", "OUTPUT", "-j", "MARK", "--set-xmark", "0x1/0x3"),
    ),
    "nothing": plain,
}

COMMANDS = [
    ("explain", "--format", "json"),
    ("map", "--format", "json"),
    ("trace", "inbound", "tcp", "10.0.0.5:22", "--format", "json"),
]


@pytest.mark.parametrize("pod", PODS)
def test_nothing_of_a_namespace_is_lost(real_kernel: None, pod: str) -> None:
    with PODS[pod]() as namespace:
        live = namespace.call(lambda: observe(HERE))
        again = snapshot_of(files_of(live, TAKEN), "pod.tar")

    assert {field for field in Snapshot.__match_args__ if getattr(live, field) != getattr(again, field)} <= {
        "taken",
        "registered",
        "raised",
    }
    assert again.netfilter.tables == live.netfilter.tables
    assert (again.netfilter.order, again.netfilter.egress) == (live.netfilter.order, live.netfilter.egress)
    assert [(each.rules, each.unread) for each in again.raised] == [(each.rules, each.unread) for each in live.raised]


def as_nobody(*argv: str, stdin: bytes) -> Result:
    """Run the program as a user who may do nothing, in a namespace without rules."""
    done = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *PROGRAM, *argv],
        input=stdin,
        capture_output=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_answers_are_those_of_the_live_namespace_to_the_byte(real_kernel: None, tmp_path: Path) -> None:
    taken = tmp_path / "pod.tar"
    with sidecar("--dual-stack", "-m", "TPROXY", "--redirect-dns") as namespace:
        for command in COMMANDS:
            for _ in range(ATTEMPTS):
                istio_init("snapshot", "--netns", namespace.name, "-o", str(taken)).ok()
                live = istio_init(*command, "--netns", namespace.name)
                found = as_nobody(*command, "--file", "-", stdin=taken.read_bytes())
                # Commands that look again name the file: elsewhere a live target's words name another pod.
                again = found.stdout.replace("--file -", f"--netns {namespace.name}")
                if live.stdout in (found.stdout, again):
                    break
            assert live.stdout in (found.stdout, again)
            assert found.status == live.status
            first, *others = found.stderr.splitlines()
            assert first.startswith(f"standard input: netns {namespace.name}, taken on {os.uname().nodename} at")
            assert others == live.stderr.splitlines()
        equal = istio_init("diff", namespace.name, str(taken))
        compared = istio_init("diff", namespace.name, "-b '*' -i '*'")
    assert (equal.status, equal.stdout) == (0, "equal: every new connection has the same outcome\n")
    assert istio_init("diff", str(taken), "-b '*' -i '*'")[:2] == compared[:2]


def test_a_snapshot_is_a_tar_of_texts(real_kernel: None, tmp_path: Path) -> None:
    with plain(("iptables-nft", "-A", "INPUT", "-j", "DROP")) as namespace:
        done = subprocess.run(
            [*PROGRAM, "snapshot", "--netns", namespace.name], capture_output=True, env=environment(), check=True
        )
        listed = subprocess.run(["tar", "-t"], input=done.stdout, capture_output=True, text=False, check=True)

    assert listed.stdout.decode().split() == ["snapshot.json", "nft-ipv4.save", "nft.json"]
    found = unpack(done.stdout)
    assert b"-A INPUT -j DROP" in found["nft-ipv4.save"]
    schema = json.loads(
        (resources.files("istio_init") / "schemas" / "snapshot.schema.json").read_text(encoding="utf-8")
    )
    jsonschema.Draft202012Validator(schema).validate(json.loads(found["snapshot.json"]))


def test_a_redacted_snapshot_answers_too(real_kernel: None, tmp_path: Path) -> None:
    taken = tmp_path / "pod.tar"
    route = tuple("ip route add default dev lo".split())  # Without one no rule ever sees a packet.
    with plain(route, ("iptables-nft", "-A", "OUTPUT", "-d", "93.184.216.34/32", "-j", "DROP")) as namespace:
        istio_init("snapshot", "--redact", "--netns", namespace.name, "-o", str(taken)).ok()
    done = istio_init("map", "--file", str(taken)).ok()

    assert "netns pod-1, taken on host-1 at" in done.stderr and "redacted" in done.stderr
    assert "dropped: filter OUTPUT 1" in done.stdout
    assert "93.184.216.34" not in done.stdout


def test_rules_that_may_not_be_read_are_no_snapshot(real_kernel: None) -> None:
    done = as_nobody("snapshot", stdin=b"")

    assert (done.status, done.stdout) == (5, "")
    assert "run as root, or with the capability NET_ADMIN" in done.stderr


def test_a_file_that_cannot_be_written_is_named(real_kernel: None) -> None:
    with plain() as namespace:
        done = istio_init("snapshot", "--netns", namespace.name, "-o", "/nowhere/pod.tar")

    assert done.status == 2
    assert "/nowhere/pod.tar: it cannot be written: No such file or directory" in done.stderr


def test_a_terminal_gets_no_tar() -> None:
    done = subprocess.run(
        ["script", "-qec", " ".join([*PROGRAM, "snapshot"]), "/dev/null"],
        capture_output=True,
        text=True,
        env=environment(),
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert "a tar is not for a terminal: add > pod.tar, or -o pod.tar" in done.stdout
