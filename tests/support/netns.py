"""Real network namespaces for tests.

A `Namespace` goes away with everything in it when its context ends, and one that a killed test run left behind goes
away when the next run makes its first. Nothing here brings the calling process into another namespace: functions run
in forked children, and sockets are made there and passed back.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")

PREFIX = "istio-test"
RUN_NETNS = Path("/run/netns")
ETC_NETNS = Path("/etc/netns")

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1

_numbers = itertools.count(1)
_processes = multiprocessing.get_context("fork")


class User(NamedTuple):
    """Whom a process or a socket belongs to."""

    uid: int
    gid: int


ROOT = User(0, 0)


class CommandError(Exception):
    """A command failed; the text holds what it said."""


class WorkerError(Exception):
    """A function in a child process failed; the text is its traceback."""


def run(*argv: str, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Run a command; what it printed.

    Raises:
        CommandError: it failed, unless ``check`` is false.
    """
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, env=env, check=False)
    if check and done.returncode != 0:
        raise CommandError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Worker(Generic[T]):
    """A function at work in a process of its own inside a namespace."""

    def __init__(self, function: Callable[[], T], path: Path, user: User) -> None:
        self._receiving, sending = _processes.Pipe(duplex=False)
        self._process = _processes.Process(target=_work, args=(function, path, user, sending), daemon=True)
        self._process.start()
        sending.close()

    def result(self, timeout: float = 30) -> T:
        """Wait for the function's result.

        Raises:
            WorkerError: it raised, died, or took longer than ``timeout`` seconds, and was killed then.
        """
        try:
            if not self._receiving.poll(timeout):
                raise WorkerError(f"no result within {timeout:g} s")
            value, failure = self._receiving.recv()
        except EOFError:
            raise WorkerError("the process died without a result") from None
        finally:
            self.kill()
        if failure is not None:
            raise WorkerError(failure)
        result: T = value
        return result

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._receiving.close()


def _work(function: Callable[[], T], path: Path, user: User, sending: Connection) -> None:
    """What a worker's process does."""
    answer: tuple[T | None, str | None]
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _enter(path)
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        answer = (function(), None)
    except Exception:
        answer = (None, traceback.format_exc())
    sending.send(answer)


def _enter(path: Path) -> None:
    with path.open() as file:
        if sys.version_info >= (3, 12):
            os.setns(file.fileno(), CLONE_NEWNET)
        else:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {path}")


class Namespace:
    """A named network namespace. Make it with `Namespace.create`, which deletes it again."""

    def __init__(self, name: str, *, holder: subprocess.Popen[str] | None = None) -> None:
        self.name = name
        self.path = RUN_NETNS / name
        self._sockets: list[socket.socket] = []
        self._children = [] if holder is None else [holder]

    @classmethod
    @contextlib.contextmanager
    def create(cls, label: str = "ns", *, id_map: str | None = None) -> Iterator[Self]:
        """A new namespace, with lo up, for the time of the context.

        ``id_map`` gives it a user namespace of its own as its owner, with that line as its map of users and of groups.
        """
        _sweep()
        name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}{secrets.token_hex(2)}-{label}"
        if id_map is None:
            namespace = cls(name)
            run("ip", "netns", "add", name)
        else:
            namespace = cls(name, holder=_user_namespace(id_map))
        try:
            if id_map is not None:
                run("ip", "netns", "attach", name, str(namespace.holder.pid))
            run("ip", "-n", name, "link", "set", "lo", "up")
            yield namespace
        finally:
            namespace.delete()

    @property
    def holder(self) -> subprocess.Popen[str]:
        """The process that was started first in the namespace."""
        return self._children[0]

    def delete(self) -> None:
        """Remove the namespace with its processes, its sockets and its files."""
        for each in self._sockets:
            each.close()
        for pid in run("ip", "netns", "pids", self.name, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for child in self._children:
            child.kill()
            child.wait()
        _remove(self.name)

    def run(self, *argv: str, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True) -> str:
        """Run a command inside; what it printed. See `run`."""
        return run("ip", "netns", "exec", self.name, *argv, stdin=stdin, env=env, check=check)

    def spawn(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command inside and leave it running; it has been executed when this returns."""
        child = subprocess.Popen(["ip", "netns", "exec", self.name, *argv], text=True)
        self._children.append(child)
        _wait_until(lambda: _command(child.pid) == argv[0], f"{argv[0]} did not start in {self.name}")
        return child

    def start(self, function: Callable[[], T], user: User = ROOT) -> Worker[T]:
        """Start a function in a forked child inside, as a user."""
        return Worker(function, self.path, user)

    def call(self, function: Callable[[], T], user: User = ROOT) -> T:
        """Call a function in a forked child inside, as a user; its result has to be picklable."""
        return self.start(function, user).result()

    def socket(self, family: int, kind: int, user: User = ROOT) -> socket.socket:
        """A socket of the namespace that belongs to a user, to be used from here; closed with the namespace."""
        here, there = socket.socketpair()

        def make_and_send() -> None:
            with socket.socket(family, kind) as made:
                socket.send_fds(there, [b"socket"], [made.fileno()])

        with here, there:
            self.call(make_and_send, user)
            descriptor = socket.recv_fds(here, 16, 1)[1][0]
        return self.adopt(socket.socket(fileno=descriptor))

    def adopt(self, connection: socket.socket) -> socket.socket:
        """Close this socket with the namespace."""
        self._sockets.append(connection)
        return connection

    def write_resolv_conf(self, *servers: str) -> None:
        """Name these servers in the resolv.conf that ip-netns(8) gives the namespace."""
        directory = ETC_NETNS / self.name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "resolv.conf").write_text("".join(f"nameserver {server}\n" for server in servers))


def _user_namespace(id_map: str) -> subprocess.Popen[str]:
    """A sleeping process in a new user and network namespace whose maps are written from outside."""
    own = Path("/proc/self/ns/user").readlink()
    child = subprocess.Popen(["unshare", "--user", "--net", "sleep", "infinity"], text=True)
    process = Path(f"/proc/{child.pid}")
    _wait_until(lambda: (process / "ns/user").readlink() != own, "unshare made no user namespace")
    for name in ("uid_map", "gid_map"):
        (process / name).write_text(id_map)
    _wait_until(lambda: _command(child.pid) == "sleep", "unshare did not start sleep")
    return child


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()


def _wait_until(condition: Callable[[], bool], failure: str, timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(failure)
        time.sleep(0.002)


def _remove(name: str) -> None:
    run("ip", "netns", "delete", name, check=False)
    shutil.rmtree(ETC_NETNS / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        ETC_NETNS.rmdir()


@cache
def _sweep() -> None:
    """Remove what runs that were killed left behind: the name of a namespace holds the process that made it."""
    for path in (*RUN_NETNS.glob(f"{PREFIX}-*"), *ETC_NETNS.glob(f"{PREFIX}-*")):
        if not Path("/proc", path.name.removeprefix(f"{PREFIX}-").partition("-")[0]).exists():
            _remove(path.name)
