"""What a test closes is closed, whatever it has started; what it starts can use what it is told to keep."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from istio_init.testing import APP, ROOT, Endpoint, Family, Listener, Namespace, Owner, Pod, WorkerError, connect

from .unprivileged import RANGE, run_unprivileged

HERE = Endpoint("127.0.0.1", 15001)

Start = Callable[[], object]


def sleep() -> None:
    """What a started function may do."""
    time.sleep(987)


@pytest.fixture(params=["a function", "a namespace with an owner"])
def start(request: pytest.FixtureRequest, as_root: None, istio_namespace: Namespace) -> Iterator[Start]:
    """Starts something that stays until the end of the test."""
    with ExitStack() as stack:
        if request.param == "a function":
            yield lambda: stack.callback(istio_namespace.start(sleep).kill)
        else:
            yield lambda: stack.enter_context(Namespace.create(owner=Owner("0 100000 65536")))


def test_the_port_of_a_closed_listener_is_free(istio_namespace: Namespace, start: Start) -> None:
    with Listener(istio_namespace, Family.IPV4, HERE.port):
        start()
    with Listener(istio_namespace, Family.IPV4, HERE.port):
        pass


def test_a_closed_listener_hides_nothing(istio_pod: Pod) -> None:
    istio_pod.redirect()
    with Listener(istio_pod.inside, Family.IPV4, 15001):
        worker = istio_pod.inside.start(sleep)
    istio_pod.app.connecting_to("203.0.113.7", 80).must_reach_proxy(15001)
    worker.kill()


def test_the_peer_sees_that_a_connection_is_closed(istio_namespace: Namespace, start: Start) -> None:
    with Listener(istio_namespace, Family.IPV4, HERE.port) as listener:
        client = connect(istio_namespace, ROOT, HERE)
        accepted = listener.accept().connection
        start()
        client.close()
        assert accepted.recv(1) == b""


def test_without_root_the_port_of_a_closed_listener_is_free_too(project: Path) -> None:
    (project / "test_it.py").write_text(
        """
from istio_init.testing import Family, Listener, Namespace

def test_it(istio_namespace):
    with Listener(istio_namespace, Family.IPV4, 15001):
        other = Namespace.create()
        other.__enter__()
    with Listener(istio_namespace, Family.IPV4, 15001):
        other.__exit__(None, None, None)
"""
    )
    done = run_unprivileged(project, ids=RANGE)
    assert done.status == 0, done.output
    assert "1 passed" in done.output


def test_a_started_function_uses_what_it_keeps(istio_namespace: Namespace) -> None:
    reading, writing = os.pipe()
    with Listener(istio_namespace, Family.IPV4, HERE.port) as listener:

        def serve() -> None:
            os.write(writing, b"ready")
            with listener.socket.accept()[0] as connection:
                connection.sendall(b"hello")

        worker = istio_namespace.start(serve, APP, keep=(listener.socket, writing))
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert pipe.read(5) == b"ready"
        with connect(istio_namespace, ROOT, HERE) as client:
            assert client.recv(64) == b"hello"
        worker.result()


def test_what_it_does_not_keep_is_closed_and_it_is_said_how_to_keep_it(istio_namespace: Namespace) -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(WorkerError, match=r"(?s)Bad file descriptor.*keep="):
        istio_namespace.start(lambda: one.send(b"words")).result()


def test_what_it_throws_away_of_the_tests_closes_nothing_of_its_own(istio_namespace: Namespace) -> None:
    thrown = list(socket.socketpair())

    def work() -> bytes:
        one, other = socket.socketpair()
        thrown.clear()
        one.send(b"words")
        return other.recv(64)

    assert istio_namespace.start(work).result() == b"words"


def test_it_may_print(istio_namespace: Namespace, capfd: pytest.CaptureFixture[str]) -> None:
    istio_namespace.start(lambda: print("words")).result()
    assert capfd.readouterr().out == "words\n"


def test_a_called_function_uses_whatever_is_open(istio_namespace: Namespace) -> None:
    one, other = socket.socketpair()
    with one, other:
        istio_namespace.call(lambda: one.send(b"words"))
        assert other.recv(64) == b"words"
