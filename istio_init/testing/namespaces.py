"""Real network namespaces for tests.

A `Namespace` goes away with everything in it when its context ends, and with the process that made it; what a killed
process could not remove goes away when the next one makes its first. Nothing here brings the calling process into
another namespace: functions run in forked children, and sockets are made there and passed back.

As root a namespace has a name, which ip-netns(8) and ``istio-init --netns`` know. Without root it belongs to a user
namespace of the caller's and is kept by a process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from istio_init.testing import keeping, leftovers, owners, processes
from istio_init.testing.checks import checked_label
from istio_init.testing.entering import ROOT, Entrance, User
from istio_init.testing.hiding import tells_of_the_test
from istio_init.testing.leftovers import ETC_NETNS, PREFIX, RUN_NETNS
from istio_init.testing.owners import Keeper, Owner, Unavailable
from istio_init.testing.processes import SAYING_SO, CommandError, Program, Worker, run

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__tracebackhide__ = tells_of_the_test

T = TypeVar("T")

_names: list[str] = []


def made() -> int:
    """How many namespaces this process has made, those that are gone among them."""
    return len(_names)


class Namespace:
    """A network namespace. Make it with `Namespace.create`, which deletes it again."""

    def __init__(
        self,
        name: str,
        label: str,
        keeper: Keeper | None = None,
        holder: int | None = None,
        owner: Owner | None = None,
    ) -> None:
        self.name = name
        self.label = label
        self.owner = owner
        self.holder = holder if keeper is None else keeper.pid
        """The process that was in the namespace from the start, where it belongs to a user namespace of its own."""

        self.path = RUN_NETNS / name if keeper is None else Path(f"/proc/{keeper.pid}/ns/net")
        self._keeper = keeper
        self._etc = ETC_NETNS / name if keeper is None else leftovers.directory() / name
        self._sockets: list[socket.socket] = []
        self._children: list[Program] = []

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    @classmethod
    @contextlib.contextmanager
    def create(cls, label: str = "ns", *, owner: Owner | None = None) -> Iterator[Self]:
        """A new namespace, with lo up, for the time of the context.

        It forwards nothing, whatever it would inherit (devconf_inherit_init_net in the kernel's sysctl/net.rst).

        ``owner`` gives it a user namespace of its own, which takes root.

        Raises:
            Unavailable: none can be made here; the text says why.
            ValueError: it cannot be called so.
        """
        with contextlib.ExitStack() as stack:
            name = f"{PREFIX}-{leftovers.token()}-{len(_names) + 1}-{checked_label(label)}"
            _names.append(name)
            if leftovers.is_root():
                holder = None if owner is None else stack.enter_context(owner.hold())
                stack.callback(_remove, name)
                _add_name(name, holder)
                namespace = cls(name, label, holder=holder, owner=owner)
            elif owner is None:
                within = owners.own_user_namespace()
                namespace = cls(name, label, stack.enter_context(owners.network_namespace(within)))
            else:
                raise Unavailable("a pod with a user namespace of its own needs root")
            stack.callback(namespace.close)
            keeping.born(namespace)
            stack.callback(keeping.died, namespace)
            namespace.call(_begin)
            yield namespace

    @property
    def entrance(self) -> Entrance:
        """The way in."""
        return Entrance(self.path, self._keeper and self._keeper.userns, self._etc)

    @property
    def link_target(self) -> str:
        """What ip-link(8) takes for this namespace: its name, or a process in it."""
        return self.name if self._keeper is None else str(self._keeper.pid)

    def close(self) -> None:
        """End what the namespace holds: its sockets, its processes, its files."""
        for each in self._sockets:
            each.close()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
            child.wait()
        if self._keeper is not None and not keeping.is_kept(self.name):
            leftovers.kill_inside(self.path)
            shutil.rmtree(self._etc, ignore_errors=True)

    def run(self, *argv: str, stdin: str = "", env: Mapping[str, str] | None = None, check: bool = True) -> str:
        """Run a command inside, as root there; what it printed.

        Raises:
            CommandError: it is not installed, did not end in time, or failed; see `processes.run`.
        """
        return run(*argv, stdin=stdin, env=self.environment(env), check=check, entrance=self.entrance)

    def run_program(self, *argv: str, env: Mapping[str, str]) -> str:
        """Run ``istio-init``, a subcommand first, upon this namespace; what it printed.

        Where another user namespace owns this one it comes from outside: it enters both, and here its own files might
        not be readable any more.

        Raises:
            CommandError: it failed.
        """
        program = (sys.executable, "-m", "istio_init", argv[0])
        if self.owner is None:
            return self.run(*program, *argv[1:], env=env)
        return run(*program, "--netns", self.name, *argv[1:], env=self.environment(env))

    def spawn(self, *argv: str, user: User = ROOT, env: Mapping[str, str] | None = None) -> Program:
        """Start a command inside, as a user, and leave it running; it has been executed when this returns.

        It ends with the namespace, and with the thread that calls this: start what has to outlive a thread from the
        main one.
        """
        self.require(user)
        child = processes.spawn(*argv, entrance=self.entrance, user=user, env=self.environment(env))
        self._children.append(child)
        return child

    def start(
        self, function: Callable[[], T], user: User = ROOT, *, keep: Iterable[FileDescriptorLike] = ()
    ) -> Worker[T]:
        """Start a function in a forked child inside, as a user.

        It ends with the thread that calls this, as a command does that is spawned.

        What the test has open is closed there, so that what the test closes is closed. The function can use the
        sockets, pipes and files in ``keep``, which stay open as long as it runs.
        """
        self.require(user)
        return Worker(function, self.entrance, user, keep)

    def call(self, function: Callable[[], T], user: User = ROOT) -> T:
        """Call a function in a forked child inside, as a user; its result has to be picklable.

        The function can use whatever the test has open, which waits for it.

        Raises:
            WorkerError: it raised; the text is its traceback.
        """
        self.require(user)
        return Worker(function, self.entrance, user, keep=None).result()

    def open_socket(self, family: int, kind: int, user: User = ROOT) -> socket.socket:
        """A socket of the namespace that belongs to a user, to be used from here; closed with the namespace."""
        here, there = socket.socketpair()

        def make_and_send() -> None:
            with socket.socket(family, kind) as made:
                socket.send_fds(there, [b"socket"], [made.fileno()])

        with here, there:
            self.call(make_and_send, user)
            descriptor = socket.recv_fds(here, 16, 1)[1][0]
        return self.adopt(socket.socket(fileno=descriptor))

    def adopt(self, connection: socket.socket) -> socket.socket:
        """Close this socket with the namespace."""
        self._sockets.append(connection)
        return connection

    def write_etc(self, name: str, text: str) -> None:
        """Give the namespace a file below /etc of its own: commands inside find it there (ip-netns(8)).

        Raises:
            ValueError: that is no name of a file.
        """
        if Path(name).name != name:
            raise ValueError(f"a file below /etc is given by its name alone, not {name!r}")
        self._etc.mkdir(parents=True, exist_ok=True)
        (self._etc / name).write_text(text)

    def write_resolv_conf(self, *servers: str) -> None:
        """Name these servers in the namespace's resolv.conf."""
        self.write_etc("resolv.conf", "".join(f"nameserver {server}\n" for server in servers))

    def outside(self, user: User) -> User:
        """The ids by which the test's own process knows a user of the user namespace that owns this one.

        Raises:
            ValueError: there is no such user.
        """
        return user if self.owner is None else self.owner.outside(user)

    def require(self, user: User) -> None:
        """Check that a user exists here.

        Raises:
            Unavailable: it does not, as nothing but root's ids is mapped in this user namespace.
        """
        if self._keeper is not None:
            self._keeper.require(user)

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a command inside: the test's own, or what is given, and what tells whose it is."""
        made = {**(os.environ if env is None else env), SAYING_SO: leftovers.token()}
        if self._keeper is not None:
            # The lock that the iptables programs share belongs to the machine's root.
            made.setdefault("XTABLES_LOCKFILE", str(leftovers.directory() / "xtables.lock"))
        return made


IFNAME_FLAGS = struct.Struct("16sH14x")
"""The ifreq of an interface's flags: netdevice(7)."""

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def _begin() -> None:
    """What a namespace is like from the start; in this process, as each program costs as much as the whole of it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        found = fcntl.ioctl(any_socket, SIOCGIFFLAGS, IFNAME_FLAGS.pack(b"lo", 0))
        flags = IFNAME_FLAGS.unpack(found)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, IFNAME_FLAGS.pack(b"lo", flags | IFF_UP))
    _forward_nothing()


def _forward_nothing() -> None:
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        # Containers may have /proc/sys read-only.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net", name).write_text("0")


def _remove(name: str) -> None:
    if not keeping.is_kept(name):
        leftovers.remove(name)


def _add_name(name: str, holder: int | None) -> None:
    try:
        run("ip", "netns", *(["add", name] if holder is None else ["attach", name, str(holder)]))
    except CommandError as error:
        raise Unavailable(f"network namespaces cannot be made here: {error}") from None
