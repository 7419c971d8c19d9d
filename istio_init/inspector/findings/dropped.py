"""Connections that have to arrive, and are all dropped or rejected: by rules and policies of anybody, or by routing."""

from __future__ import annotations

from istio_init.config.model import ALL
from istio_init.dialects.iptables.rules import is_builtin
from istio_init.dialects.iptables.tables import Table
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.evaluated import Evaluated, evaluated_of
from istio_init.inspector.findings.model import Finding, Shown
from istio_init.inspector.findings.ordinary import ordinary
from istio_init.inspector.findings.possible import first_route
from istio_init.inspector.findings.rules import GUARDRAIL_RULES, emptied
from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Direction
from istio_init.trace.facts import Facts
from istio_init.trace.result import Hop, Kind, Outcome, RoutingDecider
from istio_init.trace.routing import DEFAULT_RULES
from istio_init.trace.tracer import Tracer
from istio_init.wording.outcomes import word
from istio_init.wording.packets import trace_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inspector.findings.model import View
    from istio_init.inspector.findings.ordinary import Group
    from istio_init.netfilter.host import Host, RoutingRule
    from istio_init.netfilter.packet import Packet
    from istio_init.netfilter.stages import Netfilter
    from istio_init.trace.result import Decider

    End = tuple[Outcome, Decider | None]

CAPTURED = frozenset([Kind.REDIRECT, Kind.TPROXY])
STOPPED = frozenset([Kind.DROP, Kind.REJECT])
NOWHERE = STOPPED | {Kind.UNKNOWN}


def captured_dropped(view: View) -> Iterator[Finding]:
    """Ordinary connections all of which are dropped or rejected, wherever they go to or come from."""
    if not view.meant:
        return
    evaluated = evaluated_of(view)
    quiet = _quiet(evaluated)
    if quiet == evaluated.host and not evaluated.has_others():
        return
    look = _Look(evaluated, quiet)
    found = {
        line: None
        for family in view.meant
        if family not in view.snapshot.partial
        for group in ordinary(view, family, evaluated.host)
        if group.is_wanted and (line := look.at(group)) is not None
    }
    if found:
        yield Finding(catalogue.CAPTURED_DROPPED, tuple(found))


def all_excluded(view: View) -> Iterator[Finding]:
    """Ordinary connections of a direction all of which the configuration itself leaves to go past the proxy."""
    config = view.inferred.config if view.inferred is not None else None
    if config is None or view.is_older or config.outbound_ports:
        return
    if config.owner_groups is not ALL or config.owner_groups_exclude:
        return  # For which there is a finding of their own.
    if view.expected is not None and view.expected == config:
        return
    evaluated = evaluated_of(view)
    captures = {
        "outbound connections": config.outbound_ranges != () and not emptied(view, "ISTIO_OUTPUT"),
        "inbound connections": config.inbound_ports != () and not emptied(view, "ISTIO_INBOUND"),
    }
    meant, found = evaluated.meant_tracer, []
    for family in view.meant:
        for group in ordinary(view, family, evaluated.host):
            packets = group.afar if captures.get(group.name) else ()
            if packets and all(meant.trace(packet).delivered.kind is Kind.DIRECT for packet in packets):
                shown = trace_command(packets[0], view.snapshot.look)
                where = evaluated.where(meant.trace(packets[0]).delivered_by, family)
                found.append(Shown(f"{where}: {group.name} direct", shown))
    if found:
        yield Finding(catalogue.ALL_EXCLUDED, (*view.asked_for(lambda asked: asked == config), *found))


def _quiet(evaluated: Evaluated) -> Host:
    """The host with no routing rules but those that every namespace has, and the mesh's: what it would be without
    others."""
    host = evaluated.host
    if host.rules is None:
        return host
    usual = {(rule.priority, rule.table) for rule in DEFAULT_RULES}
    config = evaluated.view.inferred.config if evaluated.view.inferred is not None else None
    marked = (config.tproxy_mark, config.tproxy_table) if config is not None else None

    def is_kept(rule: RoutingRule) -> bool:
        if (rule.priority, rule.table) in usual:
            return True
        # ztunnel's socket marks lead to its table, whatever number that has.
        return rule.mark is not None and (marked is None or (rule.mark, rule.table) == marked)

    kept = {family: tuple(filter(is_kept, rules)) for family, rules in host.rules.items()}
    return host.replace(rules=kept) if kept != dict(host.rules) else host


class _Side:
    """What becomes of connections under some rules, on some host."""

    def __init__(self, netfilter: Netfilter, host: Host) -> None:
        self._tracer = Tracer(netfilter, host)
        self._facts = {family: Facts(host, family) for family in Family}

    def end(self, packet: Packet) -> End:
        """What becomes of one, and what decides; an outbound one without a route meets no rule."""
        facts = self._facts[packet.family]
        if packet.direction is Direction.OUTBOUND and facts.tables is not None:
            route = first_route(facts, packet)
            if route.device is None:
                return Outcome(Kind.DROP), RoutingDecider(route.words or route.type.name.lower())
        trace = self._tracer.trace(packet)
        return trace.delivered, trace.delivered_by


class _Look:
    """What becomes of connections, and what would without others."""

    def __init__(self, evaluated: Evaluated, quiet: Host) -> None:
        self.evaluated = evaluated
        self.meant = _Side(evaluated.meant, quiet)
        self.live = _Side(evaluated.live, evaluated.host)

    def at(self, group: Group) -> str | None:
        """What stops all connections of a group, in words; None where one of them arrives."""
        found = []
        for packet in group.packets:
            kind = self.meant.end(packet)[0].kind
            if kind in NOWHERE or (group.is_for_proxy and kind not in CAPTURED):
                continue
            outcome, decider = self.live.end(packet)
            if outcome.kind not in STOPPED:
                return None
            found.append((packet, outcome, decider))
        if not found or self._is_guardrail(found[0][2]):
            return None
        packet, outcome, decider = found[0]
        where = self.evaluated.where(decider, packet.family)
        shown = trace_command(packet, self.evaluated.view.snapshot.look)
        return Shown(f"{where}: {group.name} {word(outcome).value}", shown)

    def _is_guardrail(self, decider: Decider | None) -> bool:
        """Whether it is one of the drops for which there is a finding of their own."""
        place = self.evaluated.place(decider.rule.origin) if isinstance(decider, Hop) else None
        if place is None or place.table is not Table.FILTER or not is_builtin(place.table, place.chain.name):
            return False
        return set(place.chain.rules[:2]) >= GUARDRAIL_RULES
