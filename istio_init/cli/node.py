"""Looks at every network namespace of this node, and only looks."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from istio_init.errors import IstioInitError, NamespaceError, ToolError
from istio_init.inspector.explain import Explanation, explain
from istio_init.observe.namespace import observe
from istio_init.observe.rules import Kept
from istio_init.report.ps_row import STATES, PsRow, ps_row, unreadable_row
from istio_init.system import namespaces, places, waiting
from istio_init.system.places import Place
from istio_init.system.pod_names import Claim, answers
from istio_init.system.pods import PodNamespace, hidden, hides_processes, pod_namespaces
from istio_init.system.privileges import capabilities
from istio_init.system.workers import spread
from istio_init.value import Value
from istio_init.wording.commands import Target
from istio_init.wording.words import counted

T = TypeVar("T")

SECONDS = 60
"""For one namespace."""

IN_ALL = 600
"""Seconds for all of them, after which none is begun."""

MEMORY = 4 << 30
"""Bytes of address space for one namespace, the interpreter's own among them."""

MANY = 8
"""Namespaces from which on one wants to see how far it is."""


Names = dict[int, tuple[Claim, ...]]
"""What the processes of each namespace said last."""

Make = Callable[[PsRow, Explanation], object]
"""Makes something that can be pickled."""


class Entry(Value):
    """One namespace's row, and what was made of its explanation; None where it could not be read."""

    row: PsRow
    more: object = None


def scan(*, quiet: bool = False, names: Names | None = None) -> list[PsRow]:
    """The namespaces in which a process lives, those in trouble first; one that cannot be read has the reason.

    One that does not say its name this time has that which ``names`` holds, where all names are put.
    """
    found = entries(lambda row, explanation: None, with_impacts=False, quiet=quiet, names=names)
    return [entry.row for entry in found]


def entries(
    make: Make,
    *,
    with_impacts: bool,
    ignore: frozenset[str] = frozenset(),
    quiet: bool = False,
    names: Names | None = None,
) -> list[Entry]:
    """The same, each with what ``make`` makes of its explanation, which lacks findings with codes in ``ignore``."""
    # Anybody on the node can make namespaces, and only the runtime containers: these do not wait for those.
    pods = sorted(pod_namespaces(), key=lambda pod: pod.container is None)
    until = time.monotonic() + IN_ALL
    named = _names(pods, {} if names is None else names)
    processors = len(os.sched_getaffinity(0))

    kept = None if with_impacts else Kept()  # What is shown of rules has their own counts.

    def one(number: int) -> Entry | None:
        if waiting.is_known(pods[number].inode, wholly=True):
            raise ToolError("not answering: a process of ours still waits for its file system")
        if time.monotonic() > until:
            raise ToolError(f"not looked at: the others took {IN_ALL} s")
        with waiting.asking(pods[number].inode):
            return _entry(pods[number], named[number], make, kept, with_impacts=with_impacts, ignore=ignore)

    def asked(number: int) -> tuple[int, bool]:
        return pods[number].inode, True

    results = spread(len(pods), one, workers=processors, seconds=SECONDS, memory=MEMORY, asked=asked)
    found = [
        Entry(unreadable_row(pod, result, its)) if isinstance(result, IstioInitError) else result
        for pod, its, result in zip(pods, named, results if quiet else _shown(results, len(pods)), strict=True)
        if result is not None
    ]
    counts = Counter(name for each in found for name in each.row.names)
    marked = [each.replace(row=each.row.replace(is_shared=_is_shared(each.row, counts))) for each in found]
    return sorted(marked, key=lambda each: _order(each.row))


def _names(pods: list[PodNamespace], before: Names) -> list[tuple[Claim, ...]]:
    """What the processes of each namespace say; of one that does not answer what they said last."""
    found = [before.get(pod.inode, ()) if each is None else each for pod, each in zip(pods, answers(pods), strict=True)]
    before.clear()
    before.update({pod.inode: each for pod, each in zip(pods, found, strict=True)})
    return found


def _is_shared(row: PsRow, counts: Counter[str]) -> bool:
    """Whether another namespace claims the name that this one is shown by."""
    return row.pod is not None and counts[row.name] > 1


def _order(row: PsRow) -> tuple[object, ...]:
    return STATES.index(row.state), row.worst is None, row.pod is None, row.namespace or "", row.pod or "", row.pid


def _shown(results: Iterable[T], count: int) -> Iterator[T]:
    """The results as they come; on a terminal with how far it is, but without a thread, as children are forked."""
    if count < MANY or not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("Looking at network namespaces", total=count)
        for each in results:
            progress.update(task, advance=1, refresh=True)
            yield each


def not_seen(rows: Iterable[PsRow]) -> Iterator[str]:
    """What could not be looked at for want of a privilege, and which."""
    held = capabilities()
    count = hidden() if "SYS_PTRACE" not in held else 0
    if count:
        whose = "process" if count == 1 else "processes"
        yield f"seeing the network namespaces of {count} {whose}, which takes SYS_PTRACE, is denied"
    if "SYS_PTRACE" not in held and hides_processes():
        yield "/proc hides the processes of others (hidepid), which takes SYS_PTRACE"
    denied = sum(row.is_denied for row in rows)
    missing = [each for each in ("SYS_ADMIN", "NET_ADMIN") if each not in held]
    if denied:
        takes = f", which takes {' and '.join(missing)}," if missing else ""
        yield f"entering or reading {counted(denied, 'network namespace')}{takes} is denied"


def _entry(
    pod: PodNamespace,
    named: tuple[Claim, ...],
    make: Make,
    kept: Kept | None,
    *,
    with_impacts: bool,
    ignore: frozenset[str],
) -> Entry | None:
    """A namespace; None where its processes ended meanwhile, and it with them."""
    place = _enterable(pod)
    if place is None:
        return None
    try:
        inside = place.replace(userns=None)
        snapshot = namespaces.call_in(inside, lambda: observe(place, pod.processes, versions=False, kept=kept))
    finally:
        place.close()
    label, target = _called(pod, named)
    explanation = explain(snapshot.replace(label=label, target=target), with_impacts=with_impacts, ignore=ignore)
    row = ps_row(pod, explanation, named)
    return Entry(row, make(row, explanation))


def _called(pod: PodNamespace, named: tuple[Claim, ...]) -> tuple[str, Target]:
    label = f"{named[0]} (pid {pod.pid})" if named else f"pid {pod.pid}"
    return label, ("--pid", str(pod.pid))


def _enterable(pod: PodNamespace) -> Place | None:
    """The namespace by the oldest of its processes that still lives, and is still in it."""
    for process in pod.processes:
        try:
            place = places.of_pid(process.pid)
        except NamespaceError:
            continue
        assert place.netns is not None
        if os.fstat(place.netns).st_ino == pod.inode:
            return place
        place.close()
    return None
