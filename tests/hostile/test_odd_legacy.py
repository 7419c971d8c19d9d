"""Entries of legacy tables that no program makes: the kernel takes them, and the programs print them as others."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable

import pytest
from support.command import istio_init

from istio_init.netfilter.family import Family
from istio_init.system import kernel_names
from istio_init.testing.pods import Pod

REPLACE = 64
OUT_NAME, OUT_MASK, INVERTED = 32, 64, 83
"""Where these stand in an entry of IPv4."""

Edit = Callable[[bytearray, int], None]


def a_later_byte(entries: bytearray, at: int) -> None:
    """Only an interface is meant whose second letter is z; printed is what begins with the first."""
    entries[at + OUT_NAME + 1] = ord("z")
    entries[at + OUT_MASK + 1] = 0xFF


def nothing_inverted(entries: bytearray, at: int) -> None:
    """Any interface but any."""
    entries[at + INVERTED] |= 2


def replaced(edit: Edit) -> None:
    """Write the nat table again, its rule that leads to ISTIO_OUTPUT edited."""
    libc = ctypes.CDLL(None, use_errno=True)
    channel = libc.socket(2, 3, 255)
    asked = b"nat".ljust(kernel_names.INFO.size, b"\0")
    info = kernel_names._option(libc, channel, 0, kernel_names.GET_INFO, asked)
    name, hooks, *rest = kernel_names.INFO.unpack(info)
    starts, underflows, number, size = rest[:5], rest[5:10], rest[10], rest[11]
    wanted = struct.pack("=32sI4x", b"nat", size).ljust(kernel_names.HEAD + size, b"\0")
    entries = bytearray(kernel_names._option(libc, channel, 0, kernel_names.GET_ENTRIES, wanted)[kernel_names.HEAD :])
    edit(entries, starts[3])
    counters = ctypes.create_string_buffer(16 * number)
    head = struct.pack("=32sIII5I5II", name, hooks, number, size, *starts, *underflows, number).ljust(88, b"\0")
    made = head + struct.pack("=Q", ctypes.addressof(counters)) + bytes(entries)
    if libc.setsockopt(channel, 0, REPLACE, made, len(made)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(channel)


@pytest.mark.parametrize("edit", [a_later_byte, nothing_inverted])
def test_an_entry_that_only_prints_as_ours_is_not_taken_for_it(pod: Pod, both_backends: None, edit: Edit) -> None:
    arguments = ("--netns", pod.name, "--force-iptables-binary", "legacy")
    istio_init("apply", *arguments).ok()
    before = pod.inside.run("iptables-legacy", "-t", "nat", "-S")
    pod.inside.call(lambda: replaced(edit))
    assert pod.inside.run("iptables-legacy", "-t", "nat", "-S") == before

    done = istio_init("apply", *arguments)
    traced = istio_init("trace", "--netns", pod.name, "outbound", "tcp", "192.0.2.9:80")

    assert (done.status, traced.status) == (1, 6)
    for each in (done, traced):
        assert "has more to it than is printed" in each.stderr


def test_an_address_beside_its_mask_is_noticed(pod: Pod, both_backends: None) -> None:
    istio_init("apply", "--netns", pod.name, "--force-iptables-binary", "legacy").ok()

    def edit(entries: bytearray, at: int) -> None:
        entries[at + 4 : at + 8], entries[at + 12 : at + 16] = bytes([192, 0, 2, 9]), bytes([255, 255, 255, 0])

    pod.inside.call(lambda: replaced(edit))
    assert pod.inside.call(lambda: kernel_names.of_legacy(Family.IPV4, "nat")).unprinted == ("OUTPUT",)


def test_what_programs_write_has_nothing_hidden(pod: Pod, both_backends: None) -> None:
    istio_init(
        "apply", "--netns", pod.name, "--force-iptables-binary", "legacy", "-c", "eth7,tun+", "--dual-stack"
    ).ok()

    def hidden() -> list[str]:
        return [name for family in Family for name in kernel_names.of_legacy(family, "nat").unprinted]

    assert pod.inside.call(hidden) == []
