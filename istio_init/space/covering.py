"""Says the same packets with fewer and simpler regions, which may overlap."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import islice, pairwise

from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import difference, intersection, union
from istio_init.space.layout import NO_SOCKET
from istio_init.space.nodes import END, by_child, leaves, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from istio_init.netfilter.intervals import Intervals
    from istio_init.space.diagram import Node
    from istio_init.space.layout import Layout

    Path = dict[int, Intervals]

MOST = 60
"""More regions than that are left as they are."""

MOST_STEPS = 200_000
"""So many regions of a diagram are looked at to find the few of some value."""

MOST_CUTS = 100
"""A dimension in which more numbers are told apart is widened by what other regions have alone."""

PORTS = (Field.SPORT, Field.DPORT)


class Told:
    """A diagram, and what takes a look at all of it."""

    def __init__(self, top: Node, sizes: list[int]) -> None:
        self.top = top
        self.sizes = sizes

    @cached_property
    def cuts(self) -> dict[int, set[int]]:
        """Where it tells numbers of a dimension apart."""
        found: dict[int, set[int]] = {}
        seen: set[Node] = set()
        left = [self.top]
        while left:
            node = left.pop()
            if node not in seen and node.dim != END:
                seen.add(node)
                found.setdefault(node.dim, set()).update(node.cuts)
                left += node.children
        return found

    def few(self, values: frozenset[Hashable]) -> list[Path] | None:
        """The disjoint regions with one of some values; None where they are more than are told well."""
        found: list[Path] = []
        for value in values:
            found += self._by_value.get(value, ())
        return found if len(found) <= MOST else None

    @cached_property
    def _by_value(self) -> dict[Hashable, list[Path]]:
        """The regions of each value, no more than show that they are too many."""
        found: dict[Node, list[Path]] = {}
        too_many: set[Hashable] = set()
        left: list[tuple[Node, Path]] = [(self.top, {})]
        steps = 0
        while left:
            node, path = left.pop()
            steps += 1
            if node.dim == END:
                known = found.setdefault(node, [])
                if len(known) <= MOST:
                    known.append(path)
            elif steps < MOST_STEPS:
                left += [(child, {**path, node.dim: within}) for child, within in by_child(node, self.sizes[node.dim])]
            else:
                too_many.update(leaves(node))
        return {node.value: known for node, known in found.items()} | {value: [{}] * (MOST + 1) for value in too_many}


class Cover:
    """The packets of a diagram that have one of some values; regions may hold others that there are not, too."""

    def __init__(self, told: Told, values: frozenset[Hashable], absent: frozenset[Hashable], layout: Layout) -> None:
        self.told = told
        self.top = told.top
        self.values = values
        self.absent = absent
        self.possible = values | absent
        self.layout = layout
        self.sizes = layout.sizes

    def paths(self, most: int) -> list[Path]:
        """Regions that hold all of the packets and no other, each as wide as it can be; ``most`` of them at most."""
        few = self.told.few(self.values)
        if few is None:
            return [self._told(path) for path in islice(paths(self.top, self.values, self.sizes), most)]
        found = [self._told(path) for path in few]
        wide: list[Path] = []
        for path in found:
            widened = self._widened(path, found)
            if widened not in wide:
                wide.append(widened)
        wide = _fewest(sorted(wide, key=len), found)
        return _fewest([self._told_shortly(path) for path in _joined(wide)])[:most]

    def _told(self, path: Path) -> Path:
        """The region; what has no socket has group 0 in its place."""
        uid, gid = self.layout.dim(Field.UID), self.layout.dim(Field.GID)
        has_no_socket = path.get(uid) == ((NO_SOCKET, NO_SOCKET),) and gid not in path
        return {**path, gid: ((0, 0),)} if has_no_socket else path

    def _widened(self, path: Path, every: list[Path]) -> Path:
        """The region with each dimension as wide as the packets of all regions together allow."""
        for dim in sorted(path, reverse=True):
            field = self.layout.fields[dim]
            if field is Field.GID and path.get(self.layout.dim(Field.UID)) == ((NO_SOCKET, NO_SOCKET),):
                continue  # Where there is no socket, there is no group.
            if field is Field.PROTOCOL and any(self.layout.fields[each] in PORTS for each in path):
                continue  # A port says little without its protocol.
            tried = {each: within for each, within in path.items() if each != dim}
            if self._holds(tried):
                path = tried
                continue
            for further in self._candidates(dim, every):
                wider = union([path[dim], further])
                if wider != path[dim] and self._holds({**path, dim: wider}):
                    path = {**path, dim: wider}
        return path

    def _told_shortly(self, path: Path) -> Path:
        """The region, in each dimension with the numbers of packets that there are alone where that is said sooner."""
        if self.absent:
            for dim, within in path.items():
                parts = [part for each in self._candidates(dim, []) if (part := intersection(within, each))]
                needed = union([part for part in parts if self._occurs({**path, dim: part})])
                if needed and self._length(dim, needed) <= self._length(dim, within):
                    path = {**path, dim: needed}
        return path

    def _length(self, dim: int, within: Intervals) -> int:
        """How many intervals have to be named."""
        return min(len(within), len(difference(((0, self.sizes[dim] - 1),), within)) or 1)

    def _occurs(self, path: Path) -> bool:
        """Whether a region holds a packet that there is."""
        return not self._all(path, self.absent)

    def _candidates(self, dim: int, every: list[Path]) -> Iterable[Intervals]:
        """What a dimension may be widened by: all that is told apart, or, of too much, what other regions have."""
        cuts = sorted(self.told.cuts.get(dim, ()))
        if len(cuts) > MOST_CUTS:
            return dict.fromkeys(each[dim] for each in every if dim in each)
        return [((low, high - 1),) for low, high in pairwise((0, *cuts, self.sizes[dim]))]

    def _holds(self, path: Path) -> bool:
        """Whether every packet of a region has one of the values, or there is none such."""
        return self._all(path, self.possible)

    def _all(self, path: Path, values: frozenset[Hashable]) -> bool:
        """Whether every packet of a region has one of some values."""
        seen: dict[Node, bool] = {}

        def go(node: Node) -> bool:
            found = seen.get(node)
            if found is None:
                if node.dim == END:
                    found = node.value in values
                else:
                    found = all(go(child) for child in _reached(node, path.get(node.dim)))
                seen[node] = found
            return found

        return go(self.top)


def _reached(node: Node, within: Intervals | None) -> Iterator[Node]:
    """The children for numbers within intervals; all of them where nothing is said."""
    if within is None:
        yield from node.children
        return
    for low, high in within:
        yield from node.children[bisect_right(node.cuts, low) : bisect_right(node.cuts, high) + 1]


def _fewest(regions: list[Path], found: list[Path] | None = None) -> list[Path]:
    """As few of some regions as hold all that was found, else all that they hold themselves."""
    for path in reversed(regions[:]):
        others = [each for each in regions if each is not path]
        if others and all(_is_within(each, others) for each in (found or [path])):
            regions = others
    return regions


def _is_within(path: Path, others: list[Path]) -> bool:
    """Whether every packet of a region is in one of some regions."""
    left = [path]
    for other in others:
        left = [part for each in left for part in _without(each, other)]
        if not left:
            return True
        if len(left) > MOST:
            return False
    return False


def _without(path: Path, other: Path) -> list[Path]:
    """What is left of a region, in disjoint parts. A dimension that a region does not name is whole there."""
    parts: list[Path] = []
    inside = dict(path)
    for dim, within in other.items():
        if dim not in inside:
            return [path] if dim not in path else parts  # Only regions as wide are taken away; this one is not.
        outside = difference(inside[dim], within)
        if outside:
            parts.append({**inside, dim: outside})
        inside[dim] = intersection(inside[dim], within)
        if not inside[dim]:
            return [path]
    return parts


def _joined(found: list[Path]) -> list[Path]:
    """Regions that differ in one dimension alone as one."""
    done: list[Path] = []
    for path in found:
        for place, other in enumerate(done):
            differing = [dim for dim in path if dim in other and path[dim] != other[dim]]
            if path.keys() == other.keys() and len(differing) == 1:
                done[place] = {**other, differing[0]: union([other[differing[0]], path[differing[0]]])}
                break
        else:
            done.append(path)
    return done
