"""The kernel's own order of what it calls at a hook."""

from __future__ import annotations

import struct

import pytest

from istio_init.netfilter.family import Family
from istio_init.netfilter.rules import Hook, Store
from istio_init.netfilter.stages import Core, Registered
from istio_init.system import hooks
from istio_init.testing.namespaces import Namespace


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(priority: int, function: str, module: str, chain: tuple[int, str, str] | None = None) -> bytes:
    """One function at the hook OUTPUT (nfnl_hook_dump_one)."""
    body = bytes([2, 0, 0, 0]) + attribute(6 - 1, module.encode() + b"\0") + attribute(4, function.encode() + b"\0")
    if chain is not None:
        family, table, name = chain
        described = attribute(1, table.encode() + b"\0") + attribute(3, name.encode() + b"\0")
        described += attribute(2, bytes([family]))
        body += attribute(6 | 0x8000, attribute(1 | 0x8000, described) + attribute(2, struct.pack("!I", 1)))
    return body + attribute(1, struct.pack("!I", 3)) + attribute(2, struct.pack("!i", priority))


RECORDED = [
    b"\x02\x00\x00\x00\x13\x00\x05\x00nf_defrag_ipv4\x00\x00\x1a\x00\x04\x00ipv4_conntrack_defrag\x00\x00\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\xff\xff\xfep",
    b"\x02\x00\x00\x00\x0e\x00\x05\x00ip_tables\x00\x00\x00\x11\x00\x04\x00ipt_do_table\x00\x00\x00\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\xff\xff\xfe\xd4",
    b"\x02\x00\x00\x00\x11\x00\x05\x00nf_conntrack\x00\x00\x00\x00\x19\x00\x04\x00ipv4_conntrack_local\x00\x00\x00\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\xff\xff\xff8",
    b"\x02\x00\x00\x00\x13\x00\x05\x00iptable_mangle\x00\x00\x18\x00\x04\x00iptable_mangle_hook\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\xff\xff\xffj",
    b"\x02\x00\x00\x00\x0b\x00\x05\x00nf_nat\x00\x00\x19\x00\x04\x00nf_nat_ipv4_local_fn\x00\x00\x00\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\xff\xff\xff\x9c",
    b"\x02\x00\x00\x00\x0e\x00\x05\x00nf_tables\x00\x00\x00\x16\x00\x04\x00nft_do_chain_ipv4\x00\x00\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\x00\x00\x00\x000\x00\x06\x80\x08\x00\x02\x00\x00\x00\x00\x01$\x00"
    b"\x01\x80\x0b\x00\x01\x00filter\x00\x00\x0b\x00\x03\x00OUTPUT\x00\x00\x05\x00\x02\x00\x02\x00\x00\x00",
    b"\x02\x00\x00\x00\x0e\x00\x05\x00ip_tables\x00\x00\x00\x11\x00\x04\x00ipt_do_table\x00\x00\x00\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\x00\x00\x00\x00",
    b"\x02\x00\x00\x00\x0e\x00\x05\x00nf_tables\x00\x00\x00\x16\x00\x04\x00nft_do_chain_inet\x00\x00\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\x00\x00\x00\x05(\x00\x06\x80\x08\x00\x02\x00\x00\x00\x00\x01\x1c\x00"
    b"\x01\x80\x06\x00\x01\x00b\x00\x00\x00\x06\x00\x03\x00c\x00\x00\x00\x05\x00\x02\x00\x01\x00\x00\x00",
    b"\x02\x00\x00\x00\x0e\x00\x05\x00nf_tables\x00\x00\x00\x16\x00\x04\x00nft_do_chain_inet\x00\x00\x00"
    b"\x08\x00\x01\x00\x00\x00\x00\x03\x08\x00\x02\x00\x00\x00\x00\x05(\x00\x06\x80\x08\x00\x02\x00\x00\x00\x00\x01\x1c\x00"
    b"\x01\x80\x06\x00\x01\x00a\x00\x00\x00\x06\x00\x03\x00c\x00\x00\x00\x05\x00\x02\x00\x01\x00\x00\x00",
]
"""What Linux 6.12 tells of the hook OUTPUT, where legacy tables were filled, then `inet a`, `inet b` and iptables-nft's
filter table made, in this order."""

CASES: list[tuple[bytes, Registered | Core | None]] = [
    (message(-300, "nft_do_chain_ipv4", "nf_tables", (2, "raw", "OUTPUT")), (Store.NFT, "ip", "raw", "OUTPUT")),
    (message(-300, "iptable_raw_hook", "iptable_raw"), (Store.LEGACY, "ip", "raw", "OUTPUT")),
    (message(-150, "iptable_mangle_hook", ""), (Store.LEGACY, "ip", "mangle", "OUTPUT")),
    (message(50, "ipt_do_table", "[builtin]"), (Store.LEGACY, "ip", "security", "OUTPUT")),
    (message(-225, "selinux_ip_output", ""), None),
    (message(0, "bpf_prog_run", ""), None),
]


@pytest.mark.parametrize(("body", "expected"), CASES)
def test_a_function_is_known_by_its_chain_or_name(body: bytes, expected: Registered | Core | None) -> None:
    assert list(hooks.registered([body], Family.IPV4)) == ([] if expected is None else [expected])


def test_all_functions_of_a_hook_come_in_the_order_of_the_kernel() -> None:
    assert list(hooks.registered(RECORDED, Family.IPV4)) == [
        (Store.LEGACY, "ip", "raw", "OUTPUT"),
        Core.CONNTRACK,
        (Store.LEGACY, "ip", "mangle", "OUTPUT"),
        Core.NAT,
        (Store.NFT, "ip", "filter", "OUTPUT"),
        (Store.LEGACY, "ip", "filter", "OUTPUT"),
        (Store.NFT, "inet", "b", "c"),
        (Store.NFT, "inet", "a", "c"),
    ]


def test_the_kernel_tells_the_order_or_nothing(real_kernel: None) -> None:
    with Namespace.create("hooks") as namespace:
        for name in "ab":
            namespace.run("nft", f"table inet {name} {{ chain c {{ type filter hook output priority 5; }}; }}")
        found = namespace.call(hooks.order)
    assert not found or found[Family.IPV6, Hook.OUTPUT][-2:] == (
        (Store.NFT, "inet", "b", "c"),
        (Store.NFT, "inet", "a", "c"),
    )
