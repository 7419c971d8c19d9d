"""Runs functions of ours in child processes and brings their results back.

Such a child never enters a user namespace of others: what it sends is taken for our own word.
"""

from __future__ import annotations

# The C module: `signal` itself builds enums of every signal, at each start.
import _signal  # type: ignore[import-not-found]
import os
import pickle
import select
import time

from istio_init.errors import IstioInitError, ToolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO, TypeVar

    T = TypeVar("T")

SIGKILL, SIGALRM, SIGTERM = 9, 14, 15
DIED = "the child process died"


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
    count: int, function: Callable[[int], T], *, workers: int, seconds: int = 0, memory: int = 0
) -> Iterator[T | IstioInitError]:
    """Call ``function`` with 0 to ``count - 1`` in several children; results and errors come in this order.

    Child ``w`` has every ``workers``-th number from ``w`` on, and its pipe their results, one after the other. Where
    one dies, that is the result of the number that it was at, and another child has the rest. A child has so many
    ``seconds`` for each number, and bytes of ``memory``; 0 is any.
    """
    workers = min(workers, count)
    pipes = [_start(range(first, count, workers), function, seconds, memory) for first in range(workers)]
    try:
        for number in range(count):
            result: T | IstioInitError
            try:
                result = pickle.load(pipes[number % workers][1])
            except (EOFError, pickle.UnpicklingError):
                status = _end(*pipes[number % workers])
                pipes[number % workers] = _start(range(number + workers, count, workers), function, seconds, memory)
                late = status == -SIGALRM and seconds
                result = ToolError(f"given up after {seconds} s: too many rules, or too slow a node" if late else DIED)
            yield result
    except (KeyboardInterrupt, SystemExit):
        for pid, _ in pipes:
            os.kill(pid, SIGTERM)
        raise
    finally:
        for pid, pipe in pipes:
            _end(pid, pipe)


def bytes_within(seconds: float, function: Callable[[], bytes | None], *, most: int) -> bytes | None:
    """What a function gives in a child, but not more than ``most``; None where it raises, dies or takes longer.

    A child that even SIGKILL cannot end, as it waits for somebody's file system, is left to its fate.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if (data := function()) is not None:
                with os.fdopen(writing, "wb") as pipe:
                    pipe.write(b"+" + data)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        data = _within(seconds, reading, most + 1)
    finally:
        os.close(reading)
        os.kill(pid, SIGKILL)
        _reap(pid)
    return data[1:] if data[:1] == b"+" else None


def _within(seconds: float, reading: int, most: int) -> bytes:
    """What comes through a pipe until its end; nothing where that does not come in time."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    data = b""
    while len(data) < most:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return b""
        more = os.read(reading, most - len(data))
        if not more:
            break
        data += more
    return data


def _reap(pid: int) -> None:
    for _ in range(100):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.001)


def _end(pid: int, pipe: BinaryIO) -> int:
    pipe.close()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _limit(seconds: int, memory: int) -> None:
    """Have the kernel end this process where it takes too long."""
    if seconds:
        _signal.signal(SIGALRM, _signal.SIG_DFL)
    if memory:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (memory if hard < 0 else min(memory, hard), hard))


def _start(numbers: range, function: Callable[[int], T], seconds: int, memory: int) -> tuple[int, BinaryIO]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, os.fdopen(reading, "rb")
    status = 1
    try:
        os.close(reading)
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
                pickle.dump(result, pipe)
                pipe.flush()
        status = 0
    finally:
        os._exit(status)
    raise AssertionError
