"""Says the same packets with fewer and simpler regions, which may overlap."""

from __future__ import annotations

from istio_init.space.intervals import union
from istio_init.space.pieces import joined
from istio_init.space.space import DPORT, PROTOCOL, SPORT, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.space.space import Region, Space

MOST = 100
"""More regions than that are left as they are."""


def covering(space: Space, regions: tuple[Region, ...]) -> list[Region]:
    """Regions with the same packets, each as wide as it can be, without those that others make superfluous."""
    if len(regions) > MOST:
        return list(regions)
    wide = list(dict.fromkeys(_widened(space, region, regions) for region in regions))
    wide.sort(key=lambda region: sum(found != every for found, every in zip(region, space.whole, strict=True)))
    for region in reversed(wide[:]):
        others = [each for each in wide if each != region]
        if others and _is_within(space, region, others):
            wide = others
    return joined(wide) if len(wide) > 1 else wide


def _widened(space: Space, region: Region, regions: tuple[Region, ...]) -> Region:
    """The region with each dimension as wide as the packets of all regions together allow."""
    whole = space.whole
    for dimension in reversed(range(len(whole))):
        if dimension == PROTOCOL and (region[DPORT] != whole[DPORT] or region[SPORT] != whole[SPORT]):
            continue  # A port says little without its protocol.
        sets = [whole[dimension], *dict.fromkeys(each[dimension] for each in regions)]
        for further in sets:
            wider = union([region[dimension], further])
            if wider == region[dimension]:
                continue
            tried = (*region[:dimension], wider, *region[dimension + 1 :])
            if _is_within(space, tried, regions):
                region = tried
    return region


def _is_within(space: Space, region: Region, regions: list[Region] | tuple[Region, ...]) -> bool:
    """Whether every packet of a region is in one of some regions."""
    left = space.possible(region)
    for each in regions:
        test = dict(enumerate(each))
        left = [part for one in left for part in split(one, test)[1]]
        if not left:
            return True
    return False
