"""What rules ask of x_tables' extensions, of which nft prints the names alone, and iptables-nft-save all or nothing.

Where nft wrote something into a table of iptables', iptables-nft-save leaves out the table, or breaks off. So the
kernel's own expressions of the rules in question, their extensions alone, are put into a network namespace that is made
and lost for it, each rule into a chain of its own named ``x`` and its handle, and printed there.
"""

from __future__ import annotations

import os
import re
import socket
import struct

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import SaveError, parse_save
from istio_init.dialects.nft.xtables import extension_chain
from istio_init.errors import IstioInitError
from istio_init.netfilter.family import Family
from istio_init.system import namespaces, process
from istio_init.system.netlink import FAMILIES, NETLINK_NETFILTER, dump, elements, parse_attributes, text_of, understood
from istio_init.system.nft_kernel import GET_RULES
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SAVE = {Family.IPV4: "iptables-nft-save", Family.IPV6: "ip6tables-nft-save"}
TIMEOUT = 30.0
MOST = 5000
"""So many rules are looked at."""

MOST_SETS = 64
"""So many sets are told apart by their numbers."""

SET = re.compile(rb"set\0|SET\0")
ERROR = struct.pack("=H", 2)
IPSET_PROTOCOL = b"\7"
"""The one of Linux 4.19 and later, which can ask by number."""

CREATE_SET, NAME_OF_SET = (6 << 8) | 2, (6 << 8) | 15
"""IPSET_CMD_CREATE and IPSET_CMD_GET_BYINDEX (linux/netfilter/ipset/ip_set.h)."""

NEW_TABLE, NEW_CHAIN, NEW_RULE, BATCH_BEGIN, BATCH_END = 0, 3, 6, 0x10, 0x11
SUBSYSTEM, REQUEST, ACK, CREATE, APPEND, NESTED = 10, 1, 4, 0x400, 0x800, 0x8000
TABLE, CHAIN, HANDLE, EXPRESSIONS, COMPAT = 1, 2, 3, 4, 5
COMPAT_PROTOCOL, COMPAT_FLAGS = 1, 2
PROTOCOLS = {Family.IPV4: (0, 6, 17, 1, 132, 33, 136), Family.IPV6: (0, 6, 17, 58, 132, 33, 136)}
"""Those that extensions are only for, and none."""
CHAIN_NAME = 3


class Extended(Value):
    """A rule's extensions as the kernel has them: expressions."""

    family: int
    table: str
    chain: str
    expressions: bytes


def read(tables: frozenset[tuple[Family, str]]) -> dict[Family, RuleSet]:
    """The extensions of the rules of tables, by family: a chain for each rule (`xtables.extension_chain`).

    What cannot be told is missing.
    """
    try:
        found = extended(dump(NETLINK_NETFILTER, GET_RULES, bytes(4)), tables)
    except OSError:
        return {}
    return shown(found)


@understood
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
            found.append(Extended(body[0], table, chain, packed))
    return found[:MOST]


def _is_extension(element: bytes) -> bool:
    return text_of(parse_attributes(element, 0)[1]) in ("match", "target")


def shown(rules: list[Extended]) -> dict[Family, RuleSet]:
    """What iptables-nft-save prints of them in a namespace of their own."""
    if not rules:
        return {}
    names = _sets_by_number() if any(SET.search(rule.expressions) for rule in rules) else []
    try:
        texts = namespaces.apart(lambda: _printed(rules, names))
    except IstioInitError:
        return {}
    found = {}
    for family, text in texts.items():
        try:
            found[family] = parse_save(text, family).rules
        except SaveError:
            continue
    return found


def _printed(rules: list[Extended], sets: list[str]) -> dict[Family, str]:
    _put_sets(sets)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as channel:
        channel.settimeout(TIMEOUT)
        channel.bind((0, 0))
        for rule in rules:
            _put(channel, rule)
    families = {FAMILIES[rule.family] for rule in rules}
    return {family: process.run([SAVE[family]], timeout=TIMEOUT).stdout for family in families}


def _put(channel: socket.socket, rule: Extended) -> None:
    """Make the rule. Some extensions are for one protocol, which the kernel was told with the rule and does not tell.

    Each attempt is a transaction of its own; a rule that the kernel refuses is missing.
    """
    table = _text(TABLE, rule.table)
    body = table + _text(CHAIN, rule.chain) + _attribute(EXPRESSIONS | NESTED, rule.expressions)
    for protocol in PROTOCOLS[FAMILIES[rule.family]]:
        told = _attribute(COMPAT_PROTOCOL, struct.pack("!I", protocol)) + _attribute(COMPAT_FLAGS, bytes(4))
        messages = (
            (NEW_TABLE, CREATE, table),
            (NEW_CHAIN, CREATE, table + _text(CHAIN_NAME, rule.chain)),
            (NEW_RULE, CREATE | APPEND, body + (_attribute(COMPAT | NESTED, told) if protocol else b"")),
        )
        if _is_taken(channel, rule.family, messages):
            return


def _is_taken(channel: socket.socket, family: int, messages: tuple[tuple[int, int, bytes], ...]) -> bool:
    """Carry out messages in one transaction, if the kernel takes all of them."""
    packed = _message(BATCH_BEGIN, 0, 0, 0, b"", SUBSYSTEM)
    for number, (kind, flags, content) in enumerate(messages, 1):
        packed += _message((SUBSYSTEM << 8) | kind, flags | ACK, number, family, content)
    channel.send(packed + _message(BATCH_END, 0, len(messages) + 1, 0, b"", SUBSYSTEM))
    codes: list[int] = []
    while len(codes) < len(messages):
        answer = channel.recv(1 << 16)
        offset = 0
        while offset + 20 <= len(answer):
            length, code = struct.unpack_from("=I12xi", answer, offset)
            codes.append(code)
            offset += (length + 3) & ~3
    return not any(codes)


def _put_sets(names: list[str]) -> None:
    """Make sets with the numbers that they have in the namespace of the rules, which name them by their numbers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as channel:
        channel.settimeout(TIMEOUT)
        for number, name in enumerate(names):
            body = _attribute(1, IPSET_PROTOCOL) + _text(2, name or f"none {number}") + _text(3, "hash:ip")
            body += _attribute(4, b"\0") + _attribute(5, b"\2") + _attribute(7 | NESTED, b"")
            channel.send(_message(CREATE_SET, ACK | CREATE, 1, 2, body))
            channel.recv(1 << 16)


def _sets_by_number() -> list[str]:
    """The names of the namespace's sets, in the order of their numbers; empty for numbers that are free."""
    names: list[str] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as channel:
        channel.settimeout(TIMEOUT)
        for number in range(MOST_SETS):
            channel.send(
                _message(
                    NAME_OF_SET, 0, 1, 2, _attribute(1, IPSET_PROTOCOL) + _attribute(11, struct.pack("!H", number))
                )
            )
            answer = channel.recv(1 << 16)
            attributes = {} if answer[4:6] == ERROR else parse_attributes(answer, 20)
            names.append(text_of(attributes.get(2, b"")))
    while names and not names[-1]:
        names.pop()
    return names


def _message(kind: int, flags: int, number: int, family: int, body: bytes, resource: int = 0) -> bytes:
    header = struct.pack("=IHHII", 20 + len(body), kind, REQUEST | flags, number, 0)
    return header + struct.pack("!BBH", family, 0, resource) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, os.fsencode(value) + b"\0")
