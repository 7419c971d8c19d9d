"""Whoever owns a pod's user namespace gets nothing of what root starts there."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.command import PROGRAM, Result, execute
from support.processes import wait_until
from support.rules import program

from istio_init.netfilter.family import Family
from istio_init.testing.processes import run

from .attacker import USER, Attacker, attacker, look_into, stop

RANGES = ",".join(f"10.{number >> 8}.{number & 255}.0/24" for number in range(700))
"""So many rules that writing them takes a while."""

MAPPED = ("--proxy-uid", "0", "--proxy-gid", "0", "-x", RANGES)
ROUNDS = 3
LONG_ENOUGH = 60
"""Seconds in which a program of ours is to be seen that is there for an instant."""

CHANCES = 30
"""So many runs she may try to stop; for some she comes too late."""

SECRET = "a-secret-of-roots"


def istio_init(*argv: str) -> Result:
    """Run the program from its very start, so that she can meet all that there is of it."""
    return execute(*PROGRAM, *argv)


@contextmanager
def with_address(made: Attacker) -> Iterator[Attacker]:
    """Give her namespace an address, without which there is nothing to capture."""
    inside = ("nsenter", "-t", str(made.pid), "-n", "ip")
    for command in (
        "link set lo up",
        "link add eth0 type veth peer name peer0",
        "address add 10.9.8.7/24 dev eth0",
        "link set eth0 up",
    ):
        run(*inside, *command.split())
    yield made


def rules(made: Attacker, backend: str) -> str:
    return run("nsenter", "-t", str(made.pid), "-n", program(backend, Family.IPV4, "save"))


def test_the_attack_works_on_a_program_that_is_simply_started_there() -> None:
    wanted, got = {"seize", "environ", "memory", "descriptors", "process_vm_readv"}, set[str]()
    for _ in range(5):  # She may find no time to look while it runs.
        with attacker(look_into) as made:
            enter = ("nsenter", "-t", str(made.pid), "-U", "-n", "--preserve-credentials")
            as_root = ("setpriv", "--reuid", "0", "--regid", "0", "--clear-groups")
            if subprocess.run([*enter, *as_root, "sleep", "3"], check=False).returncode:  # Groups cannot be set there.
                subprocess.run(["nsenter", "-t", str(made.pid), "-U", "-n", "sleep", "3"], check=False)
            made.finish()
        got |= {word.split()[0] for word in made.got}
        if got >= wanted:
            break

    assert got >= wanted


@pytest.mark.parametrize(
    ("command", "backend"),
    [
        *((each, "nft") for each in ("apply", "verify", "explain", "trace", "--run-validation")),
        *((each, "legacy") for each in ("apply", "explain")),  # The others read its rules as explain does.
    ],
)
def test_nothing_that_root_does_can_be_looked_into(command: str, backend: str, both_backends: None) -> None:
    with attacker(look_into) as made, with_address(made):
        target = ("--pid", str(made.pid))
        forced = ("--force-iptables-binary", backend)
        if command not in ("apply", "--run-validation"):
            istio_init("apply", *target, *forced, *MAPPED).ok()
        if command == "apply":
            for _ in range(ROUNDS):
                istio_init("apply", *target, *forced, *MAPPED).ok()
                assert "ISTIO_OUTPUT" in rules(made, backend)
                istio_init("clean", *target, *forced).ok()
                assert "ISTIO_OUTPUT" not in rules(made, backend)
        elif command == "--run-validation":
            shown = ("--network-namespace", f"/proc/{made.pid}/ns/net", "-u", "0", "-g", "0", "--run-validation")
            assert "ISTIO" in execute(*PROGRAM, "istio-iptables", *shown, "--log_output_level", "debug").stderr.upper()
        else:
            words = {"trace": ("outbound", "tcp", "1.2.3.4:80")}.get(command, ())
            assert istio_init(command, *target, *words).status != 2
        made.finish()

    assert made.got == []
    if command == "apply":  # It did come by what it could not look into.
        assert [each for each in made.saw if "iptables" in each or "memfd" in each or each.split()[1].isdigit()], (
            made.saw
        )


def seen_by_root(made: Attacker, before: set[str]) -> dict[str, dict[str, str]]:
    """What root sees of the programs that are her user's and were executed from a copy."""
    seen = {}
    for name in {name for name in os.listdir("/proc") if name.isdigit()} - before:
        with suppress(OSError):
            text = Path(f"/proc/{name}/status").read_text(errors="replace")
            if f"Uid:\t{USER}\t" not in text or not os.readlink(f"/proc/{name}/exe").startswith("/memfd:"):
                continue
            seen[name] = {
                "status": text,
                "environ": Path(f"/proc/{name}/environ").read_text(),
                "stat": Path(f"/proc/{name}/stat").read_text(),
                "cwd": os.readlink(f"/proc/{name}/cwd"),
                "files": " ".join(os.readlink(f"/proc/{name}/fd/{n}") for n in os.listdir(f"/proc/{name}/fd")),
            }
    return seen


def test_what_writes_rules_there_has_nothing_of_roots(backend: str, tmp_path: Path) -> None:
    seen: dict[str, dict[str, str]] = {}
    with attacker() as made, with_address(made), open(tmp_path / "open", "w") as leaking:
        target = ("--pid", str(made.pid), "--force-iptables-binary", backend)
        before = {name for name in os.listdir("/proc") if name.isdigit()}
        end = time.monotonic() + LONG_ENOUGH
        while not seen and time.monotonic() < end:  # It is there for an instant, and others are at work.
            master, terminal = os.openpty()
            process = subprocess.Popen(
                ["setsid", "-c", *PROGRAM, "apply", *target, *MAPPED],
                env={**os.environ, "SECRET": SECRET},
                stdin=terminal,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=tmp_path,
                pass_fds=(leaking.fileno(),),
                extra_groups=[4, 24],
            )
            while process.poll() is None:
                seen.update(seen_by_root(made, before))
            os.close(master)
            os.close(terminal)
            assert process.returncode == 0
            istio_init("clean", *target).ok()
    assert seen
    for pid, found in seen.items():
        fields = dict(line.split(":\t", 1) for line in found["status"].splitlines())
        _, _, _, session, terminal_number, *_ = found["stat"].rpartition(") ")[2].split()
        names = {word.partition("=")[0] for word in found["environ"].split("\0") if word}
        assert names <= {"LC_ALL", "PATH", "XTABLES_LOCKFILE"}
        assert (session, terminal_number) == (pid, "0")
        assert fields["Groups"].split() == []
        assert fields["NoNewPrivs"] == "1"
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << 12 | 1 << 13
        assert found["cwd"] == "/"
        assert not any(part in found["files"] for part in ("/dev/", "pipe:", str(tmp_path))), found["files"]


@pytest.mark.parametrize("command", ["apply", "verify"])
def test_who_stops_what_root_starts_does_not_stop_root(command: str) -> None:
    with attacker(stop) as made, with_address(made):
        if command == "verify":
            istio_init(command, "--pid", str(made.pid), "--expect", "-u 0 -g 0", "--timeout", "1s")
            made.finish()
            return
        target = ("--pid", str(made.pid))
        for words in itertools.islice(itertools.cycle([("apply", *target, *MAPPED), ("clean", *target)]), CHANCES):
            began = time.monotonic()
            done = istio_init(*words)
            assert time.monotonic() - began < 60
            if done.status:
                break
        made.finish()
    assert done.status != 0
    assert "Traceback" not in done.stderr
    assert made.got


def test_nothing_of_roots_is_left_in_a_namespace_whose_owner_stopped_it() -> None:
    with attacker(stop) as made, with_address(made):
        istio_init("apply", "--pid", str(made.pid), "--proxy-uid", "0", "--proxy-gid", "0")
        here = os.stat(f"/proc/{made.pid}/ns/net").st_ino

        def inside() -> list[str]:
            found = []
            for name in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.stat(f"/proc/{name}/ns/net").st_ino == here:
                        found.append(name)
                except OSError:
                    continue
            return found

        wait_until(lambda: inside() == [str(made.pid)])


def test_where_the_kernel_would_make_it_traceable_the_namespace_is_not_entered(tmp_path: Path) -> None:
    setting = tmp_path / "suid_dumpable"  # The kernel's own is that of other tests, too.
    setting.write_text("1\n")
    with attacker(look_into) as made, with_address(made):
        there = f'mount --bind {setting} /proc/sys/fs/suid_dumpable && exec "$@"'
        target = ("--pid", str(made.pid), "--proxy-uid", "0", "--proxy-gid", "0")
        done = execute("unshare", "-m", "sh", "-c", there, "sh", *PROGRAM, "apply", *target)
        made.finish()
    assert done.status != 0
    assert "fs.suid_dumpable" in done.stderr
    assert made.got == []
