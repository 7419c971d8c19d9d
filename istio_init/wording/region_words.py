"""Regions of traffic in words, as short as they allow."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, summarize_address_range

from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import Rule
from istio_init.netfilter.family import Family
from istio_init.space.cover import covering
from istio_init.space.intervals import difference, size
from istio_init.space.space import DESTINATION, DPORT, GID, INTERFACE, MARK, NO_ID, PROTOCOL, SOURCE, SPORT, UID
from istio_init.visible import visible
from istio_init.wording.words import conditions, phrases

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.space.classes import Fate
    from istio_init.space.intervals import Intervals
    from istio_init.space.pieces import Decider
    from istio_init.space.space import Region, Space
    from istio_init.trace.engine import Outcome

LISTED = 6
"""Values that are named; the rest is counted."""

MANY = 1000
"""What a text counts for that says less than its opposite."""

_HEADS = {PROTOCOL: "", DESTINATION: "to ", DPORT: "port ", UID: "user ", GID: "group ", SOURCE: "from ",
          SPORT: "from port ", MARK: "mark ", INTERFACE: "by "}  # fmt: skip

_NUMBERED = (PROTOCOL, INTERFACE, MARK)
"""Dimensions whose numbers stand for names; the last one of protocols and interfaces for all others."""


def outcome_words(outcome: Outcome) -> str:
    """For example ``to port 15001``, ``direct``, ``dropped``."""
    if outcome.kind in ("redirect", "tproxy"):
        kept = ", addresses kept" if outcome.kind == "tproxy" else ""
        return f"to port {outcome.port}{kept}" if outcome.port is not None else "to this machine, port kept"
    return {"direct": "direct", "drop": "dropped"}.get(outcome.kind, "cannot tell")


def fate_words(fate: Fate, beside: Fate) -> str:
    """A fate, and of its marks those in which it differs from another."""
    words = outcome_words(fate.outcome)
    if fate.how != beside.how and fate.how is not None and fate.outcome == beside.outcome:
        words += f" ({visible(rule_text(fate.how))})"
    if fate.mark != beside.mark and fate.outcome == beside.outcome:
        words += " with its mark" if fate.mark is None else f" with mark {fate.mark:#x}"
    if fate.connmark != beside.connmark and fate.outcome == beside.outcome:
        words += f" with connection mark {fate.connmark:#x}"
    return words


def region_words(space: Space, region: Region) -> str:
    """What the packets of a region have in common; limits that are none are left out."""
    parts = []
    for dimension, head in _HEADS.items():
        whole, found = space.whole[dimension], region[dimension]
        if found == whole:
            continue
        rest = difference(whole, found)
        if _length(space, dimension, rest) < _length(space, dimension, found):
            parts.append(_negated(head, _values(space, dimension, rest)))
        else:
            parts.append(_listed(head, _values(space, dimension, found)))
    for (match, table, hook), found in zip(space.unknown, region[len(_HEADS) :], strict=True):
        if size(found) == 1:
            answer = "holds" if found[0][0] else "does not hold"
            text = visible(conditions(phrases(Rule(matches=(match,)))))
            parts.append(f"where “{text}” {answer} in {table.value} {hook}")
    return ", ".join(parts) or "everything"


def condition_words(space: Space, regions: tuple[Region, ...]) -> list[str]:
    """What the packets of some regions have in common, one line for each way, the shortest first."""
    return sorted((region_words(space, region) for region in covering(space, regions)), key=len)


def decider_words(decider: Decider | None) -> str:
    """The rule that decides, for example ``nat ISTIO_INBOUND 2-4``."""
    if decider is None:
        return "no rule takes it"
    numbers = str(decider.first) if decider.first == decider.last else f"{decider.first}-{decider.last}"
    return f"{decider.table.value} {visible(decider.chain)} {numbers}"


def _listed(head: str, texts: list[str]) -> str:
    more = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return f"{head}{' or '.join(texts) if len(texts) == 2 else ', '.join(texts[:LISTED])}{more}"


def _negated(head: str, texts: list[str]) -> str:
    if len(texts) == 2:
        return f"{head}neither {texts[0]} nor {texts[1]}"
    return f"not {_listed(head, texts)}"


def _length(space: Space, dimension: int, found: Intervals) -> int:
    """How long a text is that names these values."""
    if dimension in _NUMBERED:
        # A list that names the stand-in for all others says less than its complement.
        last = space.whole[dimension][-1][1]
        others = dimension == MARK and any(
            space.marks.is_vague(number) for low, high in found for number in range(low, high + 1)
        )
        return size(found) + MANY * (others or (dimension != MARK and found[-1][1] == last))
    return len(found) + MANY * any(high - low > 2**24 for low, high in found)


def _values(space: Space, dimension: int, found: Intervals) -> list[str]:
    if dimension in _NUMBERED:
        every = [number for low, high in found for number in range(low, high + 1)]
        if dimension == MARK:
            return [space.marks.text(number) for number in every]
        names = [*space.protocols.names[:-1], "any other"] if dimension == PROTOCOL else space.interfaces.texts
        return [visible(names[number]) for number in every]
    if dimension in (DESTINATION, SOURCE):
        texts = [text for low, high in found[: LISTED + 1] for text in _networks(space.family, low, high)]
        return texts + [""] * max(0, len(found) - LISTED - 1)
    return [_numbers(dimension, low, high) for low, high in found]


def _numbers(dimension: int, low: int, high: int) -> str:
    if dimension in (UID, GID) and high == NO_ID:
        nobody = "no socket's"
        return nobody if low == NO_ID else f"{low} and above"
    return str(low) if low == high else f"{low}-{high}"


def _networks(family: Family, low: int, high: int) -> list[str]:
    found: list[IPv4Network] | list[IPv6Network]
    if family is Family.IPV4:
        found = list(summarize_address_range(IPv4Address(low), IPv4Address(high)))
    else:
        found = list(summarize_address_range(IPv6Address(low), IPv6Address(high)))
    if len(found) > 3:
        return [f"{found[0].network_address}-{found[-1].broadcast_address}"]
    return [str(each.network_address) if each.prefixlen == each.max_prefixlen else str(each) for each in found]
