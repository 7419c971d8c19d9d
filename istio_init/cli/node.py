"""Looks at every network namespace of this node, and only looks."""

from __future__ import annotations

import os

from istio_init.errors import IstioInitError, NamespaceError
from istio_init.inspector.explain import explain
from istio_init.observe.namespace import observe
from istio_init.report.ps_row import PsRow, ps_row, unreadable_row
from istio_init.system import namespaces, places
from istio_init.system.places import Place
from istio_init.system.pods import PodNamespace, pod_namespaces
from istio_init.system.workers import spread

SECONDS = 60
"""For one namespace."""

MEMORY = 4 << 30
"""Bytes of address space for one namespace, the interpreter's own among them."""


def scan() -> list[PsRow]:
    """The namespaces in which a process lives, by its age; one that cannot be read is there with the reason."""
    pods = pod_namespaces()
    processors = len(os.sched_getaffinity(0))
    results = spread(len(pods), lambda n: _row(pods[n]), workers=processors, seconds=SECONDS, memory=MEMORY)
    return [
        unreadable_row(pod, result) if isinstance(result, IstioInitError) else result
        for pod, result in zip(pods, results, strict=True)
        if result is not None
    ]


def _row(pod: PodNamespace) -> PsRow | None:
    """The line of a namespace; None where its processes ended meanwhile, and it with them."""
    place = _enterable(pod)
    if place is None:
        return None
    try:
        snapshot = namespaces.call_in(place.replace(userns=None), lambda: observe(place, pod.processes, versions=False))
    finally:
        place.close()
    return ps_row(pod, explain(snapshot, with_impacts=False))


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
