"""Regions of traffic in words, as short as they allow."""

from __future__ import annotations

from istio_init.netfilter.family import MAX_MARK
from istio_init.netfilter.fields import Field, bits_of
from istio_init.netfilter.intervals import difference
from istio_init.netfilter.rules import AnyOf, Test, Undecided
from istio_init.space.ways import RuleDecider
from istio_init.trace.result import PolicyDecider, ReversePathDecider, RoutingDecider
from istio_init.visible import visible
from istio_init.wording.statements import condition_words
from istio_init.wording.traces import table_words
from istio_init.wording.values import head, value_texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.map import Regions
    from istio_init.space.regions import Region
    from istio_init.space.ways import Decider

LISTED = 6
"""Values that are named; the rest is counted."""

MOST_LINES = 2000
"""So many regions of a class are told at most."""

ORDER = (
    Field.PROTOCOL,
    Field.DESTINATION,
    Field.DPORT,
    Field.SOCKET,
    Field.UID,
    Field.GID,
    Field.SOURCE,
    Field.SPORT,
    Field.MARK,
    Field.IN_INTERFACE,
    Field.OUT_INTERFACE,
)
IDS = frozenset([Field.UID, Field.GID])
LAST_ID = 2**32 - 2
WIDE = 2**24
"""A range of so many numbers says less than what it leaves out."""


def region_words(region: Region, *, is_ipv6: bool) -> str:
    """What the packets of a region have in common."""
    rank = {field: number for number, field in enumerate(ORDER)}
    tests = sorted(region, key=lambda test: rank.get(test.field, len(rank)) if isinstance(test, Test) else len(rank))
    return ", ".join(visible(_test(test, is_ipv6=is_ipv6)) for test in tests) or "everything"


def lines(regions: Regions, *, is_ipv6: bool) -> list[str]:
    """What packets have in common, a line for each way, the shortest first."""
    told = [region_words(region, is_ipv6=is_ipv6) for region in regions.simplest(MOST_LINES)]
    more = len(regions) - MOST_LINES if len(told) == MOST_LINES else 0
    return [*sorted(dict.fromkeys(told), key=len), *([f"and {more} regions more"] if more > 0 else [])]


def decider_words(decider: Decider | None) -> str:
    """What decides, for example ``nat ISTIO_INBOUND 2-4``."""
    match decider:
        case None:
            return "no rule matches"
        case RuleDecider(rule, last):
            origin = rule.origin
            numbers = str(origin.number) if origin.number == last else f"{origin.number}-{last}"
            return f"{table_words(origin.store, origin.family, origin.table)} {visible(origin.chain)} {numbers}"
        case PolicyDecider(_, store, family, table, chain):
            return f"policy of {table_words(store, family, table)} {visible(chain)}"
        case RoutingDecider(words) | ReversePathDecider(_, words):
            return words


def mark_text(parts: tuple[tuple[int, int | None], ...], name: str = "mark") -> str:
    """What was set of a mark, for example ``mark 0x539``, ``mark 0x1/0xf``."""
    mask = sum(mask for mask, _ in parts)
    if any(value is None for _, value in parts):
        return f"another {name}"
    value = sum(value or 0 for _, value in parts)
    return f"{name} {value:#x}" if mask == MAX_MARK else f"{name} {value:#x}/{mask:#x}"


def decider_json(decider: Decider | None) -> dict[str, object] | None:
    """The rules that decide as JSON values; None where no rule does."""
    if isinstance(decider, RuleDecider):
        origin = decider.rule.origin
        return {
            "store": origin.store.value,
            "family": origin.family,
            "table": origin.table,
            "chain": origin.chain,
            "first": origin.number,
            "last": decider.last,
        }
    return None


def _test(test: Test | Undecided | AnyOf, *, is_ipv6: bool) -> str:
    if isinstance(test, Undecided):
        return f"where “{test.cause.words}” holds"
    if isinstance(test, AnyOf):
        [[answer]] = test.options
        return f"where “{condition_words(answer)}” does not hold"
    if test.field is Field.SOCKET or test.mask is not None:
        return condition_words(test, is_ipv6=is_ipv6)
    field, found = test.field, test.within
    if field is Field.UID and found == ((0, LAST_ID),):
        return "a socket"
    highest = LAST_ID if field in IDS else (1 << bits_of(field, 128 if is_ipv6 else 32)) - 1
    whole: Intervals = ((0, highest),)
    rest = difference(whole, found)
    is_negated = bool(rest) and _length(rest) < _length(found)
    texts = value_texts(field, rest if is_negated else found, is_ipv6=is_ipv6, most=LISTED)
    left = len(rest if is_negated else found) - LISTED
    more = f" and {left} more" if left > 0 else ""
    if is_negated and len(texts) == 2 and not more:
        return f"{head(field)}neither {texts[0]} nor {texts[1]}"
    listed = ", ".join(texts) if more else _either(texts)
    return f"{'not ' if is_negated else ''}{head(field)}{listed}{more}"


def _either(texts: list[str]) -> str:
    """A list of which one holds, for example ``80, 443 or 8080``."""
    return " or ".join([*([", ".join(texts[:-1])] if texts[1:] else []), *texts[-1:]])


def _length(found: Intervals) -> int:
    """How long a text is that names these values."""
    return len(found) + 1000 * any(high - low > WIDE for low, high in found)
