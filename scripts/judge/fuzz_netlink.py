"""Decoders of what the kernel says over netlink, in place of which somebody else does."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from istio_init.errors import IstioInitError
from istio_init.netfilter.family import Family
from istio_init.system import (
    extensions,
    hooks,
    ipsets,
    kernel_names,
    links,
    listeners,
    netlink,
    nft_kernel,
    nft_outline,
    routes,
    taps,
)
from istio_init.system.nft_trace import Listener

from .fuzzing import Parser
from .mutating import Form

_said = b""

ASKED: dict[str, tuple[ModuleType, Callable[[], object]]] = {
    "addresses": (netlink, netlink.addresses),
    "marks": (netlink, lambda: (netlink.mark_rules(), netlink.unusual_rules())),
    "local": (netlink, netlink.local_default_tables),
    "tables": (netlink, netlink.all_nft_tables),
    "conntrack": (netlink, netlink.invalid_packets),
    "links": (links, links.links),
    "rules": (routes, routes.rules),
    "routes": (routes, lambda: routes.routes({1: "lo", 2: "eth0"})),
    "sockets": (listeners, listeners.options),
    "hooks": (hooks, hooks.order),
    "sets": (ipsets, ipsets.read),
    "taps": (taps, taps.taps),
    "nft-keys": (nft_kernel, lambda: nft_kernel.told_in((), [_said])),
    "chains": (nft_kernel, lambda: nft_kernel.devices_in([_said])),
    "nft-rules": (netlink, lambda: (nft_kernel.told_in([_said]), netlink.nft_rule_numbers())),
    "nft-sets": (nft_kernel, nft_kernel.garbled_sets),
    "nft-outlines": (nft_outline, lambda: nft_outline.outlines(["t"])),
    "names": (kernel_names, lambda: kernel_names.of_nft(Family.IPV4)),
    "extensions": (extensions, lambda: extensions.extended([_said], frozenset({(Family.IPV4, "nat")}))),
}
"""Who asks, and what for."""

HEADERS = {"addresses": 8, "marks": 12, "local": 12, "links": 16, "rules": 12, "routes": 12, "sockets": 72, "taps": 20}
"""Bytes before a message's attributes; most have four."""


@contextmanager
def answering(asks: ModuleType, body: bytes) -> Iterator[None]:
    """Have every question of a module answered so."""
    global _said
    before, _said = vars(asks)["dump"], body
    vars(asks)["dump"] = lambda *_: [body, body]
    try:
        yield
    finally:
        vars(asks)["dump"] = before


def _answered(name: str) -> Callable[[str], None]:
    asks, ask = ASKED[name]

    def check(text: str) -> None:
        with answering(asks, text.encode("latin-1")):
            ask()

    return check


def datagram(text: str) -> None:
    """Messages of any lengths end."""
    for _, _, body in netlink.messages(text.encode("latin-1")):
        netlink.parse_attributes(body, 4)
        list(netlink.elements(body))


def trace(text: str) -> None:
    """What the kernel tells of packets through nf_tables."""
    Listener().take(text.encode("latin-1"), [])


def legacy(text: str) -> None:
    """The entries of a table of legacy iptables."""
    for family in Family:
        kernel_names._legacy(family, text.encode("latin-1"), {0: "INPUT", 152: "FORWARD"})


def attribute(kind: int, body: bytes) -> str:
    """As netlink packs one."""
    return (struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)).decode("latin-1")


TOKENS = [
    *(attribute(kind, body) for kind in (1, 2, 3, 4, 6, 8, 12, 15) for body in (b"", b"\0\0\0\1", b"nat\0")),
    *(attribute(kind | 0x8000, attribute(1, b"meta\0").encode("latin-1")) for kind in (1, 2, 4, 6)),
    "match\0", "target\0", "range\0", "set\0", "ERROR\0", "\x08\0\x02\0\0\0\0\x06",
]  # fmt: skip


def parsers() -> Iterator[Parser]:
    """All of them."""
    for name in ASKED:
        refusals = (OSError, IstioInitError)
        yield Parser(f"netlink-{name}", _answered(name), refusals, TOKENS, Form.NETLINK, HEADERS.get(name, 4))
    yield Parser("netlink-datagram", datagram, (ValueError,), TOKENS, Form.BYTES)
    yield Parser("netlink-trace", trace, (OSError,), TOKENS, Form.NETLINK, 20)
    yield Parser("netlink-legacy", legacy, (struct.error, LookupError), TOKENS, Form.BYTES)
