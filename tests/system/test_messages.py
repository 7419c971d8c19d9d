"""What the kernel says over netlink in another shape than is known is an error, and never a traceback or a hang."""

from __future__ import annotations

import struct

import pytest

from istio_init.errors import ToolError
from istio_init.system import hooks, ipsets, links, netlink, routes, sockets

SHORT = b"\2"


@pytest.mark.parametrize("ask", [netlink.addresses, netlink.mark_rules, netlink.local_default_tables])
def test_a_message_of_no_known_shape_is_an_error_of_the_systems(ask: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "dump", lambda *_: [SHORT])
    with pytest.raises(OSError, match="not understood"):
        ask()  # type: ignore[operator]


@pytest.mark.parametrize(("module", "name"), [(links, "links"), (routes, "rules"), (hooks, "order")])
def test_other_readers_say_so_too(module: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "dump", lambda *_: [SHORT])
    with pytest.raises(OSError, match="not understood"):
        getattr(module, name)()


def test_tables_and_sets_that_are_not_understood_are_errors_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "dump", lambda *_: [SHORT])
    with pytest.raises(ToolError, match="not understood"):
        netlink.all_nft_tables()
    monkeypatch.setattr(ipsets, "dump", lambda *_: [SHORT])
    found = ipsets.read()
    assert isinstance(found, ToolError) and "not understood" in found.message


def test_a_message_without_a_length_ends_the_reading() -> None:
    with pytest.raises(ValueError, match="shorter than its header"):
        list(netlink.messages(struct.pack("=IHHII", 0, 20, 0, 1, 0)))


def test_a_line_of_proc_that_is_no_sockets_is_an_error_of_the_systems() -> None:
    with pytest.raises(OSError, match="not understood"):
        sockets.parsed("tcp", ["0: zz:50"])


def test_of_very_many_none_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "MOST_MESSAGES", 1)
    with pytest.raises(OSError, match="more than 1 of them"):
        netlink.dump(netlink.NETLINK_ROUTE, netlink.RTM_GETRULE, bytes(12))


def test_an_answer_that_is_no_whole_each_time_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes rules all the time would have a part of them taken for all."""
    monkeypatch.setattr(netlink, "_dump_once", lambda *_: ([SHORT], False))
    with pytest.raises(OSError, match="changed each of 20 times"):
        netlink.dump(netlink.NETLINK_ROUTE, netlink.RTM_GETADDR, bytes(8))
