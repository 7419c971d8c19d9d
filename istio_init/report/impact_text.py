"""What becomes of a pod's traffic, in a line for each kind of it."""

from __future__ import annotations

from istio_init.inspector.impact import REFUSED, UNREAD, by_kind
from istio_init.wording.outcomes import Word
from istio_init.wording.regions import decider_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.inspector.impact import Impact, Part

SHOWN = 4
"""Parts of one kind of traffic that are named, and conditions of one part."""

NO_RULE = decider_words(None)
GOOD, BAD, DOUBTFUL = "green", "red", "yellow"
_BAD = frozenset([REFUSED, Word.DROPPED.value, Word.REJECTED.value])


def impact_lines(impacts: Iterable[Impact], *, is_captured: bool) -> list[tuple[str, str]]:
    """Each line with its style; families in which the same happens share one. ``is_captured``: a mesh's rules exist."""
    found = []
    for traffic, each in by_kind(impacts).items():
        shared: dict[tuple[object, ...], list[Impact]] = {}
        for impact in each:
            shared.setdefault(_same(impact), []).append(impact)
        for alike in shared.values():
            names = "" if len(shared) == 1 else f", {' and '.join(impact.family.value for impact in alike)}"
            found.append((f"{traffic.value}{names}: {_words(alike[0])}", _style(alike[0], is_captured=is_captured)))
    return found


def _same(impact: Impact) -> tuple[object, ...]:
    return tuple((part.word, part.said, part.conditions) for part in impact.parts), impact.is_sampled


def _words(impact: Impact) -> str:
    main, *rest = impact.parts
    said = main.said
    if not rest:
        every = "" if main.word == Word.UNDECIDABLE.value else "all "
        said = said if main.is_proxied or main == UNREAD or main.by == NO_RULE else f"{every}{said} ({main.by})"
    else:
        others = [f"{_which(part)} {part.said} ({part.by})" for part in rest[:SHOWN]]
        more = [f"and {len(rest) - SHOWN} parts more"] if len(rest) > SHOWN else []
        said += f"{'' if main.is_proxied else f' ({main.by})'}, but {'; '.join([*others, *more])}"
    return f"{said}; of ordinary connections, as there are too many rules for a map" if impact.is_sampled else said


def _which(part: Part) -> str:
    if not part.conditions:
        return "some"
    more = len(part.conditions) - SHOWN
    listed = ", or ".join(part.conditions[:SHOWN])
    return f"{listed}{f', or {more} conditions more' if more > 0 else ''}:"


def _style(impact: Impact, *, is_captured: bool) -> str:
    """By what becomes of most of it; what is lost or undecidable of the rest makes it doubtful."""
    words = {part.word for part in impact.parts}
    main = impact.parts[0]
    escapes = is_captured and impact.traffic.name != "DNS" and main.word == Word.DIRECT.value
    if main.word in _BAD or main.is_misled or escapes:
        return BAD
    if words & _BAD or Word.UNDECIDABLE.value in words or any(part.is_misled for part in impact.parts):
        return DOUBTFUL
    return GOOD if main.is_proxied else ""
