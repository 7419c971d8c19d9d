"""Starts programs in namespaces of others, whose owners may try to take over what root starts.

A process of ours is never traceable there: outside the pod's user namespace the pod has no right over it, and inside it
cannot be dumped (``PR_SET_DUMPABLE``, prctl(2)), which is what ptrace(2) and /proc/PID ask. Executing a program makes a
process dumpable again, unless it may not read the program: then the kernel keeps it so (fs/exec.c, would_dump). So what
is executed there is a sealed copy in memory that may be executed and not be read.

Besides it has no terminal, no descriptor, no group and no variable of ours, and limits.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal

from istio_init.errors import NamespaceError, PrivilegeError, ToolError
from istio_init.system import namespaces
from istio_init.system.process import IGNORED_BY_PYTHON, LARGEST, end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
"""linux/prctl.h"""

NET_ADMIN, NET_RAW, LAST_CAP = 12, 13, 63
KEPT = (1 << NET_ADMIN) | (1 << NET_RAW)
"""What reading rules takes, and writing them where these are capabilities of the pod's own user namespace."""

CAPABILITY_VERSION_3 = 0x20080522
"""linux/capability.h"""

MFD_EXEC, EXECUTE_ONLY = 0x10, 0o111
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

FAILED = 127
"""The exit status of what could not execute its program; a line in the pipe says why."""

MEMORY = 4 << 30
SECONDS = 120
LIMITS = {"RLIMIT_AS": MEMORY, "RLIMIT_CPU": SECONDS, "RLIMIT_FSIZE": LARGEST, "RLIMIT_CORE": 0}
"""Far above what rules take: a program that reaches one is stopped."""

PATIENCE = 5.0
"""Seconds for a child to enter a namespace. Its owner may stop the child there."""

SUID_DUMPABLE = "/proc/sys/fs/suid_dumpable"

PIPE, PROGRAM, USERNS = 3, 4, 5
"""The descriptors of the child besides those of its input and output."""

STEPS = ("prepare", "drop the groups", "enter the user namespace", "become its user 0", "drop capabilities", "execute")

_libc = ctypes.CDLL(None, use_errno=True)


class Started:
    """A program that was started; ``check`` it when it has ended, and ``close`` it."""

    __slots__ = ("pid", "pipe")

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe

    def check(self, path: str, status: int) -> None:
        """Raise if the program did not come to be executed, or reached a limit.

        Raises:
            ToolError: says why.
        """
        if status == -signal.SIGXFSZ:
            raise ToolError(f"{path} printed {LARGEST >> 20} MiB or more, which is not read")
        if status == -signal.SIGXCPU:
            raise ToolError(f"{path} took more than {LIMITS['RLIMIT_CPU']} s of the processor and was killed")
        if status != FAILED:
            return
        words = os.read(self.pipe, 64).split()
        if len(words) != 2 or not all(word.isdigit() and len(word) < 5 for word in words):
            return
        step, reason = int(words[0]), os.strerror(int(words[1]))
        if step == STEPS.index("become its user 0"):
            raise NamespaceError("the pod's user namespace has no user 0", fix="map user and group 0 in it")
        if step >= len(STEPS) - 1:
            raise ToolError(f"{path} cannot be started: {reason}")
        raise PrivilegeError(f"{path} cannot be started: it may not {STEPS[step]}: {reason}", fix="run as root")

    def close(self) -> None:
        """Close what tells of it."""
        os.close(self.pipe)


def start(
    path: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    files: Sequence[int],
    *,
    userns: int | None,
    writing: bool,
) -> Started:
    """Start a program in the current network namespace; ``files`` are its input, output and errors.

    ``userns`` is a user namespace that it has to be in. What is not ``writing`` loses all capabilities that reading
    does not need.

    Raises:
        ToolError: it cannot be kept from being looked into there.
    """
    program = -1
    if userns is not None:
        _require_undumpable()
        program = _unreadable_copy(path)
    here, there = os.pipe()
    pid = os.fork()
    if pid:
        try:
            os.close(there)
            if program >= 0:
                os.close(program)
        except BaseException:
            end(pid)
            raise
        return Started(pid, here)
    step = 0
    try:
        _shut_in({PIPE: there, PROGRAM: program, USERNS: -1 if userns is None else userns}, files)
        step = 1
        _drop_groups(must=userns is not None)
        if userns is not None:
            step = 2
            namespaces.enter_user(USERNS)
            os.close(USERNS)
            step = 3
            _become_root()
        step = 4
        if userns is not None or not writing:
            _drop_capabilities()
        step = 5
        os.execve(path if userns is None else PROGRAM, list(argv), dict(environment))
    except OSError as error:
        os.write(PIPE, b"%d %d" % (step, error.errno or 0))
    finally:
        os._exit(FAILED)
    raise AssertionError


def id_maps(userns: int) -> tuple[str, str]:
    """The user and group ids that a user namespace maps, as its uid_map and gid_map show them to us.

    They are shown for a process alone. A child enters the namespace, does nothing there, and is killed. It ends with
    us, too.

    Raises:
        NamespaceError: it could not be entered.
    """
    _require_undumpable()
    (here, there), (waiting, held) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _shut_in({PIPE: there, PROGRAM: waiting, USERNS: userns}, ())
            _drop_groups(must=True)
            namespaces.enter_user(USERNS)
            os.write(PIPE, b"in")
            os.read(PROGRAM, 1)
        finally:
            os._exit(FAILED)
    os.close(there)
    os.close(waiting)
    try:
        poll = select.poll()
        poll.register(here, select.POLLIN)
        if not poll.poll(PATIENCE * 1000) or os.read(here, 2) != b"in":
            raise NamespaceError("the pod's user namespace cannot be entered", fix="run as root; see whether it lives")
        with open(f"/proc/{pid}/uid_map") as users, open(f"/proc/{pid}/gid_map") as groups:
            return users.read(), groups.read()
    finally:
        os.close(here)
        os.close(held)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _require_undumpable() -> None:
    """Raise where the kernel is told to make a process dumpable whose user changed or whose program is unreadable."""
    with open(SUID_DUMPABLE) as file:
        value = file.read().strip()
    if value == "1":
        raise ToolError(
            "no pod's user namespace is entered while fs.suid_dumpable is 1, as its users could trace what root does",
            fix="sysctl fs.suid_dumpable=0",
        )


def _unreadable_copy(path: str) -> int:
    """A descriptor of a copy of a program that may be executed by anyone, and neither read nor changed."""
    name, flags = os.path.basename(path), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        with open(path, "rb") as original:
            content = original.read()
        try:
            copy = os.memfd_create(name, flags | MFD_EXEC)
        except OSError:  # Before Linux 6.3; or it is forbidden, which executing it then tells.
            copy = os.memfd_create(name, flags)
    except OSError as error:
        raise ToolError(f"{path} cannot be started: {error.strerror}") from error
    try:
        if content[:2] == b"#!":
            raise ToolError(
                f"{path} is a script, which cannot be run in a pod's user namespace without its users seeing into it",
                fix="have the program itself on the PATH",
            )
        view = memoryview(content)
        while view:
            view = view[os.write(copy, view) :]
        os.fchmod(copy, EXECUTE_ONLY)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _shut_in(kept: Mapping[int, int], files: Sequence[int]) -> None:
    """Part the child from all that is ours: session, terminal, memory, descriptors, directory; and limit it."""
    import resource

    os.setsid()
    _prctl(PR_SET_DUMPABLE, 0)
    for ignored in IGNORED_BY_PYTHON:
        signal.signal(ignored, signal.SIG_DFL)
    wanted = dict(enumerate(files)) if files else {number: os.open("/dev/null", os.O_RDWR) for number in range(3)}
    # Out of the way first, so that none takes the place of another.
    aside = {
        number: fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for number, each in {**wanted, **kept}.items() if each >= 0
    }
    for number, each in aside.items():
        os.dup2(each, number, inheritable=number in wanted)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in aside:
            try:
                os.close(int(name))
            except OSError:
                continue  # The one that listed them.
    os.chdir("/")
    os.umask(0o077)
    for what, most in LIMITS.items():
        number = getattr(resource, what)
        hard = resource.getrlimit(number)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # At the second limit of the processor's time it is SIGKILL that comes, which would not say why.
        last = limit + 1 if what == "RLIMIT_CPU" and limit != hard else limit
        resource.setrlimit(number, (limit, last))


def _drop_groups(*, must: bool) -> None:
    try:
        os.setgroups([])
    except PermissionError:
        if must and os.getgroups():
            raise


def _become_root() -> None:
    """Take user and group 0 of the user namespace just entered: a program loses the capabilities otherwise."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _prctl(PR_SET_DUMPABLE, 0)


def _drop_capabilities() -> None:
    """Keep those that rules take, irrevocably. What takes another to be dropped stays, and is not had either."""
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, must=False)
    for number in range(LAST_CAP + 1):
        if not KEPT >> number & 1:
            _prctl(PR_CAPBSET_DROP, number, must=False)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    if _libc.capget(header, sets) != 0:
        _fail()
    for index in range(6):  # Effective, permitted and inheritable; then the same of the upper half.
        sets[index] = sets[index] & KEPT if index < 2 else 0
    if os.geteuid() != 0:
        sets[2] = sets[1]
    if _libc.capset(header, sets) != 0:
        _fail()
    if os.geteuid() != 0:
        for number in (NET_ADMIN, NET_RAW):
            _prctl(PR_CAP_AMBIENT, 2, number, must=False)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, *arguments: int, must: bool = True) -> None:
    padded = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *padded) != 0 and must:
        _fail()


def _fail() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
