"""What a word can name: a process, a container, a pod, an address, a network namespace, a file."""

from __future__ import annotations

import os
import re
import stat
from difflib import get_close_matches
from ipaddress import ip_address

from istio_init.errors import PrivilegeError
from istio_init.system import living
from istio_init.system.places import RUN_NETNS
from istio_init.system.pod_names import answers
from istio_init.system.pods import addresses_of, containers_of, hidden, pod_namespaces
from istio_init.system.privileges import capabilities
from istio_init.value import Value
from istio_init.wording.words import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.system.pod_names import Claim
    from istio_init.system.pods import PodNamespace

SHORTEST_ID = 4
"""Characters of a container id that are enough to look for it."""

SHORTEST_NAME = 3
"""Characters of a pod's name that are enough, where it is not all of it."""


DIGITS = 10
"""Of a process id at most."""

LONGEST = 320
"""Characters of the longest name of a pod, with its namespace."""


class Match(Value):
    """A thing that a word names; ``option`` and ``value`` say the same so that it can be nothing else.

    ``inode`` is of its network namespace; None for a file. ``pod`` is a pod's whole name.
    """

    what: str
    option: str
    value: str
    inode: int | None = None
    pod: str | None = None


class Lookup(Value):
    """What a word names, and what kept it from being found: ``unseen`` says access to what is denied, and why.

    ``silent`` namespaces did not say in time what their pods are called.
    """

    matches: tuple[Match, ...]
    unseen: str | None = None
    near: tuple[str, ...] = ()
    silent: int = 0


def look_up(word: str, *, files: bool) -> Lookup:
    """Everything that a word can name; with ``files``, files too."""
    found = [*_processes(word), *_named(word), *(_files(word) if files else [])]
    if word.startswith(("/", "./", "../")):
        return Lookup(tuple(_distinct(found)))
    pods = pod_namespaces()
    denied: list[PrivilegeError] = []
    found += [match for pod in pods for match in _containers(word, pod)]
    found += _addresses(word, pods, denied)
    named = list(zip(pods, answers(pods), strict=True))
    found += _pods(word, named)
    distinct = tuple(_distinct(found))
    if distinct:
        return Lookup(distinct)
    silent = sum(its is None for _, its in named)
    return Lookup((), None if word.isdecimal() else _unseen(denied), _near(word, named), silent)


def _distinct(found: Iterable[Match]) -> Iterator[Match]:
    """One of several ways to name the same namespace, the plainest; a pod's name stays."""
    by_inode: dict[int, Match] = {}
    for each in found:
        if each.inode is None:
            yield each
            continue
        known = by_inode.setdefault(each.inode, each)
        if each.pod and not known.pod:
            by_inode[each.inode] = known.replace(pod=each.pod)
    yield from by_inode.values()


def _processes(word: str) -> Iterator[Match]:
    number = int(word) if word.isascii() and word.isdecimal() and len(word) <= DIGITS else 0
    if number and os.path.exists(f"/proc/{number}"):
        yield Match("a process", "--pid", str(number), _inode(f"{living.directory(number)}/ns/net"))


def _named(word: str) -> Iterator[Match]:
    """Namespaces by name, or by path."""
    if "/" not in word:
        inode = _inode(f"{RUN_NETNS}/{word}") if word not in ("", ".", "..") else None
        if inode is not None:
            yield Match("a named network namespace", "--netns", word, inode)
    elif _is_namespace(word):
        yield Match("a network namespace", "--netns", os.path.abspath(word), _inode(word))


def _files(word: str) -> Iterator[Match]:
    if word == "-":
        yield Match("standard input", "--file", word)
        return
    try:
        mode = os.stat(word).st_mode
    except (OSError, ValueError):
        return
    if (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)) and not _is_namespace(word):
        yield Match("a file", "--file", word)


def _is_namespace(path: str) -> bool:
    """Whether a path is of a namespace, which all lie on one file system of the kernel's."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except (OSError, ValueError):
        return False


def _containers(word: str, pod: PodNamespace) -> Iterator[Match]:
    if len(word) >= SHORTEST_ID and re.fullmatch(r"[0-9a-f]{1,64}", word):
        for container, pid in containers_of(pod).items():
            if container.startswith(word):
                yield Match(f"a process of container {container[:16]}", "--pid", str(pid), pod.inode)


def _addresses(word: str, pods: list[PodNamespace], denied: list[PrivilegeError]) -> Iterator[Match]:
    try:
        address = ip_address(word)
    except ValueError:
        return
    for pod in pods:
        try:
            if address in addresses_of(pod):
                yield Match("a namespace with this address", "--pid", str(pod.pid), pod.inode)
        except PrivilegeError as error:
            denied.append(error)


Named = list[tuple["PodNamespace", "tuple[Claim, ...] | None"]]


def _pods(word: str, named: Named) -> Iterator[Match]:
    """Pods by name: those that have it, and those of the workload that has it; else those whose names begin so.

    A name is but what a pod says of itself, so none hides another that could be meant; nor does it hide one that did
    not say its own.
    """
    space, slash, name = word.rpartition("/")
    name = name.removesuffix("…").removesuffix("...")
    if not name:
        return
    claimed = [(pod, each) for pod, its in named for each in its or () if not slash or each.namespace in (space, None)]
    exact = [(pod, each) for pod, each in claimed if each.name == name or each.name.startswith(f"{name}-")]
    begun = [(pod, each) for pod, each in claimed if len(name) >= SHORTEST_NAME and each.name.startswith(name)]
    meant = exact if any(each.name == name for _, each in exact) else begun
    for pod, each in meant:
        yield Match(f"pod {each}", "--pid", str(pod.pid), pod.inode, str(each))
    for pod, its in named if meant else ():
        if its is None:
            yield Match("a namespace that did not say in time what its pod is called", "--pid", str(pod.pid), pod.inode)


def _near(word: str, named: Named) -> tuple[str, ...]:
    """Names that are much like it."""
    if len(word) > LONGEST:
        return ()
    known = {form: str(each) for _, its in named for each in its or () for form in (each.name, str(each))}
    known |= {name: name for name in netns_names()}
    return tuple(dict.fromkeys(known[form] for form in get_close_matches(word, known, 3)))


def _unseen(denied: list[PrivilegeError]) -> str | None:
    """Access to what is denied, and which capability it takes."""
    many = counted(len(denied), "network namespace")
    parts = [f"entering {many}, which takes SYS_ADMIN, is denied"] if denied else []
    if "SYS_PTRACE" not in capabilities() and (count := hidden()):
        parts.append(f"looking into {count} of the processes, which takes SYS_PTRACE, is denied")
    return " and ".join(parts) or None


def netns_names() -> list[str]:
    """The names of network namespaces, as ``ip netns list`` has them."""
    try:
        return sorted(os.listdir(RUN_NETNS))
    except OSError:
        return []


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except (OSError, ValueError):
        return None
