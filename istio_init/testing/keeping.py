"""Namespaces that outlive their test, so that somebody can look at what it failed in.

They stay until the next run that makes namespaces, or until they are removed by hand.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from istio_init.testing import leftovers, processes

if TYPE_CHECKING:
    from istio_init.testing.namespaces import Namespace

_living: list[Namespace] = []
_kept: dict[str, str] = {}
"""How to enter each that is kept, by its name."""


def born(namespace: Namespace) -> None:
    """Note a namespace that was made."""
    _living.append(namespace)


def died(namespace: Namespace) -> None:
    """Note that its context has ended."""
    _living.remove(namespace)


def is_kept(name: str) -> bool:
    """Whether a namespace is to outlive its context."""
    return name in _kept


def keep_living() -> list[str]:
    """Keep every namespace that there is now; how to enter each, a line each."""
    for namespace in _living:
        if namespace.name not in _kept:
            _kept[namespace.name] = f"{namespace.label}: {shlex.join(_entering(namespace))}"
    return [_kept[namespace.name] for namespace in _living]


def _entering(namespace: Namespace) -> list[str]:
    if leftovers.is_root():
        return ["ip", "netns", "exec", namespace.name, "bash"]
    holder = processes.leave("sleep", "infinity", entrance=namespace.entrance, env=namespace.environment())
    return ["nsenter", "--preserve-credentials", "--user", "--net", "--target", str(holder), "bash"]
