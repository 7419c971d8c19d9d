"""Rules that no program writes, sent over netlink: what nft and iptables print of them is not what the kernel does."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from support.command import istio_init

from istio_init.errors import ToolError
from istio_init.system.nft_kernel import garbled_sets, is_garbled
from istio_init.system.nft_table import (
    APPEND,
    CREATE,
    META_FAMILY,
    NEW_CHAIN,
    NEW_RULE,
    NEW_TABLE,
    Expression,
    OwnedTable,
    _attribute,
    _expression,
    _nested,
    _number,
    _text,
    drop,
    meta_is,
    open_channel,
)
from istio_init.system.nft_trace import SO_RCVBUFFORCE, Listener
from istio_init.testing.pods import Pod

NEW_SET, NEW_ELEMENT = 9, 12
NETWORK, TRANSPORT, MARK, OUT_INTERFACE, PROTOCOL, KIND = 1, 2, 3, 7, 16, 1
EQUAL, LESS = 0, 2
TO_HOST, SHIFT_RIGHT = 0, 2
MARK_TYPE, ADDRESS_TYPE, HOST_ORDER = 19, 7, 1
SECOND = 9
"""The register of the second four bytes."""

TCP = meta_is(PROTOCOL, b"\6")
PORT, ADDRESS = b"\0\x50", bytes([192, 0, 2, 9])


def load(base: int, offset: int, length: int, register: int = 1) -> Expression:
    return _expression("payload", _number(1, register) + _number(2, base) + _number(3, offset) + _number(4, length))


def meta(key: int) -> Expression:
    return _expression("meta", _number(1, 1) + _number(2, key))


def compare(value: bytes, how: int = EQUAL, register: int = 1) -> Expression:
    return _expression("cmp", _number(1, register) + _number(2, how) + _nested(3, _attribute(1, value)))


def masked(mask: bytes) -> Expression:
    body = _number(1, 1) + _number(2, 1) + _number(3, len(mask))
    return _expression("bitwise", body + _nested(4, _attribute(1, mask)) + _nested(5, _attribute(1, bytes(len(mask)))))


def shifted(bits: int, length: int) -> Expression:
    body = _number(1, 1) + _number(2, 1) + _number(3, length) + _number(6, SHIFT_RIGHT)
    return _expression("bitwise", body + _nested(7, _attribute(1, struct.pack("=I", bits))))


def turned(length: int, size: int) -> Expression:
    return _expression(
        "byteorder", _number(1, 1) + _number(2, 1) + _number(3, TO_HOST) + _number(4, length) + _number(5, size)
    )


def looked_up(name: str) -> Expression:
    return _expression("lookup", _text(1, name) + _number(2, 1))


def constant(value: bytes) -> Expression:
    return _expression("immediate", _number(1, 1) + _nested(2, _attribute(1, value)))


ODD: dict[str, list[Expression]] = {
    "a test of a part of what was loaded, which nft leaves out": [
        *TCP, load(NETWORK, 12, 8), compare(bytes(4), register=SECOND),
    ],
    "what was loaded is loaded over, and nft prints what was there before": [
        *TCP, load(TRANSPORT, 2, 2, SECOND), load(NETWORK, 12, 8), compare(PORT + bytes(2), register=SECOND),
    ],
    "a constant is compared with another": [*TCP, constant(bytes(4)), compare(b"\1" * 4)],
    "an order of numbers as this machine turns them": [*TCP, meta(MARK), compare(struct.pack("=I", 5), LESS)],
    "each half of an address is turned": [*TCP, load(NETWORK, 16, 4), turned(4, 2), compare(bytes([0, 192, 9, 2]))],
    "an address without bits that are asked for": [
        *TCP, load(NETWORK, 16, 4), masked(b"\xff\xff\0\0"), compare(ADDRESS),
    ],
    "a port is shifted that was not turned": [*TCP, load(TRANSPORT, 2, 2), shifted(4, 2), compare(b"\0\5")],
    "bytes behind the name of an interface": [
        *TCP, meta(OUT_INTERFACE), compare(b"eth0\0evil".ljust(16, b"\0")),
    ],
    "an address within a packet of ARP": [meta(KIND), compare(b"\x08\x06"), load(NETWORK, 16, 4), compare(ADDRESS)],
    "bytes between what is compared at once": [
        *TCP, load(TRANSPORT, 2, 2, 8), load(NETWORK, 16, 4, 9), compare(PORT + b"\0\1" + ADDRESS, register=8),
    ],
    "a set of addresses that is said to be of marks": [*TCP, load(NETWORK, 16, 4), looked_up("marks")],
    "a set of addresses that is said to be turned": [*TCP, load(NETWORK, 16, 4), looked_up("turned")],
}  # fmt: skip


def set_of_addresses(name: str, number: int, kind: int) -> list[tuple[int, int, bytes]]:
    """A set with an address, of which nft is told that its numbers are as this machine turns them."""
    table = _text(1, "t")
    stated = _attribute(13, bytes([0, 4]) + struct.pack("=I", HOST_ORDER))
    body = table + _text(2, name) + _number(3, 0) + _number(4, kind) + _number(5, 4) + _number(10, number) + stated
    element = _nested(3, _nested(1, _nested(1, _attribute(1, ADDRESS))))
    return [(NEW_SET, CREATE, body), (NEW_ELEMENT, CREATE, table + _text(2, name) + element)]


def written(rule: list[Expression]) -> Callable[[], None]:
    """A table with a rule ahead of Istio's, in one transaction."""

    def act() -> None:
        table = OwnedTable("t")
        name, hook = _text(1, "t"), _nested(4, _number(1, 3), _attribute(2, struct.pack("!i", -160)))
        with open_channel() as channel:
            table._socket = channel
            table._send(
                (NEW_TABLE, CREATE, name),
                *set_of_addresses("marks", 1, MARK_TYPE),
                *set_of_addresses("turned", 2, ADDRESS_TYPE),
                (NEW_CHAIN, CREATE, name + _text(3, "c") + hook + _text(7, "filter")),
                (NEW_RULE, CREATE | APPEND, name + _text(2, "c") + _nested(4, *rule)),
            )

    return act


def outcome(pod: Pod) -> str:
    done = istio_init("trace", "--netns", pod.name, "outbound", "tcp", "192.0.2.9:80").ok()
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def captured() -> Iterator[Pod]:
    with Pod.create() as made:
        istio_init("apply", "--netns", made.name).ok()
        yield made


@pytest.mark.parametrize("tests", ODD.values(), ids=ODD)
def test_a_rule_that_no_program_writes_is_undecidable(captured: Pod, tests: list[Expression]) -> None:
    captured.inside.call(written([*tests, *drop()]))
    try:
        said = outcome(captured)
    finally:
        captured.inside.run("nft", "delete table inet t")

    assert said.startswith("=> undecidable")
    assert "a rule that nft did not write" in said


USUAL = {
    "a port": [*TCP, load(TRANSPORT, 2, 2), compare(PORT), *drop()],
    "a range of addresses": [
        *meta_is(META_FAMILY, b"\2"),
        *TCP,
        load(NETWORK, 16, 4),
        masked(b"\xff\xff\xff\0"),
        compare(bytes([192, 0, 2, 0])),
    ],
    "the beginning of a name": [*TCP, meta(OUT_INTERFACE), compare(b"eth")],
}


@pytest.mark.parametrize("tests", USUAL.values(), ids=USUAL)
def test_a_rule_that_is_written_as_the_programs_write_is_followed(captured: Pod, tests: list[Expression]) -> None:
    captured.inside.call(written([*tests, *drop()]))
    try:
        said = outcome(captured)
    finally:
        captured.inside.run("nft", "delete table inet t")

    assert said.startswith("=> dropped")


def test_a_rule_of_iptables_own_tables_is_not_believed_either(captured: Pod) -> None:
    """iptables-nft-save leaves out what it does not know, and the rest looks as if it had written it."""
    tests = [*TCP, load(NETWORK, 12, 8), compare(bytes(4), register=SECOND), _expression("counter", b"")]
    accept = _expression("immediate", _number(1, 0) + _nested(2, _nested(2, _number(1, 1))))

    def act() -> None:
        from istio_init.system import nft_table

        table = OwnedTable("nat")
        inet, nft_table.INET = nft_table.INET, 2
        try:
            with open_channel() as channel:
                table._socket = channel
                place = _text(1, "nat") + _text(2, "ISTIO_OUTPUT")
                table._send((NEW_RULE, CREATE, place + _nested(4, *tests, accept)))
        finally:
            nft_table.INET = inet

    captured.inside.call(act)
    try:
        said = outcome(captured)
    finally:
        istio_init("apply", "--netns", captured.name)

    assert said.startswith("=> undecidable")


def test_the_verdict_continue_goes_on_within_its_rule(pod: Pod) -> None:
    istio_init("apply", "--netns", pod.name).ok()
    chain = "chain c { type nat hook output priority -110; tcp dport 80 continue redirect to :9999; }"
    pod.inside.run("nft", f"table inet t {{ {chain}; }}")

    assert outcome(pod).startswith("=> redirected to port 9999")


@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"eth0", False), (b"eth0\0\0", False), (b"eth0\0evil", True), (b"\xff", True)],
    ids=["a name", "with zeros", "with bytes behind it", "no text"],
)
def test_an_element_that_nft_would_print_as_another_name_is_noticed(name: bytes, expected: bool) -> None:
    element = _nested(1, _attribute(1, name.ljust(16, b"\0")))

    assert is_garbled([element], [0]) is expected


def test_a_pod_that_has_all_its_packets_traced_is_told_why_no_trace_can_be_read(pod: Pod) -> None:
    rules = "chain c { type filter hook output priority -400; meta nftrace set 1; meta nftrace set 1; }"
    pod.inside.run("nft", f"table inet t {{ {rules}; }}")

    def act() -> str:
        with Listener() as monitor, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            monitor._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4096)
            for _ in range(200):
                sender.sendto(b"", ("127.0.0.1", 9))
            try:
                return str(len(monitor.passages(quiet=0.1)))
            except ToolError as error:
                return str(error)

    assert "more packets are traced there than are read" in pod.inside.call(act)


@pytest.mark.parametrize(("between", "expected"), [(b"\0\0", False), (b"\0\1", True)], ids=["nothing", "bytes"])
def test_an_element_with_bytes_between_its_fields_is_noticed(pod: Pod, between: bytes, expected: bool) -> None:
    """No packet has such, and nft prints the set as if one could."""
    port_and_address = 13 << 6 | ADDRESS_TYPE

    def act() -> list[tuple[str, str, str]]:
        table, name = OwnedTable("t"), _text(1, "t") + _text(2, "s")
        element = _nested(3, _nested(1, _nested(1, _attribute(1, PORT + between + ADDRESS))))
        with open_channel() as channel:
            table._socket = channel
            table._send(
                (NEW_TABLE, CREATE, _text(1, "t")),
                (NEW_SET, CREATE, name + _number(3, 0) + _number(4, port_and_address) + _number(5, 8) + _number(10, 1)),
                (NEW_ELEMENT, CREATE, name + element),
            )
        return garbled_sets()

    assert bool(pod.inside.call(act)) is expected


def test_who_owns_a_table_of_the_name_of_ours_keeps_no_packet_from_being_watched(captured: Pod) -> None:
    ready, end = os.pipe(), os.pipe()

    def own() -> None:
        with OwnedTable("istio-init-trace") as table:
            table.add("OUTPUT", -300, [*meta_is(PROTOCOL, b"\6"), _expression("counter", b"")])
            os.write(ready[1], b"!")
            os.read(end[0], 1)

    holder = threading.Thread(target=captured.inside.call, args=(own,))
    holder.start()
    try:
        os.read(ready[0], 1)
        done = istio_init("trace", "--netns", captured.name, "outbound", "tcp", "192.0.2.9:80", "--live")
    finally:
        os.write(end[1], b"!")
        holder.join()

    assert done.status == 0, done.stderr
    assert "agree" in done.stdout
