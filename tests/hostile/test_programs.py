"""A program that reads a pod's rules can do little more than that, however it is led astray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.processes import own_children

from istio_init.errors import ToolError
from istio_init.system import confined, namespaces, places, process
from istio_init.testing.pods import Pod

READING = 1 << 12 | 1 << 13
"""CAP_NET_ADMIN and CAP_NET_RAW."""


def inside(pod: Pod, script: str, *, writing: bool = False, timeout: float = 20.0) -> process.Completed:
    """What a shell does that is started in a pod's network namespace."""
    place = places.of_netns(pod.name)
    try:
        return namespaces.call_in(
            place, lambda: process.run(["/bin/sh", "-c", script], timeout=timeout, writing=writing)
        )
    finally:
        place.close()


def test_it_has_just_the_capabilities_that_reading_takes_and_gets_no_more(pod: Pod) -> None:
    text = inside(pod, "cat /proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in text.splitlines())

    assert {fields[f"Cap{name}"] for name in ("Eff", "Prm", "Bnd")} == {f"{READING:016x}"}
    assert {fields[f"Cap{name}"] for name in ("Inh", "Amb")} == {f"{0:016x}"}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Groups"].split() == []


def test_it_is_in_a_session_of_its_own_with_nothing_of_ours(pod: Pod, tmp_path: Path) -> None:
    leaking = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leaking, True)
    try:
        done = inside(pod, "cut -d' ' -f6,7 /proc/$$/stat; echo $$; pwd; env; ls -l /proc/$$/fd; umask")
    finally:
        os.close(leaking)
    session, pid, directory, *rest = done.stdout.splitlines()

    assert session == f"{pid} 0"
    assert directory == "/"
    assert str(tmp_path) not in done.stdout
    assert {line.partition("=")[0] for line in rest if "=" in line} <= {"LC_ALL", "PATH", "PWD", "XTABLES_LOCKFILE"}
    assert rest[-1] == "0077"


def test_no_more_than_so_much_is_read_of_it(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(confined.LIMITS, "RLIMIT_FSIZE", 1 << 20)
    monkeypatch.setattr(process, "LARGEST", 1 << 20)

    with pytest.raises(ToolError, match=r"printed .* MiB or more"):
        inside(pod, "exec cat /dev/zero")
    with pytest.raises(ToolError, match=r"printed .* MiB or more"):
        inside(pod, "cat /dev/zero; exit 0")


def test_it_gets_no_more_than_so_much_memory(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(confined.LIMITS, "RLIMIT_AS", 64 << 20)

    assert inside(pod, r"x=$(head -c 200000000 /dev/zero | tr '\0' a)").status != 0


def test_it_gets_no_more_than_so_much_of_the_processor(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(confined.LIMITS, "RLIMIT_CPU", 1)

    with pytest.raises(ToolError, match="of the processor"):
        inside(pod, "while :; do :; done", timeout=120.0)


@pytest.mark.parametrize("writing", [False, True])
def test_it_is_killed_in_time_though_it_was_stopped(pod: Pod, writing: bool) -> None:
    with pytest.raises(ToolError, match=r"did not end within 0\.5 s and was killed"):
        inside(pod, "kill -STOP $$", timeout=0.5, writing=writing)


@pytest.mark.parametrize(
    ("path", "words"), [("/nowhere/program", "No such file"), ("/etc/passwd", "Permission denied")]
)
def test_what_cannot_be_started_is_named_with_the_reason(pod: Pod, path: str, words: str) -> None:
    place = places.of_netns(pod.name)
    with pytest.raises(ToolError, match=f"{path} cannot be started: {words}"):
        namespaces.call_in(place, lambda: process.run([path], timeout=5))
    place.close()


def test_the_descriptors_of_the_caller_may_be_any(pod: Pod) -> None:
    """Also none at all, as where a supervisor closed them."""
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            for number in (0, 1, 2):
                os.close(number)
            done = inside(pod, "cat; echo out; echo err >&2; exit 7")
            os.write(told, f"{done.status} {done.stdout!r} {done.stderr!r}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(told)
    said = os.read(ready, 1000)
    os.close(ready)

    assert said == b"7 'out\\n' 'err\\n'"


def test_no_descriptor_and_no_child_is_left(pod: Pod) -> None:
    before, children = sorted(os.listdir("/proc/self/fd")), own_children()

    inside(pod, "true")
    with pytest.raises(ToolError):
        inside(pod, "sleep 60", timeout=0.05)

    assert sorted(os.listdir("/proc/self/fd")) == before
    assert own_children() == children
