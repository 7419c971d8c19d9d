"""What rules ask of x_tables' extensions, of which nft prints the names alone, and iptables-nft-save all or nothing.

Where nft wrote something into a table of iptables', iptables-nft-save leaves out the table, or breaks off. So the
kernel's own expressions of the rules in question, their extensions alone, are put into a network namespace that is made
and lost for it, each rule into a chain of its own named ``x`` and its handle, and printed there.
"""

from __future__ import annotations

import os
import socket
import struct

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import SaveError, parse_save
from istio_init.dialects.nft.xtables import extension_chain
from istio_init.errors import IstioInitError
from istio_init.netfilter.family import Family
from istio_init.system import namespaces, process
from istio_init.system.netlink import FAMILIES, NETLINK_NETFILTER, dump, parse_attributes
from istio_init.system.nft_kernel import GET_RULES, elements, text_of
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SAVE = {Family.IPV4: "iptables-nft-save", Family.IPV6: "ip6tables-nft-save"}
TIMEOUT = 30.0
MOST = 5000
"""So many rules are looked at."""

NEW_TABLE, NEW_CHAIN, NEW_RULE, BATCH_BEGIN, BATCH_END = 0, 3, 6, 0x10, 0x11
SUBSYSTEM, REQUEST, ACK, CREATE, APPEND, NESTED = 10, 1, 4, 0x400, 0x800, 0x8000
TABLE, CHAIN, HANDLE, EXPRESSIONS, COMPAT = 1, 2, 3, 4, 5
CHAIN_NAME = 3


class Extended(Value):
    """A rule's extensions as the kernel has them: expressions, and what the kernel is told of the rule's protocol."""

    family: int
    table: str
    chain: str
    expressions: bytes
    compat: bytes


def read(tables: frozenset[tuple[Family, str]]) -> dict[Family, RuleSet]:
    """The extensions of the rules of tables, by family: a chain for each rule (`xtables.extension_chain`).

    What cannot be told is missing.
    """
    try:
        bodies = dump(NETLINK_NETFILTER, GET_RULES, bytes(4))
    except OSError:
        return {}
    return shown(extended(bodies, tables))


def extended(bodies: Iterable[bytes], tables: frozenset[tuple[Family, str]]) -> list[Extended]:
    """The rules of tables that have extensions, from the kernel's messages."""
    found = []
    for body in bodies:
        family = FAMILIES.get(body[0])
        if family is None or (b"match\0" not in body and b"target\0" not in body):
            continue
        attributes = parse_attributes(body, 4)
        table = text_of(attributes[TABLE])
        kept = [each for each in elements(attributes.get(EXPRESSIONS, b"")) if _is_extension(each)]
        if kept and (family, table) in tables:
            chain = extension_chain(int.from_bytes(attributes[HANDLE], "big"))
            packed = b"".join(_attribute(1 | NESTED, each) for each in kept)
            found.append(Extended(body[0], table, chain, packed, attributes.get(COMPAT, b"")))
    return found[:MOST]


def _is_extension(element: bytes) -> bool:
    return text_of(parse_attributes(element, 0)[1]) in ("match", "target")


def shown(rules: list[Extended]) -> dict[Family, RuleSet]:
    """What iptables-nft-save prints of them in a namespace of their own."""
    if not rules:
        return {}
    try:
        texts = namespaces.apart(lambda: _printed(rules))
    except IstioInitError:
        return {}
    found = {}
    for family, text in texts.items():
        try:
            found[family] = parse_save(text, family).rules
        except SaveError:
            continue
    return found


def _printed(rules: list[Extended]) -> dict[Family, str]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as channel:
        channel.settimeout(TIMEOUT)
        channel.bind((0, 0))
        for rule in rules:
            _put(channel, rule)
    families = {FAMILIES[rule.family] for rule in rules}
    return {family: process.run([SAVE[family]], timeout=TIMEOUT).stdout for family in families}


def _put(channel: socket.socket, rule: Extended) -> None:
    """Make the rule in a transaction of its own, which the kernel may refuse: it is missing then."""
    table, chain = _text(1, rule.table), _text(CHAIN, rule.chain)
    compat = _attribute(COMPAT | NESTED, rule.compat) if rule.compat else b""
    body = table + chain + _attribute(EXPRESSIONS | NESTED, rule.expressions) + compat
    messages = (
        (NEW_TABLE, CREATE, table),
        (NEW_CHAIN, CREATE, table + _text(CHAIN_NAME, rule.chain)),
        (NEW_RULE, CREATE | APPEND, body),
    )
    packed = _message(BATCH_BEGIN, 0, 0, 0, b"", SUBSYSTEM)
    for number, (kind, flags, content) in enumerate(messages, 1):
        packed += _message((SUBSYSTEM << 8) | kind, flags | ACK, number, rule.family, content)
    channel.send(packed + _message(BATCH_END, 0, len(messages) + 1, 0, b"", SUBSYSTEM))
    answers = 0
    while answers < len(messages):
        answer = channel.recv(1 << 16)
        offset = 0
        while offset + 16 <= len(answer):
            (length,) = struct.unpack_from("=I", answer, offset)
            answers += 1
            offset += (length + 3) & ~3


def _message(kind: int, flags: int, number: int, family: int, body: bytes, resource: int = 0) -> bytes:
    header = struct.pack("=IHHII", 20 + len(body), kind, REQUEST | flags, number, 0)
    return header + struct.pack("!BBH", family, 0, resource) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, os.fsencode(value) + b"\0")
