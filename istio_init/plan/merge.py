"""Where the wanted rules go in a chain that also holds rules of others.

Foreign rules stay, in their order. Rules of ours that are wanted stay where they are as far as their order allows; a
missing one goes beside its neighbour in the wanted order. Without such a neighbour it goes to the top if it is to
stand first, else to the end, as in an empty namespace.
"""

from __future__ import annotations

from istio_init.mesh.roles.recognise import is_ours
from istio_init.plan.sequence import common_pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.rules import Chain, Entry


def merge(live: Chain, wanted: tuple[Entry, ...], also: tuple[str, ...] = ()) -> tuple[Entry, ...]:
    """The chain's entries as they shall be; entries that stay are the live ones themselves."""
    ours = [index for index, entry in enumerate(live.entries) if is_ours(live.name, entry, also)]
    pairs = common_pairs([live.entries[index].rule for index in ours], [entry.rule for entry in wanted])
    place = {new: ours[old] for old, new in pairs}

    before: dict[int, list[Entry]] = {}
    for index, entry in enumerate(wanted):
        if index not in place:
            before.setdefault(_slot(index, wanted, place, len(live.entries)), []).append(entry)
    leaving = set(ours) - set(place.values())
    merged: list[Entry] = []
    for index, entry in enumerate(live.entries):
        merged += before.get(index, [])
        if index not in leaving:
            merged.append(entry)
    return tuple(merged + before.get(len(live.entries), []))


def _slot(index: int, wanted: tuple[Entry, ...], place: dict[int, int], end: int) -> int:
    """The live index before which a missing entry goes, by its neighbours of the same kind."""
    first = wanted[index].first
    for neighbour in range(index - 1, -1, -1):
        if neighbour in place and wanted[neighbour].first == first:
            return place[neighbour] + 1
    if first:
        return 0
    for neighbour in range(index + 1, len(wanted)):
        if neighbour in place:
            return place[neighbour]
    return end
