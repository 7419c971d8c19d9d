"""What is not said of packets: rules that look at it are followed for every value, and at last for all together."""

from __future__ import annotations

from istio_init.netfilter.rules import Cause, Openness
from istio_init.space.diagram import Unknown
from istio_init.space.layout import UNSAID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.space.composing import Ways
    from istio_init.space.diagram import Node
    from istio_init.space.layout import Layout


def for_any(ways: Ways, layout: Layout, program: Node) -> Node:
    """What becomes of packets whatever their TTL, length and type: several things, if that makes a difference."""
    for field in UNSAID:
        dim = layout.dim(field)
        if program.support >> dim & 1:
            cause = Cause(Openness.NOT_GIVEN, f"the packet's {field.value}")
            program = ways.substituted(program, {dim: Unknown(cause)})
    return program
