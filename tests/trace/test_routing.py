"""Routing rules are followed wherever the kernel asks for the route again."""

from __future__ import annotations

import pytest
from support.command import istio_init

from istio_init.netfilter.family import Family
from istio_init.testing.pods import HOSTS, Pod

V4 = HOSTS[Family.IPV4]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("fwmark 0x539 lookup 133", "=> dropped"),
        ("fwmark 0x1/0x1 lookup 133", "=> dropped"),
        ("fwmark 0x2/0x2 lookup 133", "=> direct"),
        ("pref 40000 fwmark 0x539 lookup 133", "=> direct"),
        ("not fwmark 0x539 lookup 133", "=> direct"),
        ("not fwmark 0x538 lookup 133", "=> dropped"),
        ("fwmark 0x539 uidrange 5-6 lookup 133", "=> direct"),
        ("fwmark 0x539 uidrange 1000-1000 lookup 133", "=> direct"),  # The kernel asks as user 0 the second time.
        ("fwmark 0x539 uidrange 0-0 lookup 133", "=> dropped"),
        ("fwmark 0x539 to 10.200.0.0/16 lookup 133", "=> direct"),
        (f"fwmark 0x539 to {V4.far} lookup 133", "=> dropped"),
        ("iif lo lookup 133", "=> dropped"),
        (f"to {V4.far} blackhole", "=> dropped"),
        ("fwmark 0x539 ipproto udp lookup 133", "=> direct"),
        ("fwmark 0x539 dport 80 lookup 133", "=> dropped"),
    ],
)
def test_a_mark_of_mangle_is_routed_by_every_rule(real_kernel: None, rule: str, expected: str) -> None:
    with Pod.create(families=(Family.IPV4,)) as pod:
        pod.inside.run("ip", "route", "add", "unreachable", "default", "table", "133")
        pod.inside.run("ip", "rule", "add", *rule.split())
        pod.inside.run("iptables", *"-t mangle -A OUTPUT -j MARK --set-mark 0x539".split())
        packet = ("outbound", "tcp", f"{V4.far}:80", "--uid", "1000", "--interface", "eth0")
        done = istio_init("trace", *packet, "--netns", pod.inside.name).ok()

    assert done.stdout.splitlines()[-1].startswith(expected)
    assert done.stderr == ""
