"""What can go wrong in a run: which calls it makes, and which errors and signals each of them is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

ERRORS = ("ENOMEM", "EMFILE", "ENOSPC", "EINTR", "EIO", "ENOBUFS")
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that one handler notes, so that each point gets one of them, in turn."""
NEVER = frozenset(["exit", "exit_group", "rt_sigreturn", "vfork", "restart_syscall"])
"""Calls that cannot fail, or are none that a program makes."""

ANSWERS = {
    "ENOMEM": "access bind brk clone connect execve fcntl getsockname getsockopt ioctl memfd_create mkdir mmap mprotect"
    " munmap newfstatat openat pidfd_open poll prctl recvfrom recvmsg sendmsg sendto setgroups setns setsockopt socket"
    " statfs unlink membarrier capset prlimit64 pselect6 readlink readlinkat epoll_create1 getdents64 read",
    "EMFILE": "dup2 dup3 epoll_create1 fcntl memfd_create openat pidfd_open pipe2 socket execve recvmsg",
    "ENOSPC": "close mkdir openat unlink utimensat write sendto",
    "EINTR": "close connect dup2 dup3 flock futex getrandom ioctl openat poll pselect6 read recvfrom recvmsg sendmsg"
    " sendto setns wait4 write",
    "EIO": "access close execve getdents64 ioctl lseek mkdir newfstatat openat pread64 read readlink readlinkat statfs"
    " unlink utimensat write",
    "ENOBUFS": "bind connect getsockopt recvfrom recvmsg sendmsg sendto setsockopt socket",
}
"""The calls that each error can come from, of those whose errors are known; any other call gets all of them."""

CALL = r"^(socket\(AF_(?:NETLINK|INET)|\w+(?=\())"
NETWORK = ("socket(AF_NETLINK", "socket(AF_INET")
"""With such a call a program's work begins; nothing of the kernel's rules can be asked before."""

INFALLIBLE = frozenset(
    "arch_prctl capget getegid geteuid getgid getpid gettid getuid rseq rt_sigaction rt_sigprocmask sched_getaffinity"
    " set_robust_list set_tid_address setsid sysinfo umask uname chdir".split()
)
"""Calls that fail only where a program passes what it must not, or what is always there; a signal can come at them."""


def errors(call: str) -> tuple[str, ...]:
    """What a call can answer."""
    if call in INFALLIBLE:
        return ()
    return tuple(each for each in ERRORS if call in ANSWERS[each].split()) or ERRORS


class Fault(NamedTuple):
    """What goes wrong: at the N-th call of a kind an error of the kernel's, or a signal."""

    call: str
    what: str
    number: int
    children: bool
    """Of every process of the run, not of ours alone."""

    @property
    def injection(self) -> str:
        """As strace takes it."""
        kind = "signal" if self.what.startswith("SIG") else "error"
        return f"{self.call}:{kind}={self.what}:when={self.number}"


class Calls(NamedTuple):
    """How often a call is made."""

    ours: int
    work: tuple[int, ...] = ()
    """Which of them a child of ours makes for its work; of those that it makes oftenest."""

    start: tuple[int, ...] = ()
    """Which of them are no child's work, but the start of its program: of the loader, of the interpreter."""


def counted(ours: list[str], children: list[list[str]]) -> dict[str, Calls]:
    """Of the calls of each process, in their order."""
    own, parts = _counter(ours), [_parts(each) for each in children]
    result = {}
    for name in sorted(set(own).union(*(part for child in parts for part in child)) - NEVER):
        every = {number for before, start, after in parts for number in range(1, (before + start + after)[name] + 1)}
        work = {
            number
            for before, start, after in parts
            for number in every
            if number <= before[name] or before[name] + start[name] < number <= (before + start + after)[name]
        }
        result[name] = Calls(own[name], tuple(sorted(work)), tuple(sorted(every - work)))
    return result


def _parts(calls: list[str]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """The calls of a child until it becomes a program, of the program's start, and of its work."""
    begin = calls.index("execve") + 1 if "execve" in calls else len(calls)
    end = next((at for at in range(begin, len(calls)) if calls[at] in NETWORK), begin)
    return _counter(calls[:begin]), _counter(calls[begin:end]), _counter(calls[end:])


def _counter(calls: list[str]) -> Counter[str]:
    return Counter(each.partition("(")[0] for each in calls)


def numbers(count: int) -> Iterator[int]:
    """The first calls, some in between, farther and farther apart, and the last."""
    number = 1
    while number < count:
        yield number
        number = max(number + 1, number * 5 // 4)
    if count:
        yield count


def faults(counts: dict[str, Calls]) -> Iterator[Fault]:
    """Every fault of a run whose calls were counted: at each point one that is left, until none is.

    So each part of them from the first on has been everywhere. A program that cannot start is one whatever it lacks, so
    of the calls of a start the first and the last have to do, with one error each.
    """
    points = []
    for at, (call, each) in enumerate(counts.items()):
        points += [list(_of(call, at + number, number, False)) for number in numbers(each.ours)]
        chosen = [each.work[number - 1] for number in numbers(len(each.work))]
        points += [list(_of(call, at + number, number, True)) for number in chosen]
        points += [
            list(_of(call, at + number, number, True))[:1] for number in sorted({*each.start[:1], *each.start[-1:]})
        ]
    for turn in range(max(len(each) for each in points)):
        yield from (each[turn] for each in points if turn < len(each))


def _of(call: str, at: int, number: int, children: bool) -> Iterator[Fault]:
    """What can go wrong at one point; which comes first differs between points."""
    possible = errors(call)
    turned = [possible[(at + number + turn) % len(possible)] for turn in range(len(possible))]
    if not children:
        turned[1:1] = [STOPPING[(at + number) % len(STOPPING)], "SIGKILL"]
    yield from (Fault(call, what, number, children) for what in turned)
