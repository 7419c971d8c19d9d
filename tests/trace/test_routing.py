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
        ("not fwmark 0x539 lookup 133", "=> dropped: unreachable: its sender gets an error"),
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


@pytest.mark.parametrize(
    ("destination", "options", "via", "expected"),
    [
        ("10.9.0.77:80", (), "via net1", "=> direct to 10.9.0.77:80: rule 1 of nat OUTPUT (-o net1 -j RETURN)"),
        (f"{V4.far}:80", (), "via eth0", "=> proxied to port 15001"),
        (f"{V4.far}:80", ("--mark", "0x7"), "via net1", "=> direct"),
        (f"{V4.far}:80", ("--uid", "77"), "via net1", "=> direct"),
        (f"{V4.far}:80", ("--uid", "78"), "via eth0", "=> dropped: prohibit: its sender gets an error"),
        ("10.66.0.1:80", (), "via eth0", "=> dropped: unreachable: its sender gets an error, and no rule sees it"),
        (
            f"{V4.far}:80",
            ("--src", "127.0.0.1"),
            "via eth0",
            "=> dropped: the loopback network does not leave the machine",
        ),
        ("10.66.0.1:80", ("--interface", "eth0"), "via eth0", "=> dropped: unreachable"),
    ],
)
def test_a_connection_leaves_as_its_first_route_says(
    real_kernel: None, destination: str, options: tuple[str, ...], via: str, expected: str
) -> None:
    with Pod.create(families=(Family.IPV4,)) as pod:
        for command in (
            "link add net1 type veth peer name net1peer",
            "addr add 10.9.0.3/24 dev net1",
            "link set net1 up",
            "link set net1peer up",
            "route add unreachable 10.66.0.0/16",
            "route add default via 10.9.0.1 table 77",
            "rule add fwmark 7 lookup 77",
            "rule add uidrange 77-77 lookup 77",
            "rule add uidrange 78-78 prohibit",
        ):
            pod.inside.run("ip", *command.split())
        pod.inside.run("iptables", *"-t nat -A OUTPUT -o net1 -j RETURN".split())
        pod.inside.run("iptables", *"-t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001".split())
        done = istio_init("trace", "outbound", "tcp", destination, *options, "--netns", pod.inside.name).ok()

    first, *_, last = done.stdout.splitlines()
    assert via in first
    assert last.startswith(expected)
    assert "interface" not in last
