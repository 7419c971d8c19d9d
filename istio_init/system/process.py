"""Starts subprocesses: the only module of the program that does.

``subprocess`` is not used because importing it costs an initContainer more than the whole commit of the rules. Input
and output are anonymous files instead of pipes, so neither side can block the other.
"""

from __future__ import annotations

import os
import select

from istio_init.errors import NoBackendError, ToolError
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST = 2**31 - 1
"""Milliseconds that poll(2) can wait for."""

SIGKILL = 9
"""signal(7). The module ``signal`` builds enums of every signal at each start."""

SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
"""Searched after PATH: a login shell of an ordinary user leaves out where iptables lives."""


class Completed(Value):
    """A finished process. ``status`` is its exit code, or minus the signal that ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


_FOUND: dict[tuple[str, str], str] = {}


def find_binary(name: str) -> str | None:
    """The path of an executable, or None. What was found once is not looked for again."""
    search = os.environ.get("PATH", "")
    if (search, name) in _FOUND:
        return _FOUND[search, name]
    for directory in (*search.split(os.pathsep), *SYSTEM_DIRECTORIES):
        path = os.path.join(directory, name)
        if directory and os.access(path, os.X_OK):
            _FOUND[search, name] = path
            return path
    return None


def run(argv: Sequence[str], *, stdin: str = "", timeout: float, env: Mapping[str, str] | None = None) -> Completed:
    """Run a program to its end.

    Args:
        argv: the program, by name or path, and its arguments.
        stdin: what it reads.
        timeout: seconds after which it is killed.
        env: variables to add to the environment.

    Raises:
        NoBackendError: the program does not exist.
        ToolError: it did not end in time.
    """
    path = argv[0] if "/" in argv[0] else find_binary(argv[0])
    if path is None:
        raise NoBackendError(f"{argv[0]} is not installed", fix="install the package iptables")
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        if stdin:
            _write_all(files[0], stdin.encode(errors="surrogateescape"))
            os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
        environment = {**os.environ, "LC_ALL": "C", **(env or {})}
        try:
            pid = os.posix_spawn(path, list(argv), environment, file_actions=actions)
        except OSError as error:
            raise ToolError(f"{path} cannot be started: {error.strerror}") from error
        status = _wait(pid, argv[0], timeout)
        return Completed(tuple(argv), status, _read_all(files[1]), _read_all(files[2]))
    finally:
        for file in files:
            os.close(file)


def _wait(pid: int, name: str, timeout: float) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(min(timeout * 1000, LONGEST))
    except BaseException:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(pidfd)
    if not ended:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise ToolError(f"{name} did not end within {timeout:g} s and was killed")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _read_all(file: int) -> str:
    size = os.fstat(file).st_size
    data = b""
    while len(data) < size:
        chunk = os.pread(file, size - len(data), len(data))
        if not chunk:
            break
        data += chunk
    return data.decode(errors="surrogateescape")
