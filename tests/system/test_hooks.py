"""The kernel's own order of what it calls at a hook, from messages as Linux 6.12 sends them."""

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


CASES: list[tuple[bytes, Registered | Core | None]] = [
    (message(-300, "nft_do_chain_ipv4", "[nf_tables]", (2, "raw", "OUTPUT")), (Store.NFT, "ip", "raw", "OUTPUT")),
    (message(0, "nft_do_chain_inet", "[nf_tables]", (1, "mine", "out")), (Store.NFT, "inet", "mine", "out")),
    (message(-200, "ipv4_conntrack_local", "[nf_conntrack]"), Core.CONNTRACK),
    (message(-100, "nf_nat_ipv4_local_fn", "[nf_nat]"), Core.NAT),
    (message(-300, "iptable_raw_hook", "[iptable_raw]"), (Store.LEGACY, "ip", "raw", "OUTPUT")),
    (message(-150, "iptable_mangle_hook", ""), (Store.LEGACY, "ip", "mangle", "OUTPUT")),
    (message(0, "ipt_do_table", "[ip_tables]"), (Store.LEGACY, "ip", "filter", "OUTPUT")),
    (message(50, "ipt_do_table", "[builtin]"), (Store.LEGACY, "ip", "security", "OUTPUT")),
    (message(-225, "selinux_ip_output", ""), None),
    (message(0, "bpf_prog_run", ""), None),
]


@pytest.mark.parametrize(("body", "expected"), CASES)
def test_a_function_is_known_by_its_chain_or_name(body: bytes, expected: Registered | Core | None) -> None:
    assert list(hooks.registered([body], Family.IPV4)) == ([] if expected is None else [expected])


def test_all_functions_of_a_hook_come_in_order() -> None:
    found = list(hooks.registered([body for body, _ in CASES], Family.IPV4))
    assert found == [expected for _, expected in CASES if expected is not None]


def test_the_kernel_tells_the_order_or_nothing(real_kernel: None) -> None:
    with Namespace.create("hooks") as namespace:
        for name in "ab":
            namespace.run("nft", f"table inet {name} {{ chain c {{ type filter hook output priority 5; }}; }}")
        found = namespace.call(hooks.order)
    assert not found or found[Family.IPV6, Hook.OUTPUT][-2:] == (
        (Store.NFT, "inet", "b", "c"),
        (Store.NFT, "inet", "a", "c"),
    )
