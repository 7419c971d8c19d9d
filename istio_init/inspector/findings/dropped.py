"""Connections that have to arrive, and that a rule or a policy of either backend drops, whoever asks."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import DROP, OpaqueTarget
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.model import Finding, place_of
from istio_init.inspector.findings.ordinary import ordinary
from istio_init.inspector.findings.rules import GUARDRAIL_RULES
from istio_init.mesh.policy import sidecar
from istio_init.trace.assume import local_marks
from istio_init.trace.engine import Tracer
from istio_init.trace.hooks import LOOPBACK, REDIRECTIONS
from istio_init.trace.packet import Direction
from istio_init.wording.arguments import packet_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inspector.findings.model import View
    from istio_init.inspector.findings.ordinary import Group
    from istio_init.trace.engine import Outcome, Trace
    from istio_init.trace.packet import Packet

EARLY = (Table.RAW, Table.MANGLE)
"""The tables that are asked before nat at the hook by which a packet enters."""


def captured_dropped(view: View) -> Iterator[Finding]:
    """Ordinary connections all of which are dropped, wherever they go to or come from."""
    inferred = view.inferred
    if inferred is None:
        return
    found: dict[str, None] = {}
    for family, meant in sidecar.rules(inferred.config, inferred.around).items():
        layers = {name: rules for (name, each), rules in view.snapshot.rules.items() if each is family}
        if family in view.snapshot.partial or not any(map(_may_drop, layers.values())):
            continue
        marks = local_marks(view.snapshot, layers.get(view.backend, RuleSet(family)))
        look = _Look(view.backend, meant, layers, marks)
        for group in ordinary(view.snapshot, inferred, family, {family: marks}):
            if group.is_wanted and (line := look.at(group)) is not None:
                found[line] = None
    if found:
        yield Finding(catalogue.CAPTURED_DROPPED, tuple(found))


def _may_drop(rules: RuleSet) -> bool:
    """Whether anything in the rules ends a packet's way."""
    targets = [entry.rule.target for *_, entry in rules.entries()]
    return (
        any(chain.policy == "DROP" for _, chain in rules.chains())
        or DROP in targets
        or any(isinstance(each, OpaqueTarget) and each.name == "REJECT" for each in targets)
    )


class _Look:
    """The rules of one family, of both backends, and what their configuration means."""

    def __init__(self, main: str, meant: RuleSet, layers: dict[str, RuleSet], marks: frozenset[int]) -> None:
        self.main = main
        self.layers = layers
        self.family = meant.family
        self.meant = Tracer(meant, marks)
        self.tracers = {name: Tracer(rules, marks) for name, rules in layers.items()}

    def at(self, group: Group) -> str | None:
        """What drops all connections of a group, in words; None where one of them arrives."""
        fates = [(packet, self.meant.trace(packet).delivered) for packet in group.packets]
        if group.is_for_proxy:
            fates = [each for each in fates if each[1].kind in REDIRECTIONS]
        drops = [self._drop(packet, fate) for packet, fate in fates]
        if not drops or None in drops:
            return None
        backend, trace = next(each for each in drops if each is not None)
        return None if self._is_guardrail(backend, trace) else self._words(backend, trace, group)

    def _drop(self, packet: Packet, fate: Outcome) -> tuple[str, Trace] | None:
        """By which backend's rules a connection is dropped that has to arrive."""
        for name, tracer in self.tracers.items():
            if name == self.main:
                trace = tracer.trace(packet)
                if trace.delivered.kind == "drop":
                    return name, trace
                continue
            # The other backend's rules see what the redirection makes of the packet, but for those before nat.
            for each, is_early in ((packet, True), (_translated(packet, fate), False)):
                trace = tracer.trace(each)
                if trace.delivered.kind == "drop" and _is_early(trace) is is_early:
                    return name, trace
        return None

    def _is_guardrail(self, backend: str, trace: Trace) -> bool:
        """Whether it is one of the drops for which there is a finding of their own."""
        hop = trace.delivered_by
        if hop is None or hop.table is not Table.FILTER:
            return False
        return set(self.layers[backend].tables[hop.table][hop.rule.chain].rules[:2]) >= GUARDRAIL_RULES

    def _words(self, backend: str, trace: Trace, group: Group) -> str:
        hop = trace.delivered_by
        example = packet_arguments(trace.packet)
        if hop is None:
            return (
                f"{self.family.value} ({backend}): the policy of a chain drops {group.name}: istio-init trace {example}"
            )
        return f"{place_of(hop, backend, self.layers[backend])}: drops {group.name}: istio-init trace {example}"


def _is_early(trace: Trace) -> bool:
    hop = trace.delivered_by
    return hop is not None and hop.table in EARLY and hop.hook in ("OUTPUT", "PREROUTING")


def _translated(packet: Packet, fate: Outcome) -> Packet:
    """The packet as the redirection leaves it."""
    if fate.kind != "redirect" or fate.port is None:
        return packet
    if packet.direction is Direction.INBOUND:
        return packet.replace(destination_port=fate.port)
    loopback = type(packet.destination)(LOOPBACK[packet.family])
    return packet.replace(destination=loopback, destination_port=fate.port, interface="lo")
