"""Enters network namespaces as nsenter(1) does: the only module of the program that calls setns(2) and unshare(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from istio_init.errors import BusyError, NamespaceError, PrivilegeError
from istio_init.system import process
from istio_init.system.places import CLONE_NEWNET, Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

CLONE_NEWUSER = 0x10000000

LOCK_FILE = "/run/istio-init.lock"
"""Root's own, so that only root can lock a part of it."""

UNSURE = 2.0
"""Seconds to wait for a lock that others can hold, too."""

NOBODY = 0xFFFFFFFF
"""What an id is shown as that has no name here (user_namespaces(7))."""

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
    """Call a function inside a network namespace and come back; where we are in it already, that takes no privilege.

    The user namespace that owns it is not entered: there is no way back from it, and its owner has power over
    what is in it. Only a program that writes rules has to be there, and ``process.run`` sees to that.

    Raises:
        PrivilegeError: entering the namespace is denied.
    """
    if place.netns is None:
        return function()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    before = process.foreign
    try:
        is_here = os.path.sameopenfile(home, place.netns)
        if is_here and place.userns is None:
            return function()
        if before is None:
            _maps.clear()
        if not is_here:
            _setns(place.netns, CLONE_NEWNET, place.label)
        process.foreign = place
        try:
            return function()
        finally:
            process.foreign = before
            if not is_here:
                _setns(home, CLONE_NEWNET, "the namespace that we came from")
    finally:
        os.close(home)


def new_network() -> int:
    """A descriptor of a new network namespace, which is gone when nothing holds it any more.

    Raises:
        OSError: making it is denied, or the kernel has no more.
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
    process.foreign = Place("a namespace of our own")  # For the sake of the limits: what is done there is others' text.
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


def _call_setns(descriptor: int, kind: int) -> None:
    if hasattr(os, "setns"):
        os.setns(descriptor, kind)
        return
    import ctypes  # Python 3.11

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _setns(descriptor: int, kind: int, label: str) -> None:
    try:
        _call_setns(descriptor, kind)
    except PermissionError:
        fix = "run as root, or with the capability SYS_ADMIN"
        raise PrivilegeError(f"{label}: it cannot be entered: permission denied", fix=fix) from None
    except OSError as error:
        raise NamespaceError(f"{label}: it cannot be entered: {error.strerror}") from None


def enter_user(userns: int) -> None:
    """Enter a user namespace; there is no way back. Only a child that cannot be traced may do so (see ``confined``).

    Raises:
        OSError: entering it is denied.
    """
    _call_setns(userns, CLONE_NEWUSER)


def lock(seconds: float, warn: Callable[[str], None] | None = None) -> int:
    """Keep other runs of ours out of the current network namespace until the descriptor is closed.

    It is a range of a file of root's own, numbered as the namespace is, so that no process of the pod can hold it.
    Where there can be no such file, as without a directory to write to, it is the namespace's own file instead. Anybody
    in the namespace can lock that, so it is not waited for beyond ``UNSURE`` seconds: whatever another run changes
    meanwhile is noticed when rules are read back.

    Raises:
        BusyError: another run kept it for longer than ``seconds``.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    own = _own_file()
    if own is None:
        deadline = time.monotonic() + min(seconds, UNSURE)
        if not _try_until(deadline, lambda: fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)) and warn is not None:
            warn("another process holds the lock of this network namespace: not waiting any longer")
        return here
    span = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, os.fstat(here).st_ino, 1, 0)
    os.close(here)
    if _try_until(time.monotonic() + seconds, lambda: fcntl.fcntl(own, fcntl.F_OFD_SETLK, span)):
        return own
    os.close(own)
    raise BusyError("another run of istio-init is at work in this namespace", fix="try again, or give a longer --wait")


def _own_file() -> int | None:
    """A descriptor of the file whose ranges are locked; None where it could not be root's alone."""
    try:
        own = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError:
        return None
    status = os.fstat(own)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(own)
        return None
    return own


def _try_until(deadline: float, take: Callable[[], object]) -> bool:
    """Whether a lock could be taken in time."""
    while True:
        try:
            take()
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)


def unmapped_ids(ids: list[tuple[int, int]], *, groups: bool = False) -> list[tuple[int, int]]:
    """Those ranges of user (or group) ids that do not exist in the user namespace that owns the current network."""
    spans = [(inside, inside + count - 1) for inside, _, count in _id_map(groups=groups)]
    return [(low, high) for low, high in ids if not any(first <= low and high <= last for first, last in spans)]


def outside_id(number: int, *, groups: bool = False) -> int:
    """The id by which we know a user (or group) of the namespace that we work in.

    Raises:
        OSError: there is none.
    """
    if process.foreign is None or process.foreign.userns is None:
        return number
    for inside, outside, count in _id_map(groups=groups):
        if inside <= number < inside + count and outside != NOBODY:
            return number - inside + outside
    raise OSError(errno.EINVAL, "it is not mapped in the pod's user namespace")


_maps: dict[int, tuple[str, str]] = {}
"""By the number of a user namespace, what it maps."""


def _id_map(*, groups: bool) -> list[tuple[int, int, int]]:
    """The ids inside, those that we know them by, and how many of them, in the owner of the current namespace."""
    place = process.foreign
    if place is None or place.userns is None:
        with open("/proc/self/gid_map" if groups else "/proc/self/uid_map") as file:
            text = file.read()
    else:
        from istio_init.system import confined

        number = os.fstat(place.userns).st_ino
        if number not in _maps:
            _maps[number] = confined.id_maps(place.userns)
        text = _maps[number][groups]
    return [(int(words[0]), int(words[1]), int(words[2])) for line in text.splitlines() if (words := line.split())]
