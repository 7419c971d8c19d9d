"""Regions of packets, each a box: what it and others have in common, and several of them as fewer."""

from __future__ import annotations

from istio_init.netfilter.intervals import intersection, union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.intervals import Intervals

Region = dict[int, "Intervals"]
"""What lies within intervals in some dimensions; in others anywhere."""


def meeting(*regions: Region) -> Region:
    """What regions have in common."""
    found: Region = {}
    for region in regions:
        for dim, within in region.items():
            found[dim] = intersection(found[dim], within) if dim in found else within
    return found


def narrowed(region: Region, given: Region) -> Region:
    """A region for packets that are all in another one: what those pass anyhow is left out."""
    found: Region = {}
    for dim, within in region.items():
        if dim in given:
            both = intersection(within, given[dim])
            if both == given[dim]:
                continue
            within = both
        found[dim] = within
    return found


def joined(regions: list[Region]) -> list[Region]:
    """The same places in fewer regions: those that differ in one dimension alone are put together."""
    if len(regions) < 2:
        return regions
    shapes: dict[tuple[int, ...], list[Region]] = {}
    for region in regions:
        shapes.setdefault(tuple(sorted(region)), []).append(region)
    found: list[Region] = []
    for shape, alike in shapes.items():
        if len(alike) == 1 or not shape:
            found.append(alike[0])
            continue
        varying = max(shape, key=lambda dim: len({region[dim] for region in alike}))
        groups: dict[tuple[object, ...], list[Region]] = {}
        for region in alike:
            groups.setdefault(tuple([region[dim] for dim in shape if dim != varying]), []).append(region)
        found += [{**group[0], varying: union([region[varying] for region in group])} for group in groups.values()]
    return found
