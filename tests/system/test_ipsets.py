"""Sets come over netlink as ipset(8) prints them."""

from __future__ import annotations

import shutil

import pytest

from istio_init.dialects.iptables.ipset import Element, IpSet, parse_ipset_save
from istio_init.errors import PrivilegeError
from istio_init.netfilter.protocols import protocol_number
from istio_init.system import ipsets
from istio_init.testing.entering import User
from istio_init.testing.namespaces import Namespace

SETS = {
    "hash:ip": ["10.0.0.1", "192.0.2.255"],
    "hash:ip netmask 24": ["10.0.1.0"],
    "hash:ip family inet6": ["fd00::1"],
    "hash:net counters comment": ["10.0.0.0/8", "0.0.0.0/1", '11.0.0.0/8 nomatch comment "a b"'],
    "hash:net family inet6": ["fd00::/8", "fd01::/16 nomatch"],
    "hash:ip,port timeout 100": ["10.0.0.1,tcp:80 timeout 0", "10.0.0.1,udp:53 timeout 0", "10.0.0.1,47:0 timeout 0"],
    "hash:ip,port": ["10.0.0.1,icmp:200/1", "10.0.0.1,sctp:9"],
    "hash:ip,port family inet6": ["fd00::1,ipv6-icmp:200/1"],
    "hash:ip,port,ip": ["10.0.0.1,tcp:80,10.0.0.2"],
    "hash:ip,port,net skbinfo": ["10.0.0.1,tcp:80,10.2.0.0/16 skbmark 0x1/0xff skbprio 1:2 skbqueue 3"],
    "hash:net,port": ["10.0.0.0/8,tcp:80"],
    "hash:net,iface": ["10.0.0.0/8,eth0", "10.0.0.0/8,physdev:eth1", "11.0.0.0/8,eth wildcard"],
    "bitmap:ip range 10.0.0.0/24": ["10.0.0.7"],
    "bitmap:ip,mac range 10.0.0.0/24": ["10.0.0.7,00:11:22:33:44:55", "10.0.0.8"],
    "bitmap:port range 1-1000": ["80", "81"],
}
DECIDING = frozenset(["family", "netmask", "markmask", "timeout", "nomatch", "wildcard", "skbmark"])


@pytest.fixture(autouse=True)
def needs(real_kernel: None) -> None:
    if shutil.which("ipset") is None:
        pytest.skip("needs ipset")


def normal(found: IpSet) -> tuple[str, tuple[tuple[str, str], ...], set[Element]]:
    """A set with protocols by number and whole addresses without a length, and what decides alone."""
    return found.type, _deciding(found.options), {
        Element(tuple(map(_normal_part, each.parts)), _deciding(each.extensions)) for each in found.elements
    }  # fmt: skip


def _deciding(options: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in options if name in DECIDING)


def _normal_part(part: str) -> str:
    name, colon, rest = part.rpartition(":")
    if colon and name.replace("-", "").isalnum() and not name.startswith(("physdev", "fd")) and len(rest) < 8:
        try:
            return f"{protocol_number(name)}:{rest}"
        except (ValueError, KeyError):
            return part
    return part.removesuffix("/32").removesuffix("/128")


@pytest.mark.parametrize("kind", SETS)
def test_a_set_is_read_as_ipset_prints_it(kind: str) -> None:
    with Namespace.create("sets") as namespace:
        namespace.run("ipset", "create", "some", *kind.split())
        namespace.run("ipset", "restore", stdin="".join(f"add some {each}\n" for each in SETS[kind]))
        printed = parse_ipset_save(namespace.run("ipset", "save"))
        read = namespace.call(ipsets.read)
    assert isinstance(read, dict)
    assert normal(read["some"]) == normal(printed["some"])
    assert len(read["some"].elements) == len(SETS[kind])


def test_a_set_of_sets_names_them_in_order() -> None:
    with Namespace.create("sets") as namespace:
        lines = "create b hash:ip\ncreate a hash:ip\ncreate all list:set\nadd all b\nadd all a\n"
        namespace.run("ipset", "restore", stdin=lines)
        read = namespace.call(ipsets.read)
    assert isinstance(read, dict)
    assert [each.parts for each in read["all"].elements] == [("b",), ("a",)]


def test_a_set_that_takes_several_messages_is_read_whole() -> None:
    with Namespace.create("sets") as namespace:
        lines = [f"add many 10.0.{number >> 8}.{number & 255}\n" for number in range(20000)]
        namespace.run("ipset", "restore", stdin="".join(["create many hash:ip\ncreate none hash:ip\n", *lines]))
        read = namespace.call(ipsets.read)
    assert isinstance(read, dict)
    assert len({each.parts for each in read["many"].elements}) == 20000
    assert read["none"].elements == ()


def test_without_privilege_it_says_so() -> None:
    with Namespace.create("sets") as namespace:
        assert isinstance(namespace.call(ipsets.read, User(65534, 65534)), PrivilegeError)
