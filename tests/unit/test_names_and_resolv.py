"""Names of users, groups and services, and name servers, from files."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from istio_init.config.parse import Names
from istio_init.system.names import FileNames
from istio_init.system.resolv import name_servers, parse_resolv_conf


@pytest.fixture
def root(tmp_path: Path) -> Path:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_bytes(
        b"root:x:0:0:root:/root:/bin/sh\n"
        b"# istio:x:5:5\n"
        b"\n"
        b"broken\n"
        b"short:x\n"
        b"word:x:abc:1::/:\n"
        b"minus:x:-1:1::/:\n"
        b"b\xffd:x:7:7::/:\n"
        b"istio-proxy:x:1340:1341::/:\n"
        b"istio-proxy:x:9999:9999::/:\n"
        b"last:x:12:12::/:"
    )
    (etc / "group").write_text("root:x:0:\nistio-proxy:x:1341:a,b\nstaff:x:50:\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("root", 0),
        ("istio-proxy", 1340),
        ("last", 12),
        ("# istio", 5),
        ("broken", None),
        ("short", None),
        ("word", None),
        ("minus", None),
        ("nobody2", None),
        ("root:x", None),
        ("x", None),
        ("0", None),
    ],
)
def test_users_are_those_of_the_roots_passwd_file(root: Path, name: str, number: int | None) -> None:
    assert FileNames(str(root)).user(name) == number


@pytest.mark.parametrize(("name", "number"), [("istio-proxy", 1341), ("staff", 50), ("a", None), ("users", None)])
def test_groups_are_those_of_the_roots_group_file(root: Path, name: str, number: int | None) -> None:
    assert FileNames(str(root)).group(name) == number


def test_a_root_without_files_has_no_names(tmp_path: Path) -> None:
    names = FileNames(str(tmp_path))

    assert names.user("root") is None
    assert names.group("root") is None


def test_without_another_root_the_systems_names_hold() -> None:
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(0)
    names = FileNames()

    assert names.user(user.pw_name) == user.pw_uid
    assert names.group(group.gr_name) == 0
    assert names.user("no-such-user-here") is None
    assert names.group("no-such-group-here") is None


def test_services_are_the_systems_whatever_the_root(root: Path) -> None:
    assert FileNames(str(root)).service("no-such-service-here") is None
    try:
        expected: int | None = socket.getservbyname("http")
    except OSError:
        expected = None
    assert FileNames(str(root)).service("http") == FileNames().service("http") == expected


def test_the_base_knows_no_names() -> None:
    names = Names()

    assert (names.service("http"), names.user("root"), names.group("root")) == (None, None, None)


RESOLV = {
    "one": ("nameserver 10.96.0.10\n", ["10.96.0.10"]),
    "both families in their order": ("nameserver fd00::a\nnameserver 1.1.1.1\n", ["fd00::a", "1.1.1.1"]),
    "each once": ("nameserver 1.1.1.1\nnameserver 8.8.8.8\nnameserver 1.1.1.1\n", ["1.1.1.1", "8.8.8.8"]),
    "a usual pod's": (
        "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
        ["10.96.0.10"],
    ),
    "tabs and more words": ("nameserver\t 1.1.1.1 # the first\n", ["1.1.1.1"]),
    "an indented line": ("  nameserver 1.1.1.1\n", ["1.1.1.1"]),
    "a zone is left out": ("nameserver fe80::1%eth0\n", ["fe80::1"]),
    "no end of line": ("nameserver 1.1.1.1", ["1.1.1.1"]),
    "comments": ("# nameserver 1.1.1.1\n; nameserver 2.2.2.2\n#nameserver 3.3.3.3\n", []),
    "no address": ("nameserver\nnameserver dns.example\nnameserver 1.1.1\nnameserver 1.1.1.1/32\n", []),
    "another keyword": ("nameservers 1.1.1.1\nNAMESERVER 1.1.1.1\n", []),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("text", "servers"), RESOLV.values(), ids=RESOLV)
def test_name_servers_are_read_from_resolv_conf(text: str, servers: list[str]) -> None:
    assert parse_resolv_conf(text) == tuple(map(ip_address, servers))


def test_a_file_is_read_whatever_else_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(b"# caf\xe9\nnameserver 1.1.1.1\n")

    assert name_servers(str(file)) == (ip_address("1.1.1.1"),)


def test_without_a_file_there_are_no_servers(tmp_path: Path) -> None:
    assert name_servers(str(tmp_path / "nowhere")) == ()
    assert name_servers(str(tmp_path)) == ()
