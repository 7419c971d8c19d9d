"""Runs functions of ours in child processes and brings their results back.

Such a child never enters a user namespace of others: what it sends is taken for our own word.
"""

from __future__ import annotations

# The C module: `signal` itself builds enums of every signal, at each start.
import _signal  # type: ignore[import-not-found]
import math
import os
import pickle
import select
import struct
import time

from istio_init.errors import IstioInitError, ToolError
from istio_init.system import waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")

SIGKILL, SIGALRM, SIGTERM = 9, 14, 15
DIED = "the child process died"
LENGTH = struct.Struct("=Q")
NULL = "/dev/null"

EAGER = 0.5
"""Seconds after which a child is one that may wait for ever."""

GRACE = 3.0
"""Seconds beyond its own in which a child has to have ended; else it waits for what no signal ends."""


def in_child(function: Callable[[], T]) -> T:
    """Call a function in a child and return what it returns, or raise what it raises.

    Raises:
        ToolError: the child died before it had a result.
    """
    [result] = spread(1, lambda _: function(), workers=1)
    if isinstance(result, IstioInitError):
        raise result
    return result


def spread(
    count: int,
    function: Callable[[int], T],
    *,
    workers: int,
    seconds: int = 0,
    memory: int = 0,
    asked: Callable[[int], tuple[int, bool]] | None = None,
) -> Iterator[T | IstioInitError]:
    """Call ``function`` with 0 to ``count - 1`` in several children; results and errors come in this order.

    Child ``w`` has every ``workers``-th number from ``w`` on, and its pipe their results, one after the other. Where
    one dies, that is the result of the number that it was at, and another child has the rest. A child has so many
    ``seconds`` for each number, and bytes of ``memory``; 0 is any. One that even SIGKILL cannot end, as it waits for
    somebody's file system, is left to its fate; ``asked`` tells in which namespace that is, and whether it then looked
    at all of it.
    """
    workers = min(workers, count)
    pipes = [_start(range(first, count, workers), function, seconds, memory) for first in range(workers)]
    try:
        for number in range(count):
            result: T | IstioInitError
            pid, pipe = pipes[number % workers]
            try:
                result = _next(pipe, seconds)
            except (EOFError, TimeoutError) as error:
                status = _end(pid, pipe, seconds)
                if status is None and asked is not None:
                    netns, wholly = asked(number)
                    waiting.left(pid, netns, wholly=wholly)
                pipes[number % workers] = _start(range(number + workers, count, workers), function, seconds, memory)
                late = seconds and (isinstance(error, TimeoutError) or status == -SIGALRM)
                result = ToolError(f"given up after {seconds} s: too many rules, or too slow a node" if late else DIED)
            yield result
    except (KeyboardInterrupt, SystemExit):
        for pid, _ in pipes:
            os.kill(pid, SIGTERM)
        raise
    finally:
        for pid, pipe in pipes:
            _end(pid, pipe, seconds)


def _next(pipe: int, seconds: float) -> Any:
    """The next result of a child.

    Raises:
        EOFError: it died.
        TimeoutError: its time is over.
    """
    deadline = time.monotonic() + seconds + GRACE if seconds else None
    [length] = LENGTH.unpack(_exactly(pipe, LENGTH.size, deadline))
    return pickle.loads(_exactly(pipe, length, deadline))


def _exactly(pipe: int, size: int, deadline: float | None) -> bytes:
    data = b""
    while len(data) < size:
        if deadline is not None and not _is_readable(pipe, deadline):
            raise TimeoutError
        more = os.read(pipe, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _is_readable(pipe: int, deadline: float) -> bool:
    """Whether something comes, or the end, before a time of the clock."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def bytes_within(
    seconds: float, function: Callable[[], bytes | None], *, most: int, keep: int | None = None
) -> bytes | None:
    """What a function gives in a child, but not more than ``most``; None where it raises, dies or takes longer.

    A child that even SIGKILL cannot end, as it waits for somebody's file system, is left to its fate; where that is
    kept, nothing more is asked in the same namespace until it ends. It has no descriptor of ours but the one to
    ``keep``: whoever reads what we print would wait for its end as well.
    """
    if waiting.is_hopeless():
        return None
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _leave_only(writing, keep)
            _signal.signal(SIGALRM, _signal.SIG_DFL)
            _signal.alarm(math.ceil(seconds) + 1)  # Who has started it may be ended before.
            if (data := function()) is not None:
                with os.fdopen(writing, "wb") as pipe:
                    pipe.write(b"+" + data)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        if not _is_readable(reading, time.monotonic() + min(seconds, EAGER)):
            waiting.left(pid)
        data = _within(seconds, reading, most + 1)
    finally:
        os.close(reading)
        os.kill(pid, SIGKILL)
        _reap(pid)
    return data[1:] if data[:1] == b"+" else None


def _within(seconds: float, reading: int, most: int) -> bytes:
    """What comes through a pipe until its end; nothing where that does not come in time."""
    deadline = time.monotonic() + seconds
    data = b""
    while len(data) < most:
        if not _is_readable(reading, deadline):
            return b""
        more = os.read(reading, most - len(data))
        if not more:
            break
        data += more
    return data


def _leave_only(*kept: int | None) -> None:
    """Close all descriptors but some, and those that are expected to be open."""
    _lay_down(*kept)
    begun = 3
    for number in sorted(each for each in kept if each is not None and each >= begun):
        os.closerange(begun, number)
        begun = number + 1
    os.closerange(begun, os.sysconf("SC_OPEN_MAX"))


def _lay_down(*kept: int | None) -> None:
    """Have nothing in place of what we read from and print to."""
    null = os.open(NULL, os.O_RDWR)
    for number in range(3):
        if number not in kept:
            os.dup2(null, number)
    if null > 2:
        os.close(null)


def _reap(pid: int, seconds: float = 0.1) -> int | None:
    """The status of a child that ends in a moment; None where it does not."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.001)


def _end(pid: int, pipe: int, seconds: float) -> int | None:
    """The status of a child that ends; where it has a time for it, of one that has none by then, too."""
    os.close(pipe)
    if not seconds:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = _reap(pid, GRACE)
    if status is None:
        os.kill(pid, SIGKILL)
        status = _reap(pid)
    return status


def _limit(seconds: int, memory: int) -> None:
    """Have the kernel end this process where it takes too long."""
    if seconds:
        _signal.signal(SIGALRM, _signal.SIG_DFL)
    if memory:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (memory if hard < 0 else min(memory, hard), hard))


def _start(numbers: range, function: Callable[[int], T], seconds: int, memory: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 1
    try:
        os.close(reading)
        if seconds:
            _lay_down(writing)
        _limit(seconds, memory)
        with os.fdopen(writing, "wb") as pipe:
            for number in numbers:
                result: T | IstioInitError
                _signal.alarm(seconds)
                try:
                    result = function(number)
                except IstioInitError as error:
                    result = error
                except MemoryError:
                    result = ToolError("given up: no memory is left, there are too many rules")
                except Exception as error:  # A bug in one of them must not take the others with it.
                    result = ToolError(f"{type(error).__name__}: {error}", fix="this is a bug: please report it")
                data = pickle.dumps(result)
                pipe.write(LENGTH.pack(len(data)) + data)
                pipe.flush()
        status = 0
    finally:
        os._exit(status)
    raise AssertionError
