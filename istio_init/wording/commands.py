"""Commands to paste: each is whole, on one line, and names what it is to work on."""

from __future__ import annotations

from shlex import join

Target = tuple[str, ...]
"""The words that name a namespace, files or a configuration to a command of ours; none for the namespace we are in."""


def ours(*words: str, target: Target = ()) -> str:
    """A command of ``istio-init``, as a shell takes it."""
    return join(["istio-init", *words, *target])


def inside(target: Target, *words: str) -> str:
    """Another program's command in the network namespace that a target names."""
    match target:
        case ("--pid", pid):
            return join(["nsenter", "--target", pid, "--net", *words])
        case ("--netns", path) if "/" in path:
            return join(["nsenter", f"--net={path}", *words])
        case ("--netns", name):
            return join(["ip", "netns", "exec", name, *words])
    return join(words)
