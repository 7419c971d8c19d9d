"""Runs of a command that have begun: the interpreter is up and the command's modules are loaded, and nothing is done.

Starting and importing takes most of a run's time and nine tenths of its system calls, and changes nothing. So one
process has done it once, and forks for each run, which waits until it may go on: until strace is attached to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

UNBOUND = "without-python-iptables"
ATTACHED = 60.0
"""Seconds that strace has to attach itself."""


class Done(NamedTuple):
    """A finished run; a negative status is a signal, and None that it did not end."""

    status: int | None
    said: str


class Begun:
    """The process that forks, with what the given runs import."""

    def __init__(self, *examples: tuple[str, ...], binding: bool = True) -> None:
        """Without ``binding`` python-iptables is as if it were not installed."""
        self.folder = tempfile.TemporaryDirectory()
        self.server = subprocess.Popen(
            [sys.executable, __file__, *([] if binding else [UNBOUND])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        modules = Path(self.folder.name, "modules")
        for argv in examples:
            done = self.run(argv, ATTACHED, modules=str(modules))
            assert done.status == 0, done.said
            self._ask({"modules": str(modules)})

    def close(self) -> None:
        """End it."""
        self.server.communicate()
        self.folder.cleanup()

    def run(self, argv: tuple[str, ...], timeout: float, tracing: tuple[str, ...] = (), modules: str = "") -> Done:
        """Run with arguments to its end, beneath strace where its own are given."""
        said = Path(self.folder.name, "said")
        pid = self._ask({"argv": argv, "said": str(said), "imported": modules})
        tracer = subprocess.Popen(("strace", *tracing, "-qq", "-p", str(pid))) if tracing else None
        if tracer:
            _await_tracer(pid)
        self._tell({})
        status = self._status(pid, timeout)
        if tracer:
            tracer.wait(ATTACHED)
        return Done(status, said.read_text(errors="replace"))

    def _status(self, pid: int, timeout: float) -> int | None:
        assert self.server.stdout is not None
        if select.select([self.server.stdout], [], [], timeout)[0]:
            return self._answer()
        os.killpg(pid, signal.SIGKILL)
        self._answer()
        return None

    def _tell(self, request: dict[str, Any]) -> None:
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(request) + "\n")

    def _ask(self, request: dict[str, Any]) -> int:
        self._tell(request)
        return self._answer()

    def _answer(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())


def _await_tracer(pid: int) -> None:
    """Wait until a process is traced, or has ended by what strace did to it at once."""
    deadline = time.monotonic() + ATTACHED
    while "TracerPid:\t0\n" in (status := Path(f"/proc/{pid}/status").read_text()) and "State:\tZ" not in status:
        if time.monotonic() > deadline:
            raise TimeoutError("strace has not attached itself")
        time.sleep(0.002)


def serve() -> None:
    """Fork for each request, and print the run's process id, and its status when it has ended."""
    if UNBOUND in sys.argv:
        import_module("istio_init.stores.legacy").__dict__["_reason_not_to_try"] = lambda: "it is not to be tried"
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "modules" in request:
            for name in Path(request["modules"]).read_text().split():
                import_module(name)
            print(0, flush=True)
            continue
        (waits, go), (prepared, ready) = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.close(prepared)
            os.close(go)
            _become(request["argv"], request["said"], request["imported"], waits, ready)
        os.close(waits)
        os.close(ready)
        os.read(prepared, 1)
        os.close(prepared)
        print(pid, flush=True)
        sys.stdin.readline()
        with contextlib.suppress(BrokenPipeError):  # A signal may have come while it waited.
            os.write(go, b"!")
        os.close(go)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(argv: list[str], said: str, imported: str, waits: int, ready: int) -> NoReturn:
    """Be ``istio-init`` with these arguments."""
    os.setsid()
    null, output = os.open("/dev/null", os.O_RDONLY), os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, to in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, to)
    os.close(null)
    os.close(output)
    sys.argv = ["istio-init", *argv]
    os.close(ready)
    with contextlib.suppress(OSError):  # These may be the calls that fail.
        os.read(waits, 1)
        os.close(waits)
    status: object = 0
    try:
        runpy.run_module("istio_init", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if imported:
        names = [name for name in sys.modules if name.startswith(("istio_init.", "pyroute2")) or "." not in name]
        Path(imported).write_text("\n".join(name for name in names if "__" not in name))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    serve()
