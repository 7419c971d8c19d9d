"""The program, run as often as tests ask for it, each time in a process of its own, imported once.

Most of a command's time is the interpreter's start and the imports. A server has done both, and nothing else: it forks
for each run, which then has the arguments, the environment, the directory and the output that it is told. What a run
leaves in memory, caches among it, ends with it.

``ISTIO_INIT_COLD=1`` in the environment of the tests has every run start from nothing.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import selectors
import socket
import struct
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from subprocess import Popen, TimeoutExpired
from typing import NoReturn

LENGTH = struct.Struct("!Q")
STATUS = struct.Struct("!i")

AT_START = ("LANG", "LANGUAGE", "LC_", "PYTHON", "VIRTUAL_ENV")
"""Beginnings of variables that the interpreter looks at when it starts."""

KEPT = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment without any variable that could configure the program, but those given."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, **(more or {})}


def can_run(env: Mapping[str, str]) -> bool:
    """Whether a run with these variables is the same here as in an interpreter that begins with them."""

    def read_at_start(variables: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith(AT_START)}

    return "ISTIO_INIT_COLD" not in os.environ and read_at_start(env) == read_at_start(environment())


class Running:
    """A run that was asked for, in a process of its own."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], *, leads_session: bool = False) -> None:
        self._argv = argv
        self._answer, there = socket.socketpair()
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(self._answer)
        self._out, self._err = os.memfd_create("out"), os.memfd_create("err")
        for each in (self._out, self._err):
            self._closing.callback(os.close, each)
        told = {"argv": argv, "env": dict(env), "cwd": os.getcwd(), "leads_session": leads_session}
        request = json.dumps(told).encode()
        with there:
            descriptors = array.array("i", [there.fileno(), self._out, self._err])
            asking, _ = _server(os.stat("/proc/self/ns/net").st_ino)
            asking.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        self._answer.sendall(LENGTH.pack(len(request)) + request)
        self.pid = self._number()
        """Its process, which is there until somebody has waited for it."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its status, or the number of the signal that ended it with a minus.

        Raises:
            TimeoutExpired: it did not end in time.
        """
        self._answer.settimeout(timeout)
        try:
            return self._number()
        except TimeoutError:
            raise TimeoutExpired(self._argv, timeout or 0) from None

    def has_ended(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return bool(select.select([self._answer], [], [], 0)[0])

    def _number(self) -> int:
        answer = self._answer.recv(STATUS.size)
        assert len(answer) == STATUS.size, "the process that runs the program died"
        [number] = STATUS.unpack(answer)
        assert isinstance(number, int)
        return number

    def printed(self) -> tuple[str, str]:
        """What it has printed so far: output, errors."""
        return _text(self._out), _text(self._err)

    def close(self) -> None:
        """Let go of it."""
        self._closing.close()


def run(argv: tuple[str, ...], env: Mapping[str, str], timeout: float) -> tuple[int, str, str]:
    """Run ``python -m istio_init`` with arguments and variables to its end: status, output, errors.

    Raises:
        TimeoutExpired: it did not come to one.
    """
    with contextlib.closing(Running(argv, env)) as running:
        return running.wait(timeout), *running.printed()


def _text(file: int) -> str:
    with os.fdopen(os.dup(file), "rb") as copy:
        copy.seek(0)
        return copy.read().decode()


@cache
def _server(netns: int) -> tuple[socket.socket, Popen[bytes]]:
    """The server of this process in a network namespace, which ends with it: its socket is closed then."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        command = (sys.executable, __file__, str(there.fileno()))
        return here, Popen(command, env=environment(), pass_fds=[there.fileno()])


def serve(asked: socket.socket) -> None:
    """Fork for each run that is asked for, and say how it ended, until nobody can ask any more."""
    with selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is asked:
                    message, descriptors, _, _ = socket.recv_fds(asked, 1, 3)
                    if not message:
                        return
                    pid, answer = _begin(*descriptors)
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, answer))
                else:
                    selector.unregister(key.fileobj)
                    _end(key.fd, *key.data)


def _begin(asking: int, out: int, err: int) -> tuple[int, socket.socket]:
    """Start a run; its process id, and whom to tell how it ends."""
    answer = socket.socket(fileno=asking)
    request = json.loads(_exactly(answer, LENGTH.unpack(_exactly(answer, LENGTH.size))[0]))
    pid = os.fork()
    if not pid:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, 1024)
        if request["leads_session"]:
            os.setsid()
        _become(request["argv"], request["env"], request["cwd"])
    os.close(out)
    os.close(err)
    with contextlib.suppress(BrokenPipeError):
        answer.sendall(STATUS.pack(pid))
    return pid, answer


def _end(pidfd: int, pid: int, answer: socket.socket) -> None:
    os.close(pidfd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with answer, contextlib.suppress(BrokenPipeError):  # The test may have given up.
        answer.sendall(STATUS.pack(status))


def _exactly(answer: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        found += answer.recv(length - len(found))
    return found


def _become(argv: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    """Be ``python -m istio_init``, and end as it does, but for taking apart what was imported, which takes long."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = cwd
    sys.argv = ["istio_init", *argv]
    status: object = 0
    try:
        runpy.run_module("istio_init", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status if isinstance(status, int) else 0)


def import_everything() -> None:
    """Import all that a command could, but not what is made for tests."""
    package = import_module("istio_init")
    for found in walk_packages(package.__path__, "istio_init."):
        if not found.name.startswith(("istio_init.testing", "istio_init.__main__")):
            import_module(found.name)


if __name__ == "__main__":
    import_everything()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
