"""Network namespaces as users name them: by a process, a name, or a path, or the one that we are in.

A process is pinned by a pidfd, and its namespace and its root by descriptors, before anything is decided, so that a
reused process id can never lead to another pod, nor to another pod's files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select

from istio_init.errors import NamespaceError, PrivilegeError
from istio_init.value import Value

CLONE_NEWNET = 0x40000000
NS_GET_USERNS = 0xB701
NS_GET_NSTYPE = 0xB703
RUN_NETNS = "/run/netns"


class Place(Value):
    """A network namespace to work in, and whose files tell its names and name servers.

    ``netns`` and ``userns`` are open descriptors; None stands for the namespace that the process is in. ``resolv_conf``
    is the file of name servers below ``root``, ``own_files`` says that it is ours for want of a better one. The path
    ``root`` leads through the descriptor ``root_at`` where it is not our own.
    """

    label: str
    netns: int | None = None
    userns: int | None = None
    root: str = "/"
    resolv_conf: str = "/etc/resolv.conf"
    own_files: bool = False
    root_at: int | None = None

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in (self.netns, self.userns, self.root_at):
            if descriptor is not None:
                os.close(descriptor)


HERE = Place("this namespace")


def of_pid(pid: int) -> Place:
    """The namespace of a process, pinned.

    Raises:
        NamespaceError: there is no such process, or it ended meanwhile.
        PrivilegeError: opening its namespace is denied.
    """
    from istio_init.system import living

    label = f"pid {pid}"
    gone = NamespaceError(f"{label}: there is no such process", fix="look for the pod's process again")
    if pid <= 0:
        raise NamespaceError(f"{label}: not the id of a process", fix="give a number above 0")
    try:
        pidfd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError):
        raise gone from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # ENOENT since Linux 6.15
            raise NamespaceError(f"{label}: not a process, but a thread of one", fix="give the process's id") from None
        raise NamespaceError(f"{label}: {error.strerror}") from None
    try:
        process = living.directory(pid)
        netns = _open(f"{process}/ns/net", label)
        try:
            root = _open(f"{process}/root", label, os.O_PATH | os.O_DIRECTORY)
        except BaseException:
            os.close(netns)
            raise
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(0):
            os.close(netns)
            os.close(root)
            raise gone
    finally:
        os.close(pidfd)
    return Place(label, netns, _foreign_userns(netns), f"/proc/self/fd/{root}", root_at=root)


def of_netns(name: str) -> Place:
    """A namespace by its name in /run/netns, or by a path.

    Raises:
        NamespaceError: there is no such namespace, or the file is none.
        PrivilegeError: opening it is denied.
    """
    if not name:
        raise NamespaceError("an empty word names no namespace", fix="look at the variable that it came from")
    label = f"netns {name}"
    path = name if "/" in name else f"{RUN_NETNS}/{name}"
    netns = _open(path, label)
    try:
        is_network = fcntl.ioctl(netns, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        is_network = False
    if not is_network:
        os.close(netns)
        raise NamespaceError(f"{label}: {path} is not a network namespace", fix="list them with: ip netns list")
    own = f"/etc/netns/{name}/resolv.conf"
    named = "/" not in name and os.path.exists(own)
    resolv = own if named else "/etc/resolv.conf"
    return Place(label, netns, _foreign_userns(netns), "/", resolv, own_files=not named)


def _open(path: str, label: str, flags: int = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        fix = "list them with: ip netns list" if "/proc/" not in path else None
        raise NamespaceError(f"{label}: {path} does not exist", fix=fix) from None
    except PermissionError:
        raise PrivilegeError(
            f"{label}: {path} cannot be opened: permission denied", fix="run as root, or with SYS_ADMIN and SYS_PTRACE"
        ) from None
    except OSError as error:
        raise NamespaceError(f"{label}: {path} cannot be opened: {error.strerror}") from None


def _foreign_userns(netns: int) -> int | None:
    """The user namespace that owns a network namespace, where it is not our own.

    Rules with ``-m owner`` are accepted only from a writer in that user namespace (xt_owner, owner_check).
    """
    try:
        userns = fcntl.ioctl(netns, NS_GET_USERNS)
    except OSError:
        return None
    own, other = os.stat("/proc/self/ns/user"), os.fstat(userns)
    if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino):
        os.close(userns)
        return None
    return userns
