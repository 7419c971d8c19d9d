"""Problems that only show in what becomes of a connection: everything is in place, and yet it does not arrive."""

from __future__ import annotations

from istio_init.config.model import ALL
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.model import Finding, Place
from istio_init.inspector.findings.rules import GUARDRAIL_RULES
from istio_init.trace.assume import APP_ID, filled, local_marks
from istio_init.trace.engine import Tracer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.config.model import Config
    from istio_init.inspector.findings.model import View
    from istio_init.model.netfilter import Family
    from istio_init.trace.engine import Trace

FAR = {4: "198.51.100.1", 6: "2001:db8::1"}
PORTS = (8080, 9090, 28080)
"""Where an application would listen, one of which is excluded by hardly anybody."""


def captured_dropped(view: View) -> Iterator[Finding]:
    """An ordinary connection that the configuration has captured, and the live rules drop."""
    if view.inferred is None or not view.snapshot.is_live:
        return
    found: dict[str, None] = {}
    marks = {family: local_marks(view.snapshot, rules) for family, rules in view.rules.items()}
    for family, rules in view.rules.items():
        tracer = Tracer(rules, marks[family])
        for fields in _ordinary(view, view.inferred.config, family):
            trace = tracer.trace(filled(fields, view.snapshot, marks)[0])
            if trace.delivered.kind == "drop" and not _is_guardrail(trace):
                found[_evidence(trace, view, family)] = None
    if found:
        yield Finding(catalogue.CAPTURED_DROPPED, tuple(found))


def _ordinary(view: View, config: Config, family: Family) -> Iterator[dict[str, object]]:
    """A connection of an application to the world, and one of the world to the pod."""
    version = 4 if family.value == "ipv4" else 6
    if config.outbound_ranges is ALL:
        yield {"direction": "outbound", "proto": "tcp", "dst": FAR[version], "dport": 80, "uid": APP_ID, "gid": APP_ID}
    own = [each for each in view.snapshot.addresses if each.version == version and not each.is_loopback]
    excluded = config.inbound_exclude_ports
    ports = [port for port in PORTS if not any(each.first <= port <= each.last for each in excluded)]
    if config.inbound_ports is not ALL:
        ports = [each.first for each in config.inbound_ports]
    if own and ports:
        yield {"direction": "inbound", "proto": "tcp", "dst": str(own[0]), "dport": ports[0]}


def _is_guardrail(trace: Trace) -> bool:
    hop = trace.delivered_by
    return hop is not None and hop.rule.entry.rule in GUARDRAIL_RULES


def _evidence(trace: Trace, view: View, family: Family) -> str:
    hop = trace.delivered_by
    if hop is None:
        direction = trace.packet.direction.value
        return f"{family.value} ({view.backend}): the policy of a chain drops {direction} connections"
    chain = view.rules[family].tables[hop.table][hop.rule.chain]
    return str(Place(view.backend, family, hop.table, chain, hop.rule.number, hop.rule.entry))
