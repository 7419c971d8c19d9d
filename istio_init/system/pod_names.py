"""What pods are called, by what their own processes say of themselves.

None of it is believed: a name that two namespaces claim belongs to neither. A process is pinned by its directory in
/proc before anything is read, and read in a child that has a time to do so, as its memory may be anybody's file.
"""

from __future__ import annotations

import os
import re
import time

from istio_init.errors import IstioInitError
from istio_init.system import rooted, waiting
from istio_init.system.pinned import PROXIES, beginning, pinned, variables
from istio_init.system.pods import container_of
from istio_init.system.rooted import read_beneath
from istio_init.system.workers import bytes_within, spread
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.system.pods import PodNamespace
    from istio_init.system.processes import Process

NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
"""What Kubernetes accepts as the name of a pod (RFC 1123)."""

NAMESPACE = re.compile(r"(?=.{1,63}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?")

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
"""Where the kubelet writes a pod's namespace, for containers that may talk to the API server."""

WANTED = ("POD_NAME", "POD_NAMESPACE", "HOSTNAME")
LONGEST = 128 << 10
"""Bytes of an environment that are looked through."""

LONGEST_LINE = 1024

MOST = 8
"""Processes of a namespace that are asked."""

PATIENCE = 4
"""Seconds for the processes of one namespace."""

IN_ALL = 10.0
"""Seconds for all namespaces; names of those that are not reached by then are not known."""

INITIAL_UTS = 0xEFFFFFFE
"""The machine's own (linux/proc_ns.h)."""


class Claim(Value):
    """The name that a process says its pod has."""

    name: str
    namespace: str | None
    pid: int

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def claims(pods: list[PodNamespace]) -> list[tuple[Claim, ...]]:
    """The names that the processes of each namespace claim, the most likely first."""
    return [each or () for each in answers(pods)]


def answers(pods: list[PodNamespace]) -> list[tuple[Claim, ...] | None]:
    """The same; None where it could not be found out in time, which anybody in there can bring about."""
    until = time.monotonic() + IN_ALL

    def one(number: int) -> tuple[Claim, ...] | None:
        if time.monotonic() > until or waiting.is_known(pods[number].inode):
            return None
        with waiting.asking(pods[number].inode):
            return claims_of(pods[number])

    def asked(number: int) -> tuple[int, bool]:
        return pods[number].inode, False

    found = spread(len(pods), one, workers=len(os.sched_getaffinity(0)), seconds=PATIENCE, asked=asked)
    return [None if isinstance(each, IstioInitError) else each for each in found]


def claims_of(pod: PodNamespace) -> tuple[Claim, ...]:
    """The names that the processes of one namespace claim. To be called in a child: memory of others may never come."""
    is_shared = pod.inode in (_inode("/proc/1/ns/net"), _inode("/proc/thread-self/ns/net"))
    found: dict[tuple[str, str | None], Claim] = {}
    for process in _asked(pod.processes, only_containers=is_shared):
        for claim in _claims(process, pod.inode):
            found.setdefault((claim.name, claim.namespace), claim)
    whole = {claim.name for claim in found.values() if claim.namespace}
    return tuple(each for each in found.values() if each.namespace or each.name not in whole)


def _asked(processes: Iterable[Process], *, only_containers: bool) -> list[Process]:
    """One process of each container, and those that are in none, proxies first."""
    ordered = sorted(enumerate(processes), key=lambda item: (item[1].name not in PROXIES, item[0]))
    found: dict[str | int, Process] = {}
    for _, each in ordered:
        if len(found) == MOST:
            break
        container = container_of(each.pid)
        if container is not None or not only_containers:
            found.setdefault(container or each.pid, each)
    return list(found.values())


def _claims(process: Process, inode: int) -> Iterator[Claim]:
    """By the variables that are made for it, and by the host name of a container."""
    with pinned(process.pid) as at:
        if at is not None and _inode(f"{at}/ns/net") == inode:
            yield from _claims_at(at, process.pid)


def _claims_at(at: str, pid: int) -> Iterator[Claim]:
    found = _environment(at)
    names = [found.get("POD_NAME")]
    if _has_own_host_name(at):
        names.append(found.get("HOSTNAME") or _line(at, "/etc/hostname"))
    named = dict.fromkeys(each for each in names if each and NAME.fullmatch(each))
    if not named:
        return
    space = found.get("POD_NAMESPACE") or _line(at, ACCOUNT)
    space = space if space and NAMESPACE.fullmatch(space) else None
    for name in named:
        yield Claim(name, space, pid)


def _environment(at: str) -> dict[str, str]:
    try:
        return variables(beginning(f"{at}/environ", LONGEST), WANTED)
    except OSError:
        return {}


def _has_other_root(at: str) -> bool:
    """Whether a process has neither our root nor the machine's. To look at it may never end."""
    return _identity(f"{at}/root") not in (None, _identity("/"), _identity("/proc/1/root"))


def _has_own_host_name(at: str) -> bool:
    ours = {INITIAL_UTS, _inode("/proc/self/ns/uts"), _inode("/proc/1/ns/uts")}
    return _inode(f"{at}/ns/uts") not in {*ours, None}


def _line(at: str, path: str) -> str | None:
    """The line of a file beneath the root of a process, where it has one of its own."""

    def read() -> bytes | None:
        return read_beneath(f"{at}/root", path, LONGEST_LINE) if _has_other_root(at) else None

    data = bytes_within(rooted.PATIENCE, read, most=LONGEST_LINE, keep=rooted.descriptor(at))
    return data.decode(errors="replace").strip() if data else None


def _inode(path: str) -> int | None:
    found = _identity(path)
    return found[1] if found else None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
