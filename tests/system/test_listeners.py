"""What waits for traffic, and whether TPROXY would give it a packet, is what the sockets were told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from istio_init.netfilter.host import Listener
from istio_init.system import listeners, sockets
from istio_init.system.transparent import make_transparent
from istio_init.testing.namespaces import Namespace

KINDS = {6: socket.SOCK_STREAM, 17: socket.SOCK_DGRAM}


@pytest.fixture(scope="module")
def namespace(real_kernel: None) -> Iterator[Namespace]:
    with Namespace.create("listeners") as made:
        yield made


@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize(
    ("address", "transparent", "alone", "takes_ipv4_too"),
    [
        ("0.0.0.0", True, False, False),
        ("127.0.0.1", False, False, False),
        ("::", True, False, True),
        ("::", False, True, False),
        ("::1", True, True, False),
    ],
)
def test_a_socket_is_read_with_its_options(
    namespace: Namespace, protocol: int, address: str, transparent: bool, alone: bool, takes_ipv4_too: bool
) -> None:
    def look() -> tuple[tuple[Listener, ...], tuple[Listener, ...]]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, KINDS[protocol]) as made:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(alone))
            if transparent:
                make_transparent(made)
            made.bind((address, 15001))
            if protocol == 6:
                made.listen()
            found = sockets.sockets()
            return listeners.listeners(found, listeners.options()), listeners.listeners(found, {})

    told, untold = namespace.call(look)
    expected = Listener(protocol, ip_address(address), 15001, transparent, takes_ipv4_too)
    assert told == (expected,)
    assert untold == (expected.replace(is_transparent=None, takes_ipv4_too=address == "::"),)


def test_a_socket_is_read_with_being_of_one_interface(namespace: Namespace) -> None:
    def look() -> list[bool]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            made.bind(("0.0.0.0", 15001))
            made.listen()
            return [each.is_of_interface for each in listeners.listeners(sockets.sockets(), listeners.options())]

    assert namespace.call(look) == [True]
