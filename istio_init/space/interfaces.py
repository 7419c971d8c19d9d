"""The interfaces of a host, which many diagrams tell apart."""

from __future__ import annotations

from istio_init.netfilter.names import number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.netfilter.host import Host
    from istio_init.space.diagram import Diagrams, Node

LOOPBACK = "lo"


class Interfaces:
    """Those that are known by their names, and all others."""

    def __init__(self, diagrams: Diagrams, host: Host) -> None:
        self.diagrams = diagrams
        self.names = sorted({link.name for link in host.links} | {LOOPBACK}, key=number_of)

    def by(self, dim: int, of: Callable[[str | None], Node]) -> Node:
        """A diagram for each interface, told by a dimension; that of None for all others."""
        return self.diagrams.at(dim, {number_of(name): of(name) for name in self.names}, of(None))
