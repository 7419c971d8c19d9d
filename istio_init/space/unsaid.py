"""What is not said of packets: rules that look at it are followed for every value, and at last for all together.

Some of it has the value that it has where no program asks for another one, which is then said.
"""

from __future__ import annotations

from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import Cause, Openness
from istio_init.space.diagram import Unknown
from istio_init.space.layout import UNSAID
from istio_init.space.scan import Scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.stages import Netfilter
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


def taken_for_zero(netfilter: Netfilter, host: Host) -> tuple[Field, ...]:
    """What rules look at of what any program may set, and the map takes for 0: the TOS, and a socket's priority."""
    rules = (rule for table in netfilter.tables for chain in table.chains.values() for rule in chain.rules)
    looked_at = Scan(rules).fields
    if any(rule.tos for of_family in (host.rules or {}).values() for rule in of_family):
        looked_at.add(Field.TOS)
    return tuple([field for field in (Field.TOS, Field.PRIORITY) if field in looked_at])
