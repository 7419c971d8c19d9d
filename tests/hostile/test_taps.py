"""What takes packets at an interface ahead of all rules, which the pod's owner may put there, is no more overlooked."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

import pytest
from pyroute2 import IPRoute
from support.command import istio_init

from istio_init.observe.rules import Kept
from istio_init.testing.pods import Pod

BPF = {"x86_64": 321}.get(platform.machine(), 280)
LOAD_PROGRAM, OF_XDP = 5, 6
PASS = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)
"""r0 = XDP_PASS; exit"""

FILTER = "u32 match u32 0 0 flowid 1:1"


def tc(pod: Pod, words: str) -> None:
    pod.inside.run("tc", *words.split())


def last_line(pod: Pod, *words: str) -> str:
    return istio_init("trace", "--netns", pod.name, *words).ok().stdout.splitlines()[-1]


@pytest.fixture
def captured(pod: Pod) -> Pod:
    istio_init("apply", "--netns", pod.name).ok()
    return pod


UPLINK = "eth0"


def test_filters_of_traffic_control_are_undecidable_where_they_are(captured: Pod) -> None:
    inbound = ("inbound", "tcp", f"{captured.ipv4}:8080", "--interface", UPLINK)
    outbound = ("outbound", "tcp", "192.0.2.9:80")
    tc(captured, f"qdisc add dev {UPLINK} clsact")
    tc(captured, "qdisc add dev lo root handle 1: htb")
    assert last_line(captured, *inbound).startswith("=> proxied")
    assert last_line(captured, *outbound).startswith("=> proxied")

    tc(captured, f"filter add dev {UPLINK} ingress {FILTER}")
    assert last_line(captured, *inbound).startswith("=> undecidable")
    assert last_line(captured, *outbound).startswith("=> proxied")

    tc(captured, f"filter add dev lo parent 1: {FILTER}")
    assert last_line(captured, *outbound).startswith("=> undecidable")
    told = istio_init("explain", "--netns", captured.name).ok().stdout
    assert "a filter of traffic control does at lo" in " ".join(told.split())


def load_program() -> int:
    """The descriptor of a program of XDP."""
    licence, code = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(PASS)
    asked = struct.pack("=IIQQ", OF_XDP, len(PASS) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    libc = ctypes.CDLL(None, use_errno=True)
    found: int = libc.syscall(ctypes.c_long(BPF), LOAD_PROGRAM, asked.ljust(128, b"\0"), 128)
    if found < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return found


def test_a_program_of_xdp_is_undecidable(captured: Pod) -> None:
    def attach() -> None:
        program = load_program()
        with IPRoute() as routing:
            [index] = routing.link_lookup(ifname=UPLINK)
            routing.link("set", index=index, xdp_fd=program)
        os.close(program)

    captured.inside.call(attach)

    said = last_line(captured, "inbound", "tcp", f"{captured.ipv4}:8080", "--interface", UPLINK)
    assert said.startswith("=> undecidable")
    assert "a program of XDP" in said


def test_ps_takes_the_rules_of_such_a_namespace_for_nobody_elses(captured: Pod) -> None:
    """Where two namespaces have the same rules, they are read once."""
    tc(captured, "qdisc add dev lo root handle 1: htb")

    def read() -> tuple[int, bool]:
        kept = Kept()
        return len(kept.read().netfilter.egress), bool(kept._by_state)

    assert captured.inside.call(read) == (0, True)
    tc(captured, f"filter add dev lo parent 1: {FILTER}")
    assert captured.inside.call(read) == (1, False)


def test_an_interface_that_took_the_name_of_the_loopback_is_none(captured: Pod) -> None:
    """All that is sent leaves via lo then, where applications bypass the proxy."""
    for words in (
        "set lo down", "set lo name other", "set other up", f"set {UPLINK} down", f"set {UPLINK} name lo", "set lo up",
    ):  # fmt: skip
        captured.inside.run("ip", "link", *words.split())
    captured.inside.run("ip", "route", "add", "192.0.2.0/24", "dev", "lo")

    assert last_line(captured, "outbound", "tcp", "192.0.2.9:80").startswith("=> undecidable")
    inbound = ("inbound", "tcp", f"{captured.ipv4}:80", "--interface", "lo")
    assert last_line(captured, *inbound).startswith("=> undecidable")
    told = " ".join(istio_init("explain", "--netns", captured.name).stdout.split())
    assert "Outbound TCP: undecidable" in told
    assert "Inbound TCP: undecidable" in told
