"""Real network namespaces for tests.

A `Namespace` goes away with everything in it when its context ends, and one that a killed process left behind goes
away when the next process makes its first. Nothing here brings the calling process into another namespace: functions
run in forked children, and sockets are made there and passed back.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
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

PREFIX = "istio-init-test"
RUN_NETNS = Path("/run/netns")
ETC_NETNS = Path("/etc/netns")
LOCKS = Path("/run", PREFIX)

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
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
        _enter(path)
        os.setgroups([])
        _become(user)
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


class Owner(NamedTuple):
    """A user namespace to be made, which is to own a network namespace."""

    id_map: str
    """The line of its uid_map and gid_map, such as ``0 100000 65536``."""

    mapped_first: bool = True
    """Whether the maps are there before the network namespace is made, as in runc; else the two are made at once."""

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        """A process inside both namespaces, as root of the user namespace, for the time of the context."""
        here, there = _processes.Pipe()
        process = _processes.Process(target=_hold, args=(self.mapped_first, there), daemon=True)
        process.start()
        there.close()
        try:
            here.recv()
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{process.pid}/{name}").write_text(self.id_map)
            here.send("mapped")
            here.recv()
            assert process.pid is not None
            yield process.pid
        finally:
            process.kill()
            process.join()


def _hold(mapped_first: bool, parent: Connection) -> None:
    """What the process does that holds a user and a network namespace."""
    _unshare(CLONE_NEWUSER if mapped_first else CLONE_NEWUSER | CLONE_NEWNET)
    parent.send("maps wanted")
    parent.recv()
    _become(ROOT)
    if mapped_first:
        _unshare(CLONE_NEWNET)
    parent.send("ready")
    signal.pause()


def _unshare(kinds: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(kinds) != 0:
        raise OSError(ctypes.get_errno(), "no new namespaces")


def _become(user: User) -> None:
    """Take these ids, and end with the parent from now on: the kernel forgets that when ids change."""
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Namespace:
    """A named network namespace. Make it with `Namespace.create`, which deletes it again."""

    def __init__(self, name: str, holder: int | None = None) -> None:
        self.name = name
        self.path = RUN_NETNS / name
        self.holder = holder
        """The process that was in the namespace from the start, where it has an owner of its own."""

        self._sockets: list[socket.socket] = []
        self._children: list[subprocess.Popen[str]] = []

    @classmethod
    @contextlib.contextmanager
    def create(cls, label: str = "ns", *, owner: Owner | None = None) -> Iterator[Self]:
        """A new namespace, with lo up, for the time of the context; ``owner`` gives it a user namespace of its own."""
        name = f"{PREFIX}-{_token()}-{next(_numbers)}-{label}"
        with contextlib.ExitStack() as stack:
            holder = None if owner is None else stack.enter_context(owner.hold())
            run("ip", "netns", *(["add", name] if holder is None else ["attach", name, str(holder)]))
            namespace = cls(name, holder)
            stack.callback(namespace.delete)
            run("ip", "-n", name, "link", "set", "lo", "up")
            yield namespace

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

    def open_socket(self, family: int, kind: int, user: User = ROOT) -> socket.socket:
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

    def write_etc(self, name: str, text: str) -> None:
        """Give the namespace a file below /etc of its own: commands inside find it there (ip-netns(8))."""
        directory = ETC_NETNS / self.name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)

    def write_resolv_conf(self, *servers: str) -> None:
        """Name these servers in the namespace's resolv.conf."""
        self.write_etc("resolv.conf", "".join(f"nameserver {server}\n" for server in servers))


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
def _token() -> str:
    """What the names of this process's namespaces have in common; a lock on a file of that name says that it lives.

    The first time it also removes what processes left behind that do not live any more.
    """
    LOCKS.mkdir(exist_ok=True)
    with (LOCKS / "all").open("w") as everything:
        fcntl.flock(everything, fcntl.LOCK_EX)
        _sweep()
        token = secrets.token_hex(4)
        own = os.open(LOCKS / token, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(own, fcntl.LOCK_EX)
    return token


def _sweep() -> None:
    for path in LOCKS.iterdir():
        if path.name != "all" and not _is_locked(path):
            path.unlink()
    for path in (*RUN_NETNS.glob(f"{PREFIX}-*"), *ETC_NETNS.glob(f"{PREFIX}-*")):
        token = path.name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if not (LOCKS / token).exists():
            _remove(path.name)


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
