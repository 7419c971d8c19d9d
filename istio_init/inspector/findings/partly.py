"""Connections of which some are dropped or rejected: of one source, to one port, or the proxy's to one range."""

from __future__ import annotations

from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.ahead import count
from istio_init.inspector.findings.evaluated import Evaluated, evaluated_of
from istio_init.inspector.findings.fate import MOST_MAPPED
from istio_init.inspector.findings.model import Finding, Severity, Shown
from istio_init.inspector.findings.namespace import RESERVED
from istio_init.inspector.findings.rules import limited
from istio_init.mesh.neighbours import neighbour_of
from istio_init.mesh.policy.ambient import PROXY_MARK
from istio_init.mesh.policy.builder import PASSTHROUGH
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.host import is_usable
from istio_init.netfilter.intervals import difference, union
from istio_init.netfilter.names import number_of
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.protocols import TCP
from istio_init.netfilter.rules import End, Verdict
from istio_init.space.diagram import TooManyPieces
from istio_init.space.map import Space
from istio_init.space.ways import RuleDecider
from istio_init.trace.describe import APP_ID, CLIENT_PORT
from istio_init.trace.result import Hop, Kind
from istio_init.value import Value
from istio_init.wording.outcomes import word
from istio_init.wording.packets import trace_command
from istio_init.wording.regions import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inspector.findings.model import View
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.packet import Packet
    from istio_init.netfilter.rules import Rule
    from istio_init.space.traffic import Map, TrafficClass

STOPPED = frozenset([Kind.DROP, Kind.REJECT])
STOPS = frozenset([Verdict.DROP, Verdict.REJECT])
LOOPBACK = {Family.IPV4: (127 << 24, (128 << 24) - 1), Family.IPV6: (1, 1)}
LO = number_of("lo")
NOT_LO = ((1, LO - 1), (LO + 1, (1 << 128) - 1))
NUMBERS = {Field.UID: "uid", Field.GID: "gid", Field.MARK: "mark"}
ADDRESSES = {Field.SOURCE: "source", Field.DESTINATION: "destination"}
CONDITIONS = 3
"""So many kinds of packets are named for a rule."""


class Side(Value):
    """Whose connections are looked at."""

    name: str
    direction: Direction
    fixed: tuple[tuple[Field, int], ...]
    within: tuple[tuple[Field, Intervals], ...] = ()
    is_vital: bool = False
    """Whether the pod's service is not reachable without them."""

    def example(self, packet: Packet) -> Packet:
        """A packet of a map's class, as it is on this side: the map leaves out what all have in common."""
        fixed = dict(self.fixed)
        made = packet.replace(**{name: fixed[field] for field, name in NUMBERS.items() if field in fixed})
        made = made.replace(
            **{name: type(packet.source)(fixed[field]) for field, name in ADDRESSES.items() if field in fixed}
        )
        ports = dict(self.within).get(Field.DPORT)
        if ports is None:
            return made
        is_inside = any(first <= made.destination_port <= last for first, last in ports)
        return made.replace(interface="lo", destination_port=made.destination_port if is_inside else ports[0][0])


class Loss(Value):
    """Connections that a rule stops, with the command that shows it."""

    shown: Shown
    severity: Severity


def some_dropped(view: View) -> Iterator[Finding]:
    """What rules stop that are neither the mesh's nor a known neighbour's, of what would arrive without them."""
    if not view.meant:
        return
    evaluated = evaluated_of(view)
    if not any(
        _may_stop(evaluated, rule)
        for table in evaluated.live.tables
        for chain in table.chains.values()
        for rule in chain.rules
    ):
        return
    found: dict[str, Loss] = {}
    for family in view.meant:
        if family in view.snapshot.partial or family in evaluated.divided:
            continue
        if count(evaluated.live, family) <= MOST_MAPPED:
            for where, loss in _of(evaluated, family):
                if where not in found or loss.severity is Severity.ERROR:
                    found[where] = loss
    if found:
        severities = {each.severity for each in found.values()}
        worse = next((each for each in (Severity.ERROR, Severity.WARNING) if each in severities), None)
        yield Finding(catalogue.SOME_DROPPED, limited([each.shown for each in found.values()]), worse=worse)


def _may_stop(evaluated: Evaluated, rule: Rule) -> bool:
    last = rule.body[-1] if rule.body else None
    if not isinstance(last, End) or last.verdict not in STOPS:
        return False
    return neighbour_of(rule.origin) is None and not evaluated.is_ours(rule)


def _of(evaluated: Evaluated, family: Family) -> Iterator[tuple[str, Loss]]:
    live, meant = evaluated.live_tracer, evaluated.meant_tracer
    space = Space(evaluated.live, evaluated.host, family)
    for side in _sides(evaluated, family):
        fixed = {Field.PROTOCOL: TCP, Field.SPORT: CLIENT_PORT, **dict(side.fixed)}
        try:
            found = space.map(side.direction, only_expected=True, fixed=fixed, within=dict(side.within))
        except TooManyPieces:
            evaluated.divided.add(family)
            return
        for each in found.classes:
            if each.outcome.kind not in STOPPED:
                continue
            packet = side.example(each.example)
            if packet.destination.is_link_local:
                continue  # Mostly the cloud's metadata service, which many a pod is kept from.
            trace = live.trace(packet)
            decider = trace.delivered_by
            if not isinstance(decider, Hop) or not _may_stop(evaluated, decider.rule):
                continue
            if meant.trace(packet).delivered.kind in STOPPED:
                continue
            where = _where(evaluated, each, decider, family)
            said = f"{where}: {side.name}{_which(found, each, family)} {word(each.outcome).value}"
            shown = Shown(said, trace_command(packet, evaluated.view.snapshot.target))
            # Whom a pod lets in is often a firewall's business; what it may not reach, somebody misses.
            lost = Severity.WARNING if packet.direction is Direction.OUTBOUND else Severity.INFO
            yield where, Loss(shown, Severity.ERROR if side.is_vital else lost)


def _where(evaluated: Evaluated, stopped: TrafficClass, decider: Hop, family: Family) -> str:
    """The rule, and how many follow it that stop what is told of as well."""
    where, rules = evaluated.where(decider, family), stopped.decider
    if not isinstance(rules, RuleDecider) or rules.rule.origin != decider.rule.origin or rules.last == rules.first:
        return where
    return f"{where} and those behind it up to {rules.last}"


def _which(found: Map, stopped: TrafficClass, family: Family) -> str:
    told = lines(found.together([stopped]), is_ipv6=family is Family.IPV6)
    more = f" or {len(told) - CONDITIONS} more" if len(told) > CONDITIONS else ""
    return "" if told == ["everything"] else f", {' or '.join(told[:CONDITIONS])}{more}:"


def _sides(evaluated: Evaluated, family: Family) -> Iterator[Side]:
    own = [each for each in evaluated.host.addresses if each.version == family.version and is_usable(each)]
    source = ((Field.SOURCE, int(own[0])),) if own else ()
    destination = ((Field.DESTINATION, int(own[0])),) if own else ()
    links, strangers = _links(evaluated, family), _strangers(evaluated, family)
    coming = ((Field.IN_INTERFACE, links), (Field.SOURCE, strangers))
    leaving = ((Field.OUT_INTERFACE, links), (Field.DESTINATION, strangers))
    yield Side("inbound connections", Direction.INBOUND, ((Field.MARK, 0), *destination), coming)
    app = ((Field.UID, APP_ID), (Field.GID, APP_ID), (Field.MARK, 0))
    yield Side("outbound connections", Direction.OUTBOUND, (*app, *source), leaving)
    proxy = _proxy(evaluated)
    yield Side("the proxy's own connections", Direction.OUTBOUND, (*proxy, *source), leaving)
    ports = _served(evaluated, family)
    if destination and ports and evaluated.view.inferred is not None:
        passing = (*proxy, *destination, (Field.SOURCE, int(PASSTHROUGH[family].network_address)))
        passed = ((Field.DPORT, ports), (Field.OUT_INTERFACE, ((LO, LO),)))
        yield Side("the proxy's connections to the application", Direction.OUTBOUND, passing, passed, is_vital=True)


def _links(evaluated: Evaluated, family: Family) -> Intervals:
    """The interfaces that lead away and have an address of the family."""
    numbers = [
        number_of(each.name)
        for each in evaluated.host.links
        if each.name != "lo" and any(address.version == family.version for address in each.addresses)
    ]
    return union([((number, number),) for number in numbers]) if numbers else NOT_LO


def _strangers(evaluated: Evaluated, family: Family) -> Intervals:
    """Addresses that are not the pod's own."""
    own = [int(each) for each in evaluated.host.addresses if each.version == family.version]
    mine = union([((each, each),) for each in own])
    return difference(((0, (1 << family.bits) - 1),), union([(LOOPBACK[family],), mine]))


def _served(evaluated: Evaluated, family: Family) -> Intervals:
    """Where programs other than the proxy listen for others."""
    found = [
        each.port
        for each in evaluated.view.snapshot.listeners
        if each.protocol == "tcp" and not each.address.is_loopback and each.port not in RESERVED
        if each.address.version == family.version or each.address.is_unspecified
    ]
    return union([((port, port),) for port in found])


def _proxy(evaluated: Evaluated) -> tuple[tuple[Field, int], ...]:
    view = evaluated.view
    if view.inferred is None:
        return (Field.UID, 0), (Field.GID, 0), (Field.MARK, PROXY_MARK)
    config = view.inferred.config
    return (Field.UID, config.proxy_uids[0].first), (Field.GID, config.proxy_gids[0].first), (Field.MARK, 0)
