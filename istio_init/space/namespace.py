"""One namespace, for one family: what makes programs of its rules and of what surrounds them."""

from __future__ import annotations

from istio_init.space.composing import Ways
from istio_init.space.effects import Effects
from istio_init.space.programs import Programs
from istio_init.space.surroundings import Surroundings
from istio_init.space.translation import Translation
from istio_init.space.truth import Truths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.stages import Netfilter
    from istio_init.space.diagram import Diagrams
    from istio_init.space.layout import Layout


class Namespace:
    """Made once for both directions, which have most chains in common."""

    def __init__(self, diagrams: Diagrams, layout: Layout, netfilter: Netfilter, host: Host) -> None:
        self.diagrams = diagrams
        self.layout = layout
        self.family = layout.family
        self.netfilter = netfilter
        self.host = host
        self.ways = Ways(diagrams, layout.unseen)
        self.surroundings = Surroundings(self.ways, layout, host, layout.family)
        self.truths = Truths(diagrams, layout, self.surroundings.derived, self.surroundings.facts.local)
        self.surroundings.attach(self.truths)
        translation = Translation(self.ways, self.truths, host, self.surroundings)
        self.effects = Effects(self.ways, self.truths, translation)
        self.programs = Programs(self.ways, self.truths, self.effects)
        self.tracks = netfilter.tracks_connections(layout.family)
