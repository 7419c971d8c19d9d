"""What the shell offers where a target is to be typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from istio_init.errors import IstioInitError

F = TypeVar("F", bound=Callable[..., Any])
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

PLAIN = re.compile(r"[A-Za-z0-9._+-]+")
"""Names that no shell reads anything into."""

MOST = 500


def target_argument(*, files: bool, several: bool = False) -> Callable[[F], F]:
    """The argument TARGET of a command, a list of it where there may be ``several``."""
    complete = complete_target(files=files)
    if several:
        return click.argument("target", nargs=-1, metavar="[TARGET]...", shell_complete=complete)
    return click.argument("target", required=False, metavar="[TARGET]", shell_complete=complete)


def complete_target(*, files: bool) -> Complete:
    """Pods and namespaces by name, processes and containers once a number is begun, and files."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(value, help=what) for value, what in _targets(incomplete)]
        is_path = files or incomplete.startswith(("/", "."))
        return [*found[:MOST], *([CompletionItem(incomplete, type="file")] if is_path else [])]

    return complete


def complete_netns(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Network namespaces by name, or by path."""
    found = [CompletionItem(name) for name in _names() if name.startswith(incomplete)]
    return found if found or "/" not in incomplete else [CompletionItem(incomplete, type="file")]


def complete_pid(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The oldest process of each network namespace."""
    from istio_init.system.pods import pod_namespaces

    return [
        CompletionItem(str(pod.pid), help=_plain(pod.processes[0].name))
        for pod in pod_namespaces()
        if str(pod.pid).startswith(incomplete)
    ]


def _targets(incomplete: str) -> Iterator[tuple[str, str]]:
    from istio_init.system.pod_names import claims
    from istio_init.system.pods import pod_namespaces

    if incomplete.startswith(("/", ".")):
        return
    try:
        pods = pod_namespaces()
        named = list(zip(pods, claims(pods), strict=True))
    except (IstioInitError, OSError):
        named = []
    for pod, its in named:
        for each in its:
            if str(each).startswith(incomplete) or (incomplete and each.name.startswith(incomplete)):
                yield str(each), f"pod, pid {pod.pid}"
    for name in _names():
        if name.startswith(incomplete):
            yield name, "network namespace"
    for pod, _ in named if incomplete else ():
        if str(pod.pid).startswith(incomplete):
            yield str(pod.pid), _plain(pod.processes[0].name)
        if pod.container is not None and pod.container.startswith(incomplete):
            yield pod.container[:12], "container"


def _names() -> list[str]:
    from istio_init.system.lookup import netns_names

    return [name for name in netns_names() if PLAIN.fullmatch(name)]


def _plain(name: str) -> str:
    """A process's name where it is a plain one: it is its own choice."""
    return name if PLAIN.fullmatch(name) else "process"
