"""Child processes that bring back results, errors, and news of their own death."""

from __future__ import annotations

import os
import threading
import time

import pytest
from support.processes import own_children

from istio_init.errors import ConfigError, NamespaceError, ToolError
from istio_init.system import workers
from istio_init.system.workers import in_child, spread


def test_a_result_comes_back_from_a_child() -> None:
    pid, value = in_child(lambda: (os.getpid(), {"a": [1, 2]}))

    assert value == {"a": [1, 2]}
    assert pid != os.getpid()


def test_an_error_comes_back_whole() -> None:
    def fail() -> None:
        raise NamespaceError("no such namespace", fix="look again")

    with pytest.raises(NamespaceError, match="no such namespace") as caught:
        in_child(fail)

    assert (caught.value.message, caught.value.fix, caught.value.exit_code) == ("no such namespace", "look again", 4)


def test_an_error_of_many_problems_comes_back_with_all_of_them() -> None:
    def fail() -> None:
        raise ConfigError(("one", "two"))

    with pytest.raises(ConfigError) as caught:
        in_child(fail)

    assert caught.value.problems == ("one", "two")


def test_a_child_that_dies_is_an_error() -> None:
    def die() -> None:
        os.kill(os.getpid(), 9)

    with pytest.raises(ToolError, match="died"):
        in_child(die)


@pytest.mark.parametrize("workers", [1, 2, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_many_results_come_in_order_however_many_children_work(count: int, workers: int) -> None:
    assert list(spread(count, lambda number: number * number, workers=workers)) == [n * n for n in range(count)]


def test_one_failure_does_not_stop_the_rest() -> None:
    def some(number: int) -> int:
        if number == 2:
            raise ToolError("refused")
        return number

    results = list(spread(5, some, workers=2))

    assert [0 if isinstance(each, ToolError) else each for each in results] == [0, 1, 0, 3, 4]
    assert str(results[2]) == "refused"


def test_of_a_child_that_dies_only_the_result_that_it_was_at_is_lost() -> None:
    def some(number: int) -> int:
        if number == 2:
            os.kill(os.getpid(), 9)
        return number

    results = list(spread(6, some, workers=2))

    assert [each for each in results if isinstance(each, int)] == [0, 1, 3, 4, 5]
    assert isinstance(results[2], ToolError)


def test_results_larger_than_a_pipe_come_back() -> None:
    assert [len(each) for each in spread(4, lambda _: bytes(500_000), workers=2) if isinstance(each, bytes)] == [
        500_000
    ] * 4


def test_no_child_and_no_descriptor_is_left() -> None:
    before, children = os.listdir("/proc/self/fd"), own_children()

    list(spread(4, lambda number: number, workers=4))

    assert os.listdir("/proc/self/fd") == before
    assert own_children() == children
    assert threading.active_count() == 1


def test_what_takes_too_long_is_given_up_alone() -> None:
    def work(number: int) -> int:
        while number == 1:
            time.sleep(0.1)
        return number

    found = list(spread(4, work, workers=2, seconds=1))

    assert [each for each in found if not isinstance(each, ToolError)] == [0, 2, 3]
    assert "given up after 1 s" in str(found[1])


def test_what_takes_too_much_memory_is_given_up_alone() -> None:
    def work(number: int) -> int:
        return len(bytes(8 << 30)) if number == 1 else number

    found = list(spread(3, work, workers=1, memory=4 << 30))

    assert [each for each in found if not isinstance(each, ToolError)] == [0, 2]
    assert "no memory is left" in str(found[1])


def test_what_keeps_the_pipe_of_a_child_that_took_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of files that nothing can end inherits it."""
    monkeypatch.setattr(workers, "GRACE", 0.5)
    left, leave = os.pipe()

    def work(number: int) -> int:
        if number == 1:
            if (pid := os.fork()) == 0:
                time.sleep(120)
            os.write(leave, b"%d\n" % pid)
            time.sleep(120)
        return number

    first, late, last = spread(3, work, workers=2, seconds=1)

    os.kill(int(os.read(left, 20)), 9)
    os.close(left)
    os.close(leave)
    assert (first, last) == (0, 2)
    assert isinstance(late, ToolError) and "given up after 1 s" in str(late)


def test_a_reader_that_cannot_be_ended_holds_none_of_our_descriptors() -> None:
    """Else who reads what we print would wait for its end."""
    kept, _ = os.pipe()
    reading, writing = os.pipe()

    def open_ones() -> bytes:
        return b" ".join(name.encode() for name in os.listdir("/proc/self/fd") if name not in ("0", "1", "2"))

    data = workers.bytes_within(20, open_ones, most=10_000, keep=kept)

    assert data is not None
    open_there = set(map(int, data.split()))
    assert kept in open_there and not {reading, writing} & open_there
    assert workers.bytes_within(20, lambda: os.readlink("/proc/self/fd/1").encode(), most=100) == b"/dev/null"
