"""What a pod asked for, in words."""

from __future__ import annotations

from istio_init.inspector.arguments import Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.config.asked import Words
    from istio_init.inspector.asked import Held

LONGEST = 400
"""Characters of the arguments that are shown; --format json has all."""


def asked_lines(held: Held | None) -> Iterator[str]:
    """Where it comes from, what it is, and what is to be said of it; nothing where nobody asked for anything."""
    if held is None:
        return
    asked = held.asked
    called = f"; the pod calls itself {asked.name}" if asked.name else ""
    yield f"Asked for by: {asked.source}{called}"
    if asked.problem is not None:
        yield f"no rules can be made of it: {asked.problem}"
    if held.words is not None:
        text = command_line(held.words)
        yield text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
    yield from asked.notes
    if held.unasked is not None:
        yield f"not asked for by the pod, but in the rules: {held.unasked}; a setting of the mesh, or a change by hand"


def command_line(words: Words) -> str:
    """As a shell takes it."""
    command = ("istio-init", "apply") if words.argv[:1] == ("--ambient",) else ("istio-iptables",)
    return " ".join(Arguments(words.argv, words.env).words(*command))


def equal_words(held: Held | None) -> str:
    """That the rules are what they should be."""
    if held is None:
        return "the rules are those of the expected configuration"
    if held.asked.asks_nothing:
        return "the pod asked for no redirection, and there is none"
    return "the rules are those that were asked for"


def repair_words(held: Held | None) -> str:
    """What a command that takes the drift away does."""
    if held is None:
        return "This makes the rules those that are expected:"
    return "This makes the rules those that the pod says it asked for; compare them with its manifest:"
