"""A real process of an unprivileged user with a network namespace of its own, who tries to get hold of what root does.

It is forked, as the interpreter and its modules may lie where that user cannot read.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

USER = 4_200_000 + os.getpid()
"""Nobody else's on this machine, nor of tests that run beside these."""

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
WALL = 0x40000000
PROCESS_VM_READV, PIDFD_GETFD = 310, 438
"""On x86-64; the second one everywhere."""

Act = Callable[[int], list[str]]
"""What it does to a process that appeared. The names of what it achieved."""


class Attacker:
    """The process: ``pid`` of it, and in the end what it ``saw`` and what it ``got``."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe
        self.saw: dict[str, str] = {}
        self.got: list[str] = []

    def finish(self) -> None:
        """Have it stop and tell."""
        os.kill(self.pid, signal.SIGTERM)
        with os.fdopen(self._pipe) as told:
            found = json.loads(told.read())
        self.saw, self.got = found["saw"], found["got"]
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def attacker(act: Act | None = None, user: int = USER, hold: tuple[str, ...] = ()) -> Iterator[Attacker]:
    """Somebody who ran ``unshare -Urn``, as this user, and does something to every process of hers that appears.

    ``hold`` are files that she keeps a lock on.
    """
    (ready, begun), (told, tell) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(ready)
            os.close(told)
            _become(user)
            kept = [os.open(path, os.O_RDONLY) for path in hold]
            for each in kept:
                fcntl.flock(each, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(begun, b"!")
            found = _attack(act or (lambda _: []), user)
            os.write(tell, json.dumps(found).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(begun)
    os.close(tell)
    assert os.read(ready, 1) == b"!", "no namespaces for ordinary users here"
    os.close(ready)
    made = Attacker(pid, told)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _become(user: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc.prctl(4, 1, 0, 0, 0)  # What changed its user may not write its own maps otherwise.
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {user} 1")


def _attack(act: Act, user: int) -> dict[str, object]:
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    before = {name for name in os.listdir("/proc") if name.isdigit()}
    saw: dict[str, str] = {}
    got: list[str] = []
    while not ended:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG | WALL)  # What she traces can end only then.
        for name in [name for name in os.listdir("/proc") if name.isdigit() and name not in before]:
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{name}/status").read_text(errors="replace")  # Any process may be called anything.
                fields = dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line)
                # As she sees it: her own user is 0, and nobody else has a number.
                if "0" in fields["Uid"].split() or fields["Uid"].split()[0] == str(user):
                    saw[f"{name} {fields['Name']}"] = fields["State"]
                got += [f"{each} {name} {fields['Name']}" for each in act(int(name))]
    return {"saw": saw, "got": sorted(set(got))}


def look_into(pid: int) -> list[str]:
    """Every way into a process that ptrace(2), proc(5) and others offer. Those that were open."""
    libc = ctypes.CDLL(None, use_errno=True)
    got = []

    def attempt(what: str, way: Callable[[], object]) -> None:
        with contextlib.suppress(OSError):
            if way():
                got.append(what)

    for what, request in (("seize", PTRACE_SEIZE), ("attach", PTRACE_ATTACH)):
        if libc.ptrace(request, pid, 0, 0) == 0:
            got.append(what)
            break
    attempt("environ", lambda: Path(f"/proc/{pid}/environ").read_bytes())
    attempt("memory", lambda: _opens(f"/proc/{pid}/mem", os.O_RDWR))
    attempt("maps", lambda: Path(f"/proc/{pid}/maps").read_bytes())
    attempt("descriptors", lambda: os.listdir(f"/proc/{pid}/fd"))
    attempt("program", lambda: os.readlink(f"/proc/{pid}/exe"))
    attempt("text", lambda: _opens(f"/proc/{pid}/exe", os.O_RDONLY))
    attempt("root", lambda: os.listdir(f"/proc/{pid}/root"))
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_size_t * 2)(0x10000, 8)
    if libc.syscall(PROCESS_VM_READV, pid, here, 1, there, 1, 0) >= 0 or ctypes.get_errno() == 14:
        got.append("process_vm_readv")  # EFAULT: it was allowed, only the address is wrong.
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if (stolen := libc.syscall(PIDFD_GETFD, pidfd, 0, 0)) >= 0:
                os.close(stolen)
                got.append("pidfd_getfd")
        finally:
            os.close(pidfd)
    return got


def _opens(path: str, flags: int) -> bool:
    os.close(os.open(path, flags))
    return True


def stop(pid: int) -> list[str]:
    """Stop it."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.01)  # It is hers until root notices; the processor is for root now.
        return ["stop"]
    return []
