"""The sets of ipset(8) that iptables rules look addresses up in, from the text that ``ipset save`` prints."""

from __future__ import annotations

from istio_init.dialects.iptables.quoting import words
from istio_init.value import Value

_FLAGS = frozenset(["counters", "comment", "skbinfo", "forceadd"])
"""Options of ``create`` that have no value."""

_ELEMENT_FLAGS = frozenset(["nomatch", "wildcard"])


class IpSetError(ValueError):
    """The text is not what ``ipset save`` prints; the message names the line."""


class Element(Value):
    """An element: its parts as written, one a dimension, and its extensions (``nomatch``, ``skbmark``, ``timeout``)."""

    parts: tuple[str, ...]
    extensions: tuple[tuple[str, str], ...] = ()

    def extension(self, name: str) -> str | None:
        """The value of an extension, "" for one that has none; None where the element does not have it."""
        return dict(self.extensions).get(name) if self.extensions else None


class IpSet(Value):
    """A set. ``options`` are those that it was created with; elements stand in the order of the text."""

    name: str
    type: str
    elements: tuple[Element, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What its elements consist of: ``ip``, ``net``, ``port``, ``iface``, ``mark``, ``mac``, ``set``."""
        return tuple(self.type.partition(":")[2].split(","))

    def option(self, name: str) -> str | None:
        """The value of an option, None where the set was created without it."""
        return dict(self.options).get(name)


def parse_ipset_save(text: str) -> dict[str, IpSet]:
    """The sets by their names.

    Raises:
        IpSetError: a line is neither empty, nor a comment, nor creates a set or adds to one that the text created.
    """
    found: dict[str, IpSet] = {}
    elements: dict[str, list[Element]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        parts = words(line, "comment")
        match parts:
            case []:
                continue
            case [first, *_] if first.startswith("#"):
                continue
            case ["create", name, kind, *rest] if ":" in kind:
                found[name] = IpSet(name, kind, (), _pairs(rest, _FLAGS))
                elements[name] = []
            case ["add", name, element, *rest] if name in found:
                elements[name].append(Element(tuple(element.split(",")), _pairs(rest, _ELEMENT_FLAGS)))
            case _:
                raise IpSetError(f"line {number}: not a line of ipset save: {line!r}")
    return {name: each.replace(elements=tuple(elements[name])) for name, each in found.items()}


def _pairs(rest: list[str], flags: frozenset[str]) -> tuple[tuple[str, str], ...]:
    found = []
    left = iter(rest)
    for word in left:
        found.append((word, "" if word in flags else next(left, "")))
    return tuple(found)
