"""A table of nf_tables that lives no longer than its maker: written over netlink and owned by that socket.

The kernel removes an owned table with its socket, so it goes away even when the process is killed. Kernels before 5.12
do not know ownership; there it is removed as long as the process can. Formats: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from types import TracebackType
from typing import Self

from istio_init.errors import NoBackendError, PrivilegeError, ToolError
from istio_init.system.netlink import AF_NETLINK, NETLINK_NETFILTER, NLMSG_ERROR

NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE = 0, 2, 3, 6
BATCH_BEGIN, BATCH_END = 0x10, 0x11
REQUEST, ACK, CREATE, APPEND = 0x1, 0x4, 0x400, 0x800
SUBSYSTEM, INET, NESTED = 10, 1, 0x8000
OWNED = 0x2
HOOKS = {"PREROUTING": 0, "INPUT": 1, "FORWARD": 2, "OUTPUT": 3, "POSTROUTING": 4}
REGISTER, VERDICT = 1, 0
NETWORK, TRANSPORT = 1, 2
META_TRACE, META_FAMILY, META_PROTOCOL, META_IIF = 12, 15, 16, 4
DROP = 0
TIMEOUT = 10.0

Expression = bytes
"""One expression of a rule, packed."""


def open_channel() -> socket.socket:
    """A netlink socket for nf_tables.

    Raises:
        NoBackendError: the kernel has none.
    """
    try:
        return socket.socket(AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError as error:
        raise NoBackendError(f"this kernel has no netlink for netfilter: {error.strerror}") from error


class OwnedTable:
    """A table of family inet, for the time of a context. Chains are added while it lasts.

    Where another program owns one of its name, it gets a longer one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_renamed = False

    def __enter__(self) -> Self:
        self._socket = open_channel()
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.bind((0, 0))
            self._make()
        except BaseException:
            self._socket.close()
            raise
        return self

    def _make(self) -> None:
        name = _text(1, self.name)
        try:
            self._send((NEW_TABLE, CREATE, name + _number(2, OWNED)))
        except OSError as error:
            if error.errno == errno.EPERM and not self.is_renamed:  # Another's socket owns the one of this name.
                self.name, self.is_renamed = f"{self.name}-{os.urandom(4).hex()}", True
                self._make()
                return
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise _refused(error) from error
            with contextlib.suppress(OSError):
                self._send((DELETE_TABLE, 0, name))  # That of a run which was killed.
            try:
                self._send((NEW_TABLE, CREATE, name))
            except OSError as second:
                raise _refused(second) from second

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        try:
            with contextlib.suppress(OSError):
                self._send((DELETE_TABLE, 0, _text(1, self.name)))
        finally:
            self._socket.close()

    def add(self, hook: str, priority: int, *rules: list[Expression]) -> None:
        """Add a base chain with rules. It is named as its hook.

        Raises:
            ToolError: the kernel refused.
        """
        where = _nested(4, _number(1, HOOKS[hook]), _attribute(2, struct.pack("!i", priority)))
        chain = _text(1, self.name) + _text(3, hook) + where + _text(7, "filter")
        self._change((NEW_CHAIN, CREATE, chain), *self._rules(hook, rules))

    def add_rules(self, hook: str, *rules: list[Expression]) -> None:
        """Add rules to a chain.

        Raises:
            ToolError: the kernel refused.
        """
        self._change(*self._rules(hook, rules))

    def _rules(self, hook: str, rules: tuple[list[Expression], ...]) -> list[tuple[int, int, bytes]]:
        place = _text(1, self.name) + _text(2, hook)
        return [(NEW_RULE, CREATE | APPEND, place + _nested(4, *rule)) for rule in rules]

    def _change(self, *messages: tuple[int, int, bytes]) -> None:
        try:
            self._send(*messages)
        except OSError as error:
            raise _refused(error) from error

    def _send(self, *messages: tuple[int, int, bytes]) -> None:
        """Carry out messages in one transaction."""
        last = len(messages)
        packed = _message(BATCH_BEGIN, 0, 0, 0, b"", SUBSYSTEM)
        for number, (kind, flags, body) in enumerate(messages, 1):
            acknowledged = ACK if number == last else 0
            packed += _message((SUBSYSTEM << 8) | kind, flags | acknowledged, number, INET, body)
        self._socket.send(packed + _message(BATCH_END, 0, last + 1, 0, b"", SUBSYSTEM))
        while not self._is_done(self._socket.recv(1 << 16), last):
            pass

    def _is_done(self, answer: bytes, last: int) -> bool:
        """Whether the last message was acknowledged. Raises OSError for one that was refused."""
        offset = 0
        while offset + 20 <= len(answer):
            length, kind, _, number = struct.unpack_from("=IHHI", answer, offset)
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", answer, offset + 16)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                if number == last:
                    return True
            offset += (length + 3) & ~3
        return False


def _refused(error: OSError) -> ToolError | PrivilegeError | NoBackendError:
    if error.errno == errno.EPERM:
        fix = "run as root, or with the capability NET_ADMIN, and only one at a time in a namespace"
        return PrivilegeError("making a table of nf_tables is denied", fix=fix)
    if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP):
        return NoBackendError("this kernel has no nf_tables for the family inet")
    return ToolError(f"the kernel refuses a table of our own: {error.strerror}")


def meta_is(key: int, value: bytes) -> list[Expression]:
    """The packet has this meta value."""
    return [_expression("meta", _number(1, REGISTER) + _number(2, key)), _equals(value)]


def payload_is(base: int, offset: int, value: bytes) -> list[Expression]:
    """The packet has these bytes at an offset of its network or transport header."""
    where = _number(1, REGISTER) + _number(2, base) + _number(3, offset) + _number(4, len(value))
    return [_expression("payload", where), _equals(value)]


def trace() -> list[Expression]:
    """Have the kernel tell which rules the packet matches from here on."""
    return [
        _expression("immediate", _number(1, REGISTER) + _nested(2, _attribute(1, b"\1"))),
        _expression("meta", _number(2, META_TRACE) + _number(3, REGISTER)),
    ]


def drop() -> list[Expression]:
    """Drop the packet."""
    return [_expression("immediate", _number(1, VERDICT) + _nested(2, _nested(2, _number(1, DROP))))]


def _equals(value: bytes) -> Expression:
    return _expression("cmp", _number(1, REGISTER) + _number(2, 0) + _nested(3, _attribute(1, value)))


def _expression(name: str, data: bytes) -> Expression:
    return _nested(1, _text(1, name), _nested(2, data))


def _message(kind: int, flags: int, number: int, family: int, body: bytes, resource: int = 0) -> bytes:
    header = struct.pack("=IHHII", 20 + len(body), kind, REQUEST | flags, number, 0)
    return header + struct.pack("!BBH", family, 0, resource) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value))


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | NESTED, b"".join(parts))
