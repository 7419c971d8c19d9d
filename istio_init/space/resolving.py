"""Values that are told in terms of what dimensions are, in terms of what they were before that."""

from __future__ import annotations

from istio_init.space.bits import apart
from istio_init.space.diagram import Moved, Unknown
from istio_init.space.ways import Parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.space.diagram import Substitute


def resolved_parts(value: int | Parts | None, before: dict[int, Substitute]) -> int | Parts | None:
    """The same of a number in parts: one number where all of them are known."""
    if not isinstance(value, Parts):
        return value
    return joint((mask, resolved(part, before)) for mask, part in value.values)


def joint(parts: Iterable[tuple[int, Substitute]]) -> int | Parts:
    """One number of its parts, if they are known."""
    values = tuple(parts)
    known = [apart(part, mask) for mask, part in values if isinstance(part, int)]
    return sum(known) if len(known) == len(values) else Parts(values)


def resolved_change(change: tuple[int, Substitute], before: dict[int, Substitute]) -> tuple[int, Substitute]:
    """A change in terms of what dimensions were before; the same object where that is the same."""
    dim, value = change
    return (dim, resolved(value, before)) if isinstance(value, Moved) else change


def is_same(dim: int, value: Substitute) -> bool:
    """Whether a dimension's number is what it was."""
    return isinstance(value, Moved) and value.dim == dim and not value.flipped


def resolved(value: Substitute, before: dict[int, Substitute]) -> Substitute:
    """A value that is told in terms of what dimensions are, in terms of what they were before that."""
    if not isinstance(value, Moved) or value.dim not in before:
        return value
    found = before[value.dim]
    if isinstance(found, int):
        return found ^ value.flipped
    return found if isinstance(found, Unknown) else Moved(found.dim, found.flipped ^ value.flipped)
