"""Our listeners count our own probes alone, and keep nobody else."""

from __future__ import annotations

import socket

import pytest

from istio_init.netfilter.family import Family
from istio_init.system.listening import TOKEN, Listener, listen
from istio_init.system.spots import Arrival, Side, Spot
from istio_init.testing.namespaces import Namespace

SPOT = Spot(Side.POD, "tcp", Family.IPV4, 15001)
OURS = b"0123456789abcdef"


def said(words: bytes) -> tuple[list[Arrival], bytes]:
    """What a listener reports when a connection says these words, and what it answers."""
    arrivals: list[Arrival] = []

    def arrived(token: bytes, arrival: Arrival) -> bool:
        if token == OURS:
            arrivals.append(arrival)
        return token == OURS

    listener = Listener(SPOT, arrived)
    with socket.create_connection(("127.0.0.1", SPOT.port), 5) as client:
        client.sendall(words)
        listener.ready(listener.socket.fileno())
        listener.ready(listener.descriptors[1])
        try:
            answer = client.recv(TOKEN)
        except ConnectionResetError:
            answer = b"reset"
    listener.close()
    return arrivals, answer


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"fedcba9876543210", b"0123"])
def test_what_others_say_is_not_counted_and_not_answered(words: bytes) -> None:
    with Namespace.create() as namespace:
        arrivals, answer = namespace.call(lambda: said(words))

    assert arrivals == []
    assert answer in (b"", b"reset")


def test_a_token_of_ours_is_given_back() -> None:
    with Namespace.create() as namespace:
        arrivals, answer = namespace.call(lambda: said(OURS))

    assert arrivals == [Arrival(Side.POD, 15001, ("127.0.0.1", 15001), "127.0.0.1")]
    assert answer == OURS


def test_where_somebody_listens_there_is_no_listener_of_ours() -> None:
    def work() -> bool:
        with socket.create_server(("", SPOT.port)):
            return listen(SPOT, lambda token, arrival: False) is None

    with Namespace.create() as namespace:
        assert namespace.call(work)
