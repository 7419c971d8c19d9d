"""Commands and functions in processes of their own, inside a namespace: the kit's only module that starts any.

Each of them ends with the process that started it, even if that one is killed; but for what is left to keep a
namespace.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Generic, TypeVar

from istio_init.system.process import find_binary
from istio_init.testing.entering import ROOT, Entrance, User, become, end_with_parent
from istio_init.testing.hiding import tells_of_the_test

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__tracebackhide__ = tells_of_the_test

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds for a command that is run to its end."""

SAYING_SO = "ISTIO_INIT_TESTING"
"""A variable of every command inside a namespace: the token of the process that started it."""

Program = subprocess.Popen[str]
"""A command that was started and is left running."""

Child = multiprocessing.process.BaseProcess
"""A forked child."""

Pipe = Connection
"""One end of a connection between a process and a child of its."""

_forks = multiprocessing.get_context("fork")


class CommandError(Exception):
    """A command failed; the text holds what it said."""


class WorkerError(Exception):
    """A function in a child process failed; the text is its traceback."""


def run(
    *argv: str,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    check: bool = True,
    entrance: Entrance | None = None,
) -> str:
    """Run a command, inside a namespace if an entrance is given; what it printed.

    Raises:
        CommandError: it is not installed, did not end in time, or failed; the last is no error if ``check`` is false.
    """
    path = _path(argv[0])
    before = None if entrance is None else _inside(entrance, ROOT)
    try:
        done = subprocess.run(
            (path, *argv[1:]),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=env,
            check=False,
            preexec_fn=before,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{' '.join(argv)}: it did not end within {TIMEOUT:g} s") from None
    if check and done.returncode != 0:
        raise CommandError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def spawn(*argv: str, entrance: Entrance, user: User = ROOT, env: Mapping[str, str] | None = None) -> Program:
    """Start a command inside a namespace, as a user; it is executed when this returns, and leads a session.

    It ends with the thread that calls this.
    """
    path = _path(argv[0])
    return Program((path, *argv[1:]), text=True, env=env, start_new_session=True, preexec_fn=_inside(entrance, user))


def leave(*argv: str, entrance: Entrance, env: Mapping[str, str]) -> int:
    """Start a command inside a namespace that outlives this process, and says nothing; its process id."""

    def before() -> None:
        entrance.enter()
        become(ROOT)

    nowhere = subprocess.DEVNULL
    child = Program(
        (_path(argv[0]), *argv[1:]),
        stdin=nowhere,
        stdout=nowhere,
        stderr=nowhere,
        env=env,
        start_new_session=True,
        preexec_fn=before,
    )
    child.returncode = 0  # Nobody waits for it, which is no mistake.
    return child.pid


def _path(name: str) -> str:
    path = name if "/" in name else find_binary(name)
    if path is None:
        raise CommandError(f"{name} is not installed")
    return path


def _inside(entrance: Entrance, user: User) -> Callable[[], None]:
    """What a child does between its start and its program."""
    parent = os.getpid()

    def enter() -> None:
        entrance.enter()
        become(user)
        end_with_parent(parent)

    return enter


def fork(function: Callable[[], object], keep: Iterable[FileDescriptorLike] | None) -> Child:
    """Run a function in a forked child, which this process's end will end.

    Of what is open here it keeps these and the standard streams, or everything if None is given. The rest is closed
    there when this returns.
    """
    if keep is None:
        child = _forks.Process(target=function, daemon=True)
        child.start()
        return child
    kept = set(map(_number, keep))

    def work() -> None:
        _let_go(kept)
        function()

    reading, writing = os.pipe()
    with open(reading, "rb") as pipe:
        child = _forks.Process(target=work, daemon=True)
        child.start()
        os.close(writing)
        pipe.read()  # It ends when the child has let go of it, too.
    return child


def _let_go(kept: set[int]) -> None:
    """Close every descriptor but these and the standard streams.

    The numbers stay taken, by something that can neither be read nor written: an object of the parent's that is thrown
    away here would close what has got its number since.
    """
    kept = {0, 1, 2} | kept
    for stream in (sys.stdout, sys.stderr):  # pytest has put files of its own in their place.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            kept.add(stream.fileno())
    nothing = os.open("/", os.O_PATH)
    for each in set(map(int, os.listdir("/proc/self/fd"))) - kept - {nothing}:
        os.dup2(nothing, each, inheritable=False)
    os.close(nothing)


def _number(descriptor: FileDescriptorLike) -> int:
    return descriptor if isinstance(descriptor, int) else descriptor.fileno()


def pipe() -> tuple[Pipe, Pipe]:
    """Both ends of a connection between a process and a child of its."""
    return _forks.Pipe()


class Worker(Generic[T]):
    """A function at work in a process of its own inside a namespace."""

    def __init__(
        self,
        function: Callable[[], T],
        entrance: Entrance,
        user: User,
        keep: Iterable[FileDescriptorLike] | None,
    ) -> None:
        self._receiving, sending = _forks.Pipe(duplex=False)
        parent = os.getpid()
        kept = None if keep is None else (*keep, sending)
        self._process = fork(lambda: _work(function, entrance, user, sending, parent), kept)
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

    def is_done(self) -> bool:
        """Whether the function's result is there, or its process is gone."""
        return self._receiving.poll(0)

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._receiving.close()


def _work(function: Callable[[], T], entrance: Entrance, user: User, sending: Connection, parent: int) -> None:
    """What a worker's process does. An interrupt from the keyboard is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer: tuple[T | None, str | None]
    try:
        entrance.enter()
        become(user)
        end_with_parent(parent)
        answer = (function(), None)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            error.add_note("What the test has open is closed in a function that it starts, except for keep=(...)")
        answer = (None, traceback.format_exc())
    sending.send(answer)
