"""User namespaces that own network namespaces, and processes that keep both.

An unprivileged user makes network namespaces in a user namespace of their own, where they are root. All of a test run
share one, so that links between them are allowed. With newuidmap(1) and a range in /etc/subuid it has many ids, else
only root's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import signal
import unittest
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from istio_init.system.process import find_binary
from istio_init.testing.entering import (
    CLONE_NEWNET,
    CLONE_NEWUSER,
    ROOT,
    User,
    become,
    end_with_parent,
    enter,
    unshare,
)
from istio_init.testing.hiding import tells_of_the_test
from istio_init.testing.processes import Child, CommandError, Pipe, fork, pipe, run

__tracebackhide__ = tells_of_the_test

LAST_ID = 65535
"""The highest id that a namespace with a range of ids is to have, as far as the range goes."""


class Unavailable(unittest.SkipTest):
    """This machine, or this user, does not allow what a test needs; pytest takes it for a skip with this reason."""


class Keeper(NamedTuple):
    """A process that keeps a namespace alive, and how many ids its user namespace maps from 0 on."""

    process: Child
    ids: int

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def userns(self) -> Path:
        """Its user namespace."""
        return Path(f"/proc/{self.pid}/ns/user")

    def require(self, user: User) -> None:
        """Check that a user exists there.

        Raises:
            Unavailable: it does not.
        """
        if max(user) >= self.ids:
            raise Unavailable(
                f"user {user.uid}, group {user.gid} cannot be had without root: install newuidmap (package uidmap) and "
                f"give {_login()} a range in /etc/subuid and /etc/subgid"
            )


@cache
def own_user_namespace() -> Keeper:
    """The user namespace of this test run's unprivileged user.

    Raises:
        Unavailable: the kernel does not let this user have one.
    """
    spans = _spans()
    process = _started(lambda: unshare(CLONE_NEWUSER), lambda pid: _map(pid, spans))
    return Keeper(process, LAST_ID + 1 if spans is not None else 1)


@contextlib.contextmanager
def network_namespace(within: Keeper) -> Iterator[Keeper]:
    """A new network namespace in a user namespace, for the time of the context."""

    def begin() -> None:
        enter(within.userns, CLONE_NEWUSER)
        unshare(CLONE_NEWNET)

    process = _started(begin, lambda pid: None)
    try:
        yield Keeper(process, within.ids)
    finally:
        process.kill()
        process.join()


class Owner(NamedTuple):
    """A user namespace to be made by root, which is to own a network namespace."""

    id_map: str
    """The line of its uid_map and gid_map, such as ``0 100000 65536``."""

    mapped_first: bool = True
    """Whether the maps are there before the network namespace is made, as in runc; else the two are made at once."""

    def outside(self, user: User) -> User:
        """The ids by which we know a user of it.

        Raises:
            ValueError: there is no such user.
        """
        first, outside, count = map(int, self.id_map.split())
        if min(user) < first or max(user) >= first + count:
            raise ValueError(f"user {user.uid}, group {user.gid} does not exist where the ids are {self.id_map}")
        return User(user.uid - first + outside, user.gid - first + outside)

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        """A process inside both namespaces, as root of the user namespace, for the time of the context."""
        first = CLONE_NEWUSER if self.mapped_first else CLONE_NEWUSER | CLONE_NEWNET
        rest = CLONE_NEWNET if self.mapped_first else 0
        process = _started(lambda: unshare(first), self._map, lambda: unshare(rest))
        try:
            assert process.pid is not None
            yield process.pid
        finally:
            process.kill()
            process.join()

    def _map(self, pid: int) -> None:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(self.id_map)


def _started(
    begin: Callable[[], None], map_ids: Callable[[int], None], then: Callable[[], None] = lambda: None
) -> Child:
    """A process that entered namespaces, had its ids mapped by us, did the rest, and now waits for its end."""
    here, there = pipe()
    parent = os.getpid()
    process = fork(lambda: _hold(begin, then, there, parent), keep=(there,))
    there.close()
    assert process.pid is not None
    try:
        _await(here)
        map_ids(process.pid)
        here.send("mapped")
        _await(here)
    except BaseException:
        process.kill()
        process.join()
        raise
    return process


def _hold(begin: Callable[[], None], then: Callable[[], None], parent: Pipe, parent_pid: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        begin()
        parent.send("")
        parent.recv()
        become(ROOT)
        end_with_parent(parent_pid)
        then()
        parent.send("")
    except OSError as error:
        parent.send(error.strerror or str(error))
        return
    while True:
        signal.pause()


def _await(here: Pipe) -> None:
    """Wait for the process's next step.

    Raises:
        Unavailable: the kernel did not let it.
    """
    try:
        trouble = here.recv()
    except EOFError:
        trouble = "its process died"
    if trouble:
        raise Unavailable(f"no namespaces for user {os.geteuid()} here: {trouble}")


def _map(pid: int, spans: tuple[int, int] | None) -> None:
    """Map our own ids to root's, and a range to those from 1 on if there is one."""
    if spans is not None:
        for program, own, first in (("newuidmap", os.geteuid(), spans[0]), ("newgidmap", os.getegid(), spans[1])):
            try:
                run(program, str(pid), "0", str(own), "1", "1", str(first), str(LAST_ID))
            except CommandError as error:
                raise Unavailable(f"{error}") from None
        return
    try:
        Path(f"/proc/{pid}/setgroups").write_text("deny")
        Path(f"/proc/{pid}/uid_map").write_text(f"0 {os.geteuid()} 1")
        Path(f"/proc/{pid}/gid_map").write_text(f"0 {os.getegid()} 1")
    except OSError as error:
        raise Unavailable(f"no ids may be mapped here: {os.strerror(error.errno or errno.EPERM)}") from None


def _spans() -> tuple[int, int] | None:
    """The first ids of the ranges that newuidmap(1) may give to this user; None without such."""
    if find_binary("newuidmap") is None or find_binary("newgidmap") is None:
        return None
    found = [_span(Path("/etc/subuid")), _span(Path("/etc/subgid"))]
    return None if None in found else (found[0] or 0, found[1] or 0)


def _span(path: Path) -> int | None:
    """The first of this user's ids in a file of subuid(5), if there are enough of them."""
    names = {_login(), str(os.geteuid())}
    try:
        lines = path.read_text().split()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in names and first.isdecimal() and count.isdecimal() and int(count) >= LAST_ID:
            return int(first)
    return None


def _login() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
