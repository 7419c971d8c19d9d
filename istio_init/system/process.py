"""Starts subprocesses: the only module of the program that does.

``subprocess`` is not used because importing it costs an initContainer more than the whole commit of the rules. Input
and output are anonymous files instead of pipes, so neither side can block the other.

Nothing of the caller's environment reaches a program, and in a namespace of others it is confined (see ``confined``).
"""

from __future__ import annotations

import os
import select
import stat

from istio_init.errors import NoBackendError, ToolError
from istio_init.system import stopping
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from istio_init.system.confined import Started
    from istio_init.system.places import Place

LONGEST = 2**31 - 1
"""Milliseconds that poll(2) can wait for."""

SIGKILL, SIGPIPE, SIGXFSZ = 9, 13, 25
"""signal(7). The module ``signal`` builds enums of every signal at each start."""

IGNORED_BY_PYTHON = (SIGPIPE, SIGXFSZ)
"""What is ignored stays so in a program, which would then print half of what it has to say and exit with 0."""

LARGEST = 64 << 20
"""Bytes that a program may print."""

MOST_RULES = 200_000
"""So many rules are read of what one program prints."""

SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
"""Searched after PATH: a login shell of an ordinary user leaves out where iptables lives."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What programs have for PATH, whatever ours is."""

LOCK_VARIABLE = "XTABLES_LOCKFILE"
"""The one variable of the caller that programs see: where the lock of iptables lies if /run cannot be written to."""

IN_A_POD = 15.0
"""Seconds at most for a program in a pod's user namespace, whose users may stop it; ten thousand rules take one."""

foreign: Place | None = None
"""The namespace of others in which this process works at the moment; ``namespaces.call_in`` sets it."""


class Completed(Value):
    """A finished process. ``status`` is its exit code, or minus the signal that ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


_FOUND: dict[tuple[str, str], str] = {}


def find_binary(name: str) -> str | None:
    """The path of an executable, or None. What was found once is not looked for again.

    Of PATH only absolute directories count, and for root only those in which nobody else can put a program.
    """
    search = os.environ.get("PATH", "")
    if (search, name) in _FOUND:
        return _FOUND[search, name]
    for directory in (*search.split(os.pathsep), *SYSTEM_DIRECTORIES):
        path = os.path.join(directory, name)
        if directory.startswith("/") and os.access(path, os.X_OK) and _is_trusted(directory):
            _FOUND[search, name] = path
            return path
    return None


def _is_trusted(directory: str) -> bool:
    if directory in SYSTEM_DIRECTORIES or os.geteuid() != 0:
        return True
    status = os.stat(directory)
    by_others = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0)
    return status.st_uid == 0 and not by_others


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout: float,
    env: Mapping[str, str] | None = None,
    writing: bool = False,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: the program, by name or path, and its arguments.
        stdin: what it reads.
        timeout: seconds after which it is killed.
        env: variables to add to the environment, which is otherwise a fixed one.
        writing: it changes rules. Other programs get few capabilities, and never into the user namespace of a pod.

    Raises:
        NoBackendError: the program does not exist.
        ToolError: it did not end in time, or printed more than is read.
    """
    path = argv[0] if "/" in argv[0] else find_binary(argv[0])
    if path is None:
        raise NoBackendError(f"{argv[0]} is not installed", fix="install the package iptables")
    stopping.check()
    files: list[int] = []
    try:
        for name in ("stdin", "stdout", "stderr"):
            files.append(os.memfd_create(name))
        if stdin:
            _write_all(files[0], stdin.encode(errors="surrogateescape"))
            os.lseek(files[0], 0, os.SEEK_SET)
        environment = {**_environment(path), **(env or {})}
        if foreign is None:
            started = None
            pid = _spawn(path, argv, environment, files)
        else:
            started = _confined(path, argv, environment, files, writing=writing)
            pid = started.pid
        try:
            status = _wait(pid, argv[0], min(timeout, IN_A_POD) if writing and needs_owner() else timeout)
            if started is not None:
                started.check(path, status)
        finally:
            if started is not None:
                started.close()
        return Completed(tuple(argv), status, _read_all(files[1], argv[0]), _read_all(files[2], argv[0]))
    finally:
        for file in files:
            os.close(file)


def needs_owner() -> bool:
    """Whether rules are accepted only from a program that is in the user namespace of a pod."""
    return foreign is not None and foreign.userns is not None


def _environment(path: str) -> dict[str, str]:
    """All variables of a program: nothing of the caller's can change what it loads, runs or prints."""
    directory = os.path.dirname(path)
    more = f":{directory}" if directory.startswith("/") and directory not in PATH.split(":") else ""
    made = {"LC_ALL": "C", "PATH": PATH + more}
    lock = os.environ.get(LOCK_VARIABLE, "")
    if lock.startswith("/") and not os.path.normpath(lock).startswith(("/proc/", "//")):
        made[LOCK_VARIABLE] = lock  # Below /proc lie files that anybody may lock.
    return made


def _spawn(path: str, argv: Sequence[str], environment: Mapping[str, str], files: list[int]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
    try:
        return os.posix_spawn(path, list(argv), environment, file_actions=actions, setsigdef=IGNORED_BY_PYTHON)
    except OSError as error:
        raise ToolError(f"{path} cannot be started: {error.strerror}") from error


def _confined(
    path: str, argv: Sequence[str], environment: dict[str, str], files: list[int], *, writing: bool
) -> Started:
    from istio_init.system import confined

    userns = foreign.userns if foreign is not None and writing else None
    if userns is not None:
        # The machine's own lock cannot be opened there, and what can be, its users could hold. Nobody else locks this.
        environment[LOCK_VARIABLE] = "/proc/self/fd/0"
    return confined.start(path, argv, environment, files, userns=userns, writing=writing)


def _wait(pid: int, name: str, timeout: float) -> int:
    """Its status. Whatever happens, it has ended then: nobody writes behind our back."""
    pidfd = -1
    try:
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        stopping.waiting(True)
        try:
            ended = poll.poll(min(timeout * 1000, LONGEST))
        finally:
            stopping.waiting(False)
    except BaseException:
        end(pid)
        raise
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    if not ended:
        end(pid)
        raise ToolError(f"{name} did not end within {timeout:g} s and was killed")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def bounded(completed: Completed, mark: str = "-A ") -> str:
    """What a program printed of rules, each of which has a mark: iptables-save's, if none is named.

    Raises:
        ToolError: there are more than `MOST_RULES`.
    """
    if completed.stdout.count(mark) > MOST_RULES:
        raise ToolError(f"{completed.argv[0]} printed more than {MOST_RULES} rules, which are not read")
    return completed.stdout


def end(pid: int) -> None:
    """Kill a child and wait until it has ended."""
    try:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # It was waited for already.


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _read_all(file: int, name: str) -> str:
    size = os.fstat(file).st_size
    if size >= LARGEST:
        raise ToolError(f"{name} printed {LARGEST >> 20} MiB or more, which is not read")
    data = b""
    while len(data) < size:
        chunk = os.pread(file, size - len(data), len(data))
        if not chunk:
            break
        data += chunk
    return data.decode(errors="surrogateescape")
