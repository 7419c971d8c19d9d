"""Subprocesses: each ends in time, and nothing that it says is lost. Real programs throughout."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from istio_init.errors import NoBackendError, ToolError
from istio_init.system import process
from istio_init.system.process import find_binary


def shell(script: str, *, stdin: str = "", timeout: float = 20.0, **env: str) -> process.Completed:
    return process.run(["sh", "-c", script], stdin=stdin, timeout=timeout, env=env)


def test_output_and_errors_are_kept_apart_with_the_status() -> None:
    done = shell("echo out; echo err >&2; exit 7")

    assert (done.status, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert done.argv[0] == "sh"


def test_input_is_what_was_given_and_then_ends() -> None:
    assert shell("cat; echo end", stdin="line\n").stdout == "line\nend\n"


def test_without_input_a_reader_sees_the_end_at_once() -> None:
    assert shell("cat; echo end").stdout == "end\n"


def test_big_input_and_output_block_neither_side() -> None:
    text = "0123456789abcde\n" * 300_000

    done = shell("tee /dev/stderr", stdin=text)

    assert len(done.stdout) == len(text)
    assert done.stdout == done.stderr == text


def test_output_that_is_written_before_input_is_read_blocks_neither_side() -> None:
    done = shell("head -c 4000000 /dev/zero; wc -c", stdin="x" * 4_000_000)

    assert done.stdout.endswith("4000000\n")


def test_bytes_that_are_no_text_come_back_as_they_were() -> None:
    text = b"\xff\x00\xc3\xa9\n".decode(errors="surrogateescape")

    assert shell("cat", stdin=text).stdout == text


def test_a_program_that_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    begun = time.monotonic()

    with pytest.raises(ToolError, match=r"sh did not end within 0\.3 s and was killed"):
        shell(f"echo $$ > {note}; trap '' TERM; exec sleep 60", timeout=0.3)

    assert time.monotonic() - begun < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_program_that_is_killed_has_the_signal_as_its_status() -> None:
    assert shell("kill -9 $$").status == -signal.SIGKILL
    assert shell("kill -15 $$").status == -signal.SIGTERM


def test_an_interruption_kills_the_program_before_it_goes_on(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            shell(f"echo $$ > {note}; exec sleep 60")
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, remaining)

    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_variables_are_added_and_nothing_of_the_callers_environment_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "XTABLES_LIBDIR", "LD_LIBRARY_PATH", "IPTABLES_X", "BASH_ENV"):
        monkeypatch.setenv(name, "/tmp")
    monkeypatch.setenv("PATH", f"relative:{os.environ['PATH']}")

    seen = dict(line.split("=", 1) for line in shell("env", GREETING="hello").stdout.splitlines())

    assert {name for name in seen if name not in ("PWD", "SHLVL", "OLDPWD", "_")} == {"GREETING", "LC_ALL", "PATH"}
    assert (seen["GREETING"], seen["LC_ALL"], seen["PATH"]) == ("hello", "C", process.PATH)


@pytest.mark.parametrize(
    ("value", "is_passed"),
    [("/tmp/lock", True), ("lock", False), ("/proc/self/ns/user", False), ("/tmp/../proc/self/ns/net", False)],
)
def test_where_the_lock_of_iptables_lies_is_the_callers_choice_but_for_what_anybody_may_lock(
    value: str, is_passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", value)

    assert (f"XTABLES_LOCKFILE={value}" in shell("env").stdout) == is_passed


def test_a_missing_program_is_named() -> None:
    with pytest.raises(NoBackendError, match="no-such-program is not installed") as caught:
        process.run(["no-such-program"], timeout=1)

    assert caught.value.exit_code == 6


def test_a_path_that_is_no_program_is_named() -> None:
    with pytest.raises(ToolError, match="/nowhere/program cannot be started: No such file"):
        process.run(["/nowhere/program"], timeout=1)
    with pytest.raises(ToolError, match="cannot be started: Permission denied"):
        process.run(["/etc/passwd"], timeout=1)


def test_no_descriptor_is_left_open_or_handed_on() -> None:
    before = os.listdir("/proc/self/fd")

    shown = shell("ls -l /proc/self/fd; ls -l /proc/self/fd >&2")
    with pytest.raises(ToolError):
        shell("sleep 60", timeout=0.05)

    assert os.listdir("/proc/self/fd") == before
    assert [shown.stdout.count(f"memfd:{name}") for name in ("stdin", "stdout", "stderr")] == [1, 1, 1]


def test_a_program_is_found_on_the_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "sh"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert find_binary("sh") == str(mine)


def test_a_program_is_found_in_the_systems_directories_though_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_binary("sh") in ("/usr/bin/sh", "/bin/sh")

    monkeypatch.delenv("PATH")
    assert find_binary("sh") in ("/usr/bin/sh", "/bin/sh")


def test_what_cannot_be_executed_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain-file-for-a-test").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_binary("plain-file-for-a-test") is None


def test_a_relative_directory_of_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    mine = tmp_path / "bin" / "a-program-for-a-test"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for path in ("bin", ".:bin", ":bin", "./bin"):
        monkeypatch.setenv("PATH", path)
        assert find_binary("a-program-for-a-test") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to take care")
@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o1777, 0), (0o755, 65534)])
def test_root_takes_no_program_from_where_others_can_put_one(
    mode: int, owner: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "a-program-for-a-test"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    os.chown(tmp_path, owner, 0)
    tmp_path.chmod(mode)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_binary("a-program-for-a-test") is None


def test_a_program_that_prints_too_much_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LARGEST", 1000)

    with pytest.raises(ToolError, match="printed"):
        shell("head -c 1000 /dev/zero")


def test_a_pipe_that_nobody_reads_ends_a_program_as_usual() -> None:
    assert shell("yes | head -n 1").stderr == ""
