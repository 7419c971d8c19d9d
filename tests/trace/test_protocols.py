"""Protocols by number and by the name that iptables gives them."""

from __future__ import annotations

import pytest
from support.command import istio_init
from support.rules import program

from istio_init.dialects.iptables.save import parse_save
from istio_init.netfilter.family import Family
from istio_init.netfilter.protocols import protocol_name, protocol_number
from istio_init.testing import Namespace


@pytest.mark.parametrize("family", Family, ids=lambda each: each.value)
def test_a_number_is_the_name_that_iptables_prints(backend: str, family: Family) -> None:
    numbers = range(1, 256)
    text = "\n".join(["*filter", *(f"-A INPUT -p {number}" for number in numbers), "COMMIT\n"])
    with Namespace.create("protocols") as namespace:
        namespace.run(program(backend, family, "restore"), stdin=text)
        saved = parse_save(namespace.run(program(backend, family, "save")), family).rules

    printed = [entry.rule.protocol.name for *_, entry in saved.entries() if entry.rule.protocol is not None]
    assert [protocol_name(number) for number in numbers] == printed
    assert [protocol_number(name) for name in printed] == list(numbers)


@pytest.mark.parametrize("typed", ["89", "089", "ospf", "OSPF", "ospfigp"])
def test_a_packet_meets_the_rule_of_its_protocol_however_it_is_written(tmp_path: str, typed: str) -> None:
    path = f"{tmp_path}/save"
    with open(path, "w") as file:
        file.write("*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p ospf -j DROP\nCOMMIT\n")

    done = istio_init("trace", "outbound", typed, "10.0.0.5", "--file", path).ok()

    assert done.stdout.startswith(f"{path}: outbound ospf ")
    assert "=> dropped" in done.stdout


@pytest.mark.parametrize("typed", ["256", "0256", "٦", "²", "9" * 5000, "ip", "nonsense", "-1"])
def test_what_is_no_protocol_is_refused(typed: str) -> None:
    done = istio_init("trace", "--expect", "-b '*'", "--", "outbound", typed, "10.0.0.5")

    assert done.status == 2
    assert "no protocol; write tcp, udp" in " ".join(done.stderr.split())


REDIRECT = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"


@pytest.mark.parametrize(
    ("options", "state", "outcome"),
    [
        ((), "NEW", "proxied to port 15001"),
        (("--tcp-flags", "SYN"), "NEW", "proxied to port 15001"),
        (("--tcp-flags", "ACK"), "NEW", "proxied to port 15001"),  # It is picked up (nf_conntrack_tcp_loose).
        (("--tcp-flags", "RST"), "INVALID", "direct"),
        (("--tcp-flags", "SYN,ACK"), "INVALID", "direct"),
        (("--tcp-flags", "RST", "--ctstate", "NEW"), "NEW", "proxied to port 15001"),
    ],
)
def test_what_a_packet_begins_with_tells_the_state_of_its_connection(
    tmp_path: str, options: tuple[str, ...], state: str, outcome: str
) -> None:
    path = f"{tmp_path}/save"
    with open(path, "w") as file:
        file.write(REDIRECT)

    done = istio_init("trace", "outbound", "tcp", "10.0.0.5:80", "--file", path, *options).ok()

    assert done.stdout.splitlines()[0].endswith(f", {state}")
    assert f"=> {outcome}" in done.stdout
