"""Enters network namespaces as nsenter(1) does: the only module of the program that calls setns(2) and unshare(2)."""

from __future__ import annotations

import fcntl
import os
import time
from importlib import import_module

from istio_init.errors import BusyError, NamespaceError, PrivilegeError
from istio_init.system.places import CLONE_NEWNET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from istio_init.system.places import Place

    T = TypeVar("T")

CLONE_NEWUSER = 0x10000000

PRELOADED = (
    "istio_init.dialects.iptables.parse",
    "istio_init.mesh.policy.sidecar",
    "istio_init.stores.programmer",
    "pyroute2",
)
"""Modules that work in another user namespace needs, imported while our files can still be read."""

HOST_SIGN = "/proc/sys/net/core/netdev_max_backlog"
"""A setting of the machine, not of a namespace: the kernel shows it in the initial network namespace alone."""


def is_host() -> bool:
    """Whether the current network namespace is the machine's own."""
    return os.path.exists(HOST_SIGN)


def refuse_host(label: str) -> None:
    """Raise if the current network namespace is the machine's own.

    Raises:
        NamespaceError: always then, as its rules would take the machine off the network.
    """
    if is_host():
        raise NamespaceError(
            f"{label}: that is the network namespace of the host; redirecting its traffic cuts the machine off",
            fix="name a pod's process or namespace; on a virtual machine of the mesh allow it with "
            "--allow-host-network or ISTIO_INIT_ALLOW_HOST_NETWORK=true",
        )


def call_in(place: Place, function: Callable[[], T]) -> T:
    """Call a function inside a namespace and come back.

    Where the namespace belongs to another user namespace, that one is entered too, in a child process, as there is no
    way back from it; the result then comes back pickled.

    Raises:
        PrivilegeError: the namespace may not be entered.
    """
    if place.netns is None:
        return function()
    if place.userns is not None:
        from istio_init.system.workers import in_child

        return in_child(lambda: _in_owner(place, function))
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(place.netns, CLONE_NEWNET, place.label)
        try:
            return function()
        finally:
            _setns(home, CLONE_NEWNET, "the namespace that we came from")
    finally:
        os.close(home)


def new_network() -> int:
    """A descriptor of a new network namespace, which is gone when nothing holds it any more.

    Raises:
        OSError: it may not be made, or the kernel has no more.
    """
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _unshare(CLONE_NEWNET)
        try:
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _setns(home, CLONE_NEWNET, "the namespace that we came from")
    finally:
        os.close(home)


def apart(function: Callable[[], T]) -> T:
    """Call a function in a child process, in a network namespace that is made for it, without root if need be.

    The result comes back pickled.

    Raises:
        PrivilegeError: no such namespace may be made.
    """
    from istio_init.system.workers import in_child

    return in_child(lambda: _apart(function))


def _apart(function: Callable[[], T]) -> T:
    user, group = os.geteuid(), os.getegid()
    try:
        if user == 0:
            _unshare(CLONE_NEWNET)
        else:
            _unshare(CLONE_NEWUSER | CLONE_NEWNET)
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
    except OSError as error:
        raise PrivilegeError(
            f"a network namespace of our own cannot be made: {error.strerror}",
            fix="run as root, or where user namespaces are allowed",
        ) from None
    return function()


def _unshare(kind: int) -> None:
    if hasattr(os, "unshare"):
        os.unshare(kind)
        return
    import ctypes  # Python 3.11

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _setns(descriptor: int, kind: int, label: str) -> None:
    try:
        if hasattr(os, "setns"):
            os.setns(descriptor, kind)
        else:  # Python 3.11
            import ctypes

            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(descriptor, kind) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
    except PermissionError:
        fix = "run as root, or with the capability SYS_ADMIN"
        raise PrivilegeError(f"{label}: it may not be entered", fix=fix) from None
    except OSError as error:
        raise NamespaceError(f"{label}: it cannot be entered: {error.strerror}") from None


def _in_owner(place: Place, function: Callable[[], T]) -> T:
    """Call a function inside a namespace and inside the user namespace that owns it."""
    assert place.netns is not None and place.userns is not None
    _preload()
    _setns(place.netns, CLONE_NEWNET, place.label)
    _hold_open()
    _setns(place.userns, CLONE_NEWUSER, place.label)
    _become_root(place.label)
    return function()


def _preload() -> None:
    """Import now what is imported when needed: the user about to be taken may not be allowed to read our files."""
    for name in PRELOADED:
        import_module(name)
    # The lock that the programs share belongs to the host's root. The user namespace's own file serves as its lock.
    os.environ["XTABLES_LOCKFILE"] = "/proc/self/ns/user"


def _hold_open() -> None:
    """Open what only the machine's root may open."""
    from istio_init.system.xtables import hold_table_names

    hold_table_names()


def _become_root(label: str) -> None:
    """Take user and group 0 of the user namespace just entered: programs started otherwise lose the capabilities."""
    try:
        os.setgroups([])
    except PermissionError:
        pass  # Denied where the namespace was made without privilege (user_namespaces(7)); it changes nothing here.
    try:
        os.setgid(0)
        os.setuid(0)
    except OSError:
        raise NamespaceError(f"{label}: its user namespace has no user 0", fix="map user and group 0 in it") from None


def lock(seconds: float) -> int:
    """Keep other runs of ours out of the current network namespace until the descriptor is closed.

    The lock is on the namespace's own file, so that it needs no directory that all would have to share.

    Raises:
        BusyError: another run kept it for longer than ``seconds``.
    """
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise BusyError(
                    "another run of istio-init is at work in this namespace", fix="try again, or give a longer --wait"
                ) from None
            time.sleep(0.01)


def unmapped_ids(ids: list[tuple[int, int]], *, groups: bool = False) -> list[tuple[int, int]]:
    """Those ranges of user (or group) ids that do not exist in the current user namespace."""
    with open("/proc/self/gid_map" if groups else "/proc/self/uid_map") as file:
        spans = [(int(words[0]), int(words[0]) + int(words[2]) - 1) for line in file if (words := line.split())]
    return [(low, high) for low, high in ids if not any(first <= low and high <= last for first, last in spans)]
