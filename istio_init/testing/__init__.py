"""A kit for tests of redirection in real network namespaces, with real traffic. See docs/testing.md.

The names here are what tests of other projects use; each is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.family import Family
    from istio_init.testing.entering import ROOT, User
    from istio_init.testing.expectations import Attempt, Sender
    from istio_init.testing.namespaces import Namespace
    from istio_init.testing.owners import Owner, Unavailable
    from istio_init.testing.pods import APP, PROXY, Mesh, Pod
    from istio_init.testing.processes import CommandError, Worker, WorkerError
    from istio_init.testing.traffic import Accepted, Datagrams, Endpoint, Listener, ask, connect, talk
    from istio_init.testing.watching import Arrival

_HOMES = {
    "istio_init.netfilter.family": ("Family",),
    "istio_init.testing.entering": ("ROOT", "User"),
    "istio_init.testing.expectations": ("Attempt", "Sender"),
    "istio_init.testing.namespaces": ("Namespace",),
    "istio_init.testing.owners": ("Owner", "Unavailable"),
    "istio_init.testing.pods": ("APP", "PROXY", "Mesh", "Pod"),
    "istio_init.testing.processes": ("CommandError", "Worker", "WorkerError"),
    "istio_init.testing.traffic": ("Accepted", "Datagrams", "Endpoint", "Listener", "ask", "connect", "talk"),
    "istio_init.testing.watching": ("Arrival",),
}

__all__ = [
    "APP",
    "PROXY",
    "ROOT",
    "Accepted",
    "Arrival",
    "Attempt",
    "CommandError",
    "Datagrams",
    "Endpoint",
    "Family",
    "Listener",
    "Mesh",
    "Namespace",
    "Owner",
    "Pod",
    "Sender",
    "Unavailable",
    "User",
    "Worker",
    "WorkerError",
    "ask",
    "connect",
    "talk",
]


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
