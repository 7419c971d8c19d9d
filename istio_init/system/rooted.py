"""Files below another root, such as a process's, of which nothing may be believed.

A symbolic link there cannot lead out into our own files. Only regular files of real file systems are opened at all, as
opening a device, a FIFO or a file of the kernel does something or waits. And a child reads, as even looking for a name
may never end on a file system that another process serves.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes

MAX_LINKS = 40
"""As many links as the kernel itself follows (path_resolution(7))."""

LONGEST = 64 << 10
"""Bytes of a file that are read; a line that goes on after them is not."""

PATIENCE = 5.0
"""Seconds for a file of others to be read."""

OURS = "/proc/self/fd/"

OPENAT2 = 437
"""The number of the system call openat2(2) on all architectures but Alpha."""

RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10
"""linux/openat2.h"""

NOT_STORED = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0x62656570,  # configfs
        0xCAFE4A11,  # bpf
        0xF97CFF8C,  # selinuxfs
        0x43415D53,  # smackfs
        0x6165676C,  # pstore
        0xDE5E81E4,  # efivarfs
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x6E736673,  # nsfs
        0x6C6F6F70,  # binder
        0x42494E4D,  # binfmt_misc
        0x0187,  # autofs
        0x50494446,  # pidfs
    }
)
"""File systems whose files are the kernel's answers (linux/magic.h, statfs(2))."""


def read_text(root: str, path: str) -> str | None:
    """The text of a regular file at ``path`` as a process whose root is ``root`` sees it; None where there is none.

    Of a long file it is the beginning.
    """
    try:
        if root == "/":
            data = _read(os.open(path, os.O_PATH | os.O_CLOEXEC), LONGEST)
        else:
            from istio_init.system.workers import bytes_within

            data = bytes_within(PATIENCE, lambda: read_beneath(root, path), most=LONGEST + 1, keep=descriptor(root))
    except OSError:
        return None
    if data is None:
        return None
    if len(data) > LONGEST:
        data = data[: data[:LONGEST].rfind(b"\n") + 1]
    return data.decode(errors="replace")


def descriptor(root: str) -> int | None:
    """The descriptor of ours that a path begins with."""
    here, _, rest = root.partition(OURS)
    number = rest.partition("/")[0]
    return int(number) if not here and number.isdecimal() else None


def read_beneath(root: str, path: str, longest: int = LONGEST) -> bytes | None:
    """The beginning of a regular file, and a byte more than ``longest`` if it goes on; None where it is none.

    To be called in a child, as it may never return.

    Raises:
        OSError: there is no such file.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_beneath(top, path)
    finally:
        os.close(top)
    if not _is_stored(found):
        os.close(found)
        return None
    return _read(found, longest)


def _read(found: int, longest: int) -> bytes | None:
    """The beginning of a file, and a byte more if it goes on; None where it is none that is stored. Closes it."""
    try:
        about = os.fstat(found)
        if not stat.S_ISREG(about.st_mode):
            return None
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = os.open(f"/proc/self/fd/{found}", flags)
    finally:
        os.close(found)
    # What is made when it is read has no size, also where another file system lies above that of the kernel.
    most = min(longest + 1, about.st_size)
    data = b""
    try:
        while len(data) < most and (more := os.read(file, most - len(data))):
            data += more
    finally:
        os.close(file)
    return data


def open_beneath(top: int, path: str) -> int:
    """A descriptor (``O_PATH``) of what ``path`` is for a process whose root is ``top``.

    Raises:
        OSError: there is nothing.
    """
    try:
        return _openat2(top, path)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # Before Linux 5.6, or a filter that does not know it.
            raise
    return walk_beneath(top, path)


def _openat2(top: int, path: str) -> int:
    import ctypes

    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    found: int = libc.syscall(ctypes.c_long(OPENAT2), ctypes.c_int(top), os.fsencode(path), how, size)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


def walk_beneath(top: int, path: str) -> int:
    """The same, a name at a time: each is opened in the directory before it and never followed as a link.

    Raises:
        OSError: there is nothing.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    pending = path.split("/")[::-1]
    way = [os.dup(top)]
    links = 0
    try:
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(way) > 1:
                    os.close(way.pop())
                continue
            way.append(os.open(part, flags, dir_fd=way[-1]))
            if not stat.S_ISLNK(os.fstat(way[-1]).st_mode):
                continue
            links += 1
            target = os.readlink("", dir_fd=way[-1])
            if links > MAX_LINKS or not _is_stored(way[-1]):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            os.close(way.pop())
            while target.startswith("/") and len(way) > 1:
                os.close(way.pop())
            pending += target.split("/")[::-1]
        return way.pop()
    finally:
        for each in way:
            os.close(each)


def _is_stored(found: int) -> bool:
    """Whether a file lies in a file system that stores files."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    about = (ctypes.c_uint32 * 64)()  # struct statfs, which begins with the kind (on big-endian machines only s390x's).
    if libc.fstatfs(ctypes.c_int(found), about) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return _kind(about) not in NOT_STORED


def _kind(about: ctypes.Array[ctypes.c_uint32]) -> int:
    return about[0] or about[1]
