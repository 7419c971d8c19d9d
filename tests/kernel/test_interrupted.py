"""Ctrl-C and SIGTERM in every command, at any moment: a line, a status of its own, and nothing is left behind."""

from __future__ import annotations

import io
import os
import pty
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest
from support.command import istio_init
from support.processes import wait_until, wait_until_reading
from support.rules import everything, routing
from support.warm import import_everything

from istio_init.cli.main import main
from istio_init.system.unfinished import Note
from istio_init.testing.pods import Pod

AT_FIRST = ("-b", "80", "--force-iptables-binary", "nft")
MOMENTS = (0.15, 0.5, 0.85)
"""When it is interrupted, as parts of a whole run."""

CTRL_C = b"\x03"
CONFIGURED = "-b 80 -i '*'"

TABLE = {
    "apply": "apply --netns NAME -m TPROXY --dual-stack",
    "apply, native": "apply --netns NAME --native-nftables",
    "apply, legacy": "apply --netns NAME --force-iptables-binary legacy",
    "clean": "clean --netns NAME",
    "explain": "explain NAME --rules",
    "ps": "ps",
    "trace": "trace NAME outbound tcp 203.0.113.7:443",
    "trace, sent": "trace NAME outbound tcp 10.88.0.1:443 --live",
    "verify": "verify NAME",
    "map": "map NAME",
    "diff": f'diff NAME "{CONFIGURED}"',
    "snapshot": "snapshot NAME -o FILE",
    "drop-in": "istio-iptables --network-namespace NETNS -b 80 --reconcile",
}
WAITING = {
    "explain": "explain --file -",
    "map": "map --file -",
    "trace": "trace --batch - --expect ''",
    "render": "render --pod -",
}
"""What reads its standard input, and waits for it."""

WRITING = ("apply", "clean", "drop-in")


class Ended(NamedTuple):
    """What a run printed on its terminal, its status, and how long it took."""

    text: str
    status: int
    seconds: float


class Run:
    """The program in a session of its own, on a terminal of its own; it has imported what it needs already."""

    def __init__(self, argv: list[str], temporary: Path) -> None:
        self.began = time.monotonic()
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            _be_the_program(argv, temporary)

    def end(self, after: float | None = None, by: bytes | signal.Signals = CTRL_C) -> Ended:
        """Wait for its end, or interrupt it after so many seconds, and hear what it says."""
        os.set_blocking(self.terminal, False)
        text, status = b"", None
        while status is None:
            with suppress(OSError):
                text += os.read(self.terminal, 1 << 16)
            if after is not None and time.monotonic() - self.began > after:
                after = None
                if isinstance(by, bytes):
                    os.write(self.terminal, by)
                else:
                    os.kill(self.pid, by)
            assert time.monotonic() - self.began < 120, text
            ended, code = os.waitpid(self.pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if ended else None
            time.sleep(0 if text else 0.001)
        seconds = time.monotonic() - self.began
        with suppress(OSError):
            while more := os.read(self.terminal, 1 << 16):
                text += more
        os.close(self.terminal)
        wait_until(lambda: not _of_session(self.pid))
        return Ended(text.decode(errors="replace").replace("\r\n", "\n"), status, seconds)


def _be_the_program(argv: list[str], temporary: Path) -> NoReturn:
    status: object = 99
    try:
        os.environ["TMPDIR"] = str(temporary)
        os.environ["TERM"] = "dumb"
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin = io.TextIOWrapper(io.FileIO(0), encoding="utf-8")
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding="utf-8", line_buffering=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), encoding="utf-8", line_buffering=True)
        sys.argv = ["istio-init", *argv]
        status = main()
    except SystemExit as left:
        status = left.code
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 0)


def _of_session(session: int) -> list[str]:
    """The processes of a session that are still there."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = each.read_text().rpartition(")")[2].split()
            if int(words[3]) == session and words[0] != "Z":
                found.append(each.parent.name)
    return found


@pytest.fixture(scope="module")
def redirected(both_backends: None) -> Iterator[Pod]:
    """A pod with rules; what runs in it has been imported."""
    import_everything()
    with Pod.create() as made:
        istio_init("apply", "--netns", made.name, *AT_FIRST).ok()
        yield made


def state(pod: Pod) -> tuple[object, ...]:
    """Rules, routing and interfaces of a pod."""
    links = [line.split()[1] for line in pod.inside.run("ip", "-o", "link").splitlines()]
    native = [line for line in pod.inside.run("nft", "list", "tables").splitlines() if " inet " in line]
    return everything(pod.inside), native, routing(pod.inside), links


def arguments(line: str, pod: Pod, directory: Path) -> list[str]:
    names = {"NAME": pod.name, "NETNS": f"/run/netns/{pod.name}", "FILE": str(directory / "pod.tar")}
    words = [names.get(word, word) for word in line.replace(f'"{CONFIGURED}"', "CONFIGURED").split()]
    return [CONFIGURED if word == "CONFIGURED" else "" if word == "''" else word for word in words]


@pytest.mark.parametrize("name", TABLE)
def test_it_ends_at_once_and_leaves_nothing(name: str, redirected: Pod, tmp_path: Path) -> None:
    argv = arguments(TABLE[name], redirected, tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    is_writing = name.startswith(WRITING)
    before = state(redirected)
    # A list of the whole machine takes as long as there is much on it.
    whole = Run(argv, temporary).end() if name != "ps" else Ended("", 0, 0.3)
    assert "Traceback" not in whole.text
    after = state(redirected)
    assert is_writing or after == before
    statuses = set()
    for number, moment in enumerate(MOMENTS):
        by = signal.SIGTERM if number % 2 else CTRL_C
        istio_init("apply", "--netns", redirected.name, *AT_FIRST).ok() if is_writing else None
        done = Run(argv, temporary).end(moment * whole.seconds, by)
        shown = done.text.replace("^C", "")
        assert "Traceback" not in shown and "Exception" not in shown, shown
        statuses.add(done.status)
        if done.status == 130:
            assert shown.rstrip("\n").rpartition("\n")[2] == "interrupted", shown
            assert shown.count("interrupted") == 1
        if done.status not in (whole.status, 130, 143, -signal.SIGTERM, 1):
            pytest.fail(f"{done}")
        assert list(temporary.iterdir()) == []
        found = state(redirected)
        assert found in (before, after), f"{by!r} after {moment} of {whole.seconds:.2f} s: {done}"
        assert redirected.inside.call(Note).left() is None
    istio_init("apply", "--netns", redirected.name, *AT_FIRST).ok() if is_writing else None


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_for_its_input_is_interrupted(name: str, redirected: Pod, tmp_path: Path) -> None:
    run = Run(arguments(WAITING[name], redirected, tmp_path), tmp_path)
    wait_until_reading(run.pid)

    done = run.end(0.0)

    assert done.status == 130
    assert done.text.replace("^C", "").strip().rpartition("\n")[2] == "interrupted"
