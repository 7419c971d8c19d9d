"""Regions of traffic in words, as short as they allow."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, summarize_address_range

from istio_init.model.netfilter import Family
from istio_init.trace.intervals import difference
from istio_init.trace.space import DESTINATION, DPORT, GID, INTERFACE, MARK, PROTOCOL, SOURCE, SPORT, UID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.trace.classes import TrafficClass
    from istio_init.trace.engine import Outcome
    from istio_init.trace.intervals import Intervals
    from istio_init.trace.partition import Decider
    from istio_init.trace.space import Region, Space

LISTED = 6
"""Values that are named; the rest is counted."""

_HEADS = {PROTOCOL: "", DESTINATION: "to ", DPORT: "port ", UID: "user ", GID: "group ", SOURCE: "from ",
          SPORT: "from port ", MARK: "mark ", INTERFACE: "by "}  # fmt: skip


def outcome_words(outcome: Outcome) -> str:
    """For example ``to port 15001``, ``direct``, ``dropped``."""
    if outcome.kind in ("redirect", "tproxy"):
        kept = ", addresses kept" if outcome.kind == "tproxy" else ""
        return f"to port {outcome.port}{kept}"
    return {"direct": "direct", "drop": "dropped"}.get(outcome.kind, "cannot tell")


def region_words(space: Space, region: Region) -> str:
    """What the packets of a region have in common; ``all other`` limits are left out."""
    parts = []
    for dimension, head in _HEADS.items():
        whole, found = space.whole[dimension], region[dimension]
        if found == whole:
            continue
        rest = difference(whole, found)
        if _length(space, dimension, rest) < _length(space, dimension, found):
            parts.append(f"not {head}{_values(space, dimension, rest)}")
        else:
            parts.append(f"{head}{_values(space, dimension, found)}")
    return ", ".join(parts) or "everything"


def class_words(space: Space, found: TrafficClass) -> list[str]:
    """One line for each region of a class, the shortest first."""
    return sorted((region_words(space, region) for region in found.regions), key=len)


def decider_words(decider: Decider | None) -> str:
    """The rule that decides, for example ``nat ISTIO_INBOUND 2-4``."""
    if decider is None:
        return "no rule takes it"
    numbers = str(decider.first) if decider.first == decider.last else f"{decider.first}-{decider.last}"
    return f"{decider.table.value} {decider.chain} {numbers}"


def _length(space: Space, dimension: int, found: Intervals) -> int:
    if dimension in (PROTOCOL, INTERFACE):
        # A list that names the stand-in for all others says less than its complement.
        last = space.whole[dimension][0][1]
        return sum(high - low + 1 for low, high in found) + (1000 if found and found[-1][1] == last else 0)
    return len(found) + 1000 * any(high - low > 2**24 for low, high in found)


def _values(space: Space, dimension: int, found: Intervals) -> str:
    if dimension in (PROTOCOL, INTERFACE):
        names = space.protocols if dimension == PROTOCOL else space.interfaces
        texts = [names[number] for low, high in found for number in range(low, high + 1)]
        texts = ["any other" if name == names[-1] else name for name in texts]
    elif dimension in (DESTINATION, SOURCE):
        texts = [text for low, high in found[: LISTED + 1] for text in _networks(space.family, low, high)]
        texts += [""] * max(0, len(found) - LISTED - 1)
    else:
        texts = [str(low) if low == high else f"{low}-{high}" for low, high in found]
    more = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return ", ".join(texts[:LISTED]) + more


def _networks(family: Family, low: int, high: int) -> list[str]:
    found: list[IPv4Network] | list[IPv6Network]
    if family is Family.IPV4:
        found = list(summarize_address_range(IPv4Address(low), IPv4Address(high)))
    else:
        found = list(summarize_address_range(IPv6Address(low), IPv6Address(high)))
    if len(found) > 3:
        return [f"{found[0].network_address}-{found[-1].broadcast_address}"]
    return [str(each.network_address) if each.prefixlen == each.max_prefixlen else str(each) for each in found]
