"""What a packet cannot be, typed or in a line of a batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import istio_init

TCP = {"direction": "outbound", "proto": "tcp", "dst": "10.0.0.5"}
EXPECT = ("--expect", "-b '*' --dual-stack")


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    "option",
    ["--uid 0", "--gid 0", "--src 10.0.0.1", "--interface lo", "--mark 0", "--ctstate NEW", "--no-socket"],
)
def test_options_of_one_packet_are_refused_beside_a_batch(tmp_path: Path, option: str) -> None:
    path = tmp_path / "packets"
    path.write_text(json.dumps(TCP))

    done = istio_init("trace", "--batch", str(path), *EXPECT, *option.split())

    assert (done.status, done.stdout) == (2, "")
    assert "--batch takes all of a packet from its line" in words(done.stderr)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (json.dumps({**TCP, "proto": "icmp", "dport": 80}), "dport 80: icmp has no ports"),
        (json.dumps({**TCP, "proto": "47", "sport": 1}), "sport 1: gre has no ports"),
        (json.dumps({**TCP, "direction": "inbound", "uid": 0}), "uid is of the sending socket"),
        (json.dumps({**TCP, "socket": False, "gid": 1337}), "gid is of the sending socket"),
        ('{"direction": "outbound", "proto": "tcp", "dst": "10.0.0.5", "dst": "10.0.0.6"}', "'dst' is given twice"),
        (json.dumps({**TCP, "family": "ipv6"}), "family 'ipv6' is not that of dst 10.0.0.5"),
        (json.dumps({**TCP, "family": 6}), "family 6 is not that of dst 10.0.0.5"),
        (json.dumps({**TCP, "direction": "sideways"}), "direction 'sideways' is neither outbound nor inbound"),
        (json.dumps({**TCP, "dst": "::ffff:10.0.0.1"}), "dst ::ffff:10.0.0.1 is IPv4 on the wire; write 10.0.0.1"),
        (json.dumps({**TCP, "dst": "fd00::1", "src": "::ffff:a00:1"}), "is IPv4 on the wire; write 10.0.0.1"),
    ],
)
def test_a_line_that_no_packet_can_be_is_refused(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "packets"
    path.write_text(line)

    done = istio_init("trace", "--batch", str(path), *EXPECT)

    assert (done.status, done.stdout) == (2, "")
    assert "line 1: not a packet: " in words(done.stderr)
    assert why in words(done.stderr)


@pytest.mark.parametrize("fields", [TCP, {**TCP, "proto": "icmp"}, {**TCP, "dst": "fd00::5", "direction": "inbound"}])
def test_the_packet_of_an_answer_can_be_asked_about_again(tmp_path: Path, fields: dict[str, str]) -> None:
    path = tmp_path / "packets"
    path.write_text(json.dumps(fields))
    first = json.loads(istio_init("trace", "--batch", str(path), *EXPECT, "--format", "json").ok().stdout)
    path.write_text(json.dumps(first["packet"]))

    again = json.loads(istio_init("trace", "--batch", str(path), *EXPECT, "--format", "json").ok().stdout)

    assert again["packet"] == first["packet"]


@pytest.mark.parametrize(
    ("destination", "why"),
    [
        ("[fd77::1]80", "not an address; write for example"),
        ("[fd77::1", "not an address; write for example"),
        ("[fd77::1]:", "''"),
        ("[::ffff:10.0.0.1]:80", "is IPv4 on the wire; write 10.0.0.1"),
        ("::ffff:10.0.0.1", "is IPv4 on the wire; write 10.0.0.1"),
    ],
)
def test_a_destination_that_is_none_is_refused(destination: str, why: str) -> None:
    done = istio_init("trace", "outbound", "tcp", destination, *EXPECT)

    assert (done.status, done.stdout) == (2, "")
    assert why in words(done.stderr)


@pytest.mark.parametrize("destination", ["[fd77::1]:80", "[fd77::1]", "fd77::ffff:a"])
def test_addresses_of_ipv6_are_taken(destination: str) -> None:
    istio_init("trace", "outbound", "tcp", destination, *EXPECT).ok()
