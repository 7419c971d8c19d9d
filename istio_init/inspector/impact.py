"""What happens to a pod's traffic: connections of an application out and in, and its DNS queries, by the map."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.inspector.findings.ahead import count
from istio_init.inspector.findings.evaluated import Evaluated, evaluated_of
from istio_init.inspector.findings.fate import MOST_MAPPED
from istio_init.inspector.findings.listening import TUNNEL, hears
from istio_init.inspector.findings.model import View
from istio_init.inspector.findings.namespace import loopback_fault
from istio_init.inspector.findings.ordinary import ordinary
from istio_init.inspector.findings.uplink import cut_off, unroutable
from istio_init.inspector.reader import proxy_ports
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.host import is_usable
from istio_init.netfilter.intervals import difference, intersection, union
from istio_init.netfilter.names import number_of
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.protocols import TCP, UDP
from istio_init.space.diagram import TooManyPieces
from istio_init.space.map import Space
from istio_init.trace.describe import APP_ID, CLIENT_PORT
from istio_init.trace.result import Kind
from istio_init.value import Value
from istio_init.wording.outcomes import Word, outcome_words, word
from istio_init.wording.regions import decider_words, lines
from istio_init.wording.traces import causes_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Cause
    from istio_init.space.traffic import Map, TrafficClass
    from istio_init.trace.result import Outcome

DNS_PORT = 53
SHOWN = 2
"""Rules that are named where several lead to one outcome."""

LOOPBACK = {Family.IPV4: (127 << 24, (128 << 24) - 1), Family.IPV6: (1, 1)}
LO = number_of("lo")
NOT_LO = ((1, LO - 1), (LO + 1, (1 << 128) - 1))
NO_ROUTE = "no route"
REFUSED = "refused"
"""What becomes of a redirected connection where nothing listens; rules do not say so."""


class Traffic(Enum):
    """What of a pod's traffic is told of."""

    OUTBOUND = "Outbound TCP"
    INBOUND = "Inbound TCP"
    DNS = "DNS"


class Part(Value):
    """A part of some traffic with one outcome.

    ``word`` is the outcome's, or ``refused``; ``by`` names the rule that decides; ``conditions`` say which part it is,
    none where it is all or the rest.
    """

    word: str
    kind: Kind
    port: int | None
    said: str
    by: str
    conditions: tuple[str, ...] = ()
    is_misled: bool = False
    """Whether the proxy gets it on the port of the other direction."""

    @property
    def is_proxied(self) -> bool:
        """Whether the proxy gets it."""
        return self.word == Word.PROXIED.value


UNREAD = Part(Word.UNDECIDABLE.value, Kind.UNKNOWN, None, "undecidable: not all rules could be read", "rules unread")


class Impact(Value):
    """What becomes of one kind of traffic in one family: its parts, the largest first.

    Where the rules are too many for a map, ``is_sampled``: ordinary connections were traced.
    """

    traffic: Traffic
    family: Family
    parts: tuple[Part, ...]
    is_sampled: bool = False


def impacts(view: View, *, is_mapped: bool = True) -> tuple[Impact, ...]:
    """What becomes of traffic, in each family that the pod has an address of; none where there are no rules at all.

    Without a map ordinary connections are traced, which takes less time and says less.
    """
    snapshot = view.snapshot
    if not snapshot.netfilter.tables:
        return ()
    lost = frozenset(family for each in snapshot.missing_rules for family in ([each.family] if each.family else Family))
    evaluated = evaluated_of(view)
    found: list[Impact] = []
    for family in _families(view):
        if family in lost:
            found += [Impact(traffic, family, (UNREAD,)) for traffic in Traffic]
        else:
            found += _Look(view, evaluated, family).all(is_mapped=is_mapped)
    return tuple(found)


def _families(view: View) -> Iterator[Family]:
    snapshot = view.snapshot
    versions = {address.version for address in snapshot.addresses if is_usable(address)}
    for family in Family:
        if family.version in versions if versions else family in view.families:
            yield family


class _Look:
    """What becomes of one family's traffic."""

    def __init__(self, view: View, evaluated: Evaluated, family: Family) -> None:
        self.view = view
        self.family = family
        self.evaluated = evaluated
        self.ports = proxy_ports(view)
        config = view.inferred.config if view.inferred is not None else None
        is_told = config is not None and config.proxy_port != config.inbound_capture_port
        self._outbound_port = config.proxy_port if config is not None and is_told else None
        own = [each for each in self.evaluated.host.addresses if each.version == family.version and is_usable(each)]
        self.home = int(own[0]) if own else None
        self.space = Space(evaluated.live, evaluated.host, family)

    def all(self, *, is_mapped: bool) -> Iterator[Impact]:
        """Of each kind of traffic."""
        is_mapped = is_mapped and count(self.evaluated.live, self.family) <= MOST_MAPPED
        is_mapped = is_mapped and self.family not in self.evaluated.divided
        for traffic in Traffic:
            parts = None
            if is_mapped:
                try:
                    parts = self._mapped(traffic)
                except TooManyPieces:
                    self.evaluated.divided.add(self.family)
                    is_mapped = False
            sampled = parts is None
            parts = self._traced(traffic) if parts is None else parts
            if parts:
                yield Impact(traffic, self.family, tuple(parts), sampled)

    def _mapped(self, traffic: Traffic) -> list[Part]:
        if traffic is Traffic.DNS:
            return self._of_servers({server: self._queries(server) for server in self._servers()})
        if traffic is Traffic.INBOUND:
            fixed = {Field.PROTOCOL: TCP, Field.SPORT: CLIENT_PORT, Field.MARK: 0, **self._at(Field.DESTINATION)}
            away = {Field.SOURCE: self._away(), Field.DESTINATION: self._away(), Field.IN_INTERFACE: self._interfaces()}
            if self.view.ambient is not None:  # Who connects there wants ztunnel itself.
                away[Field.DPORT] = difference(((0, (1 << 16) - 1),), ((TUNNEL, TUNNEL),))
            return self._parts(
                self.space.map(Direction.INBOUND, only_expected=True, within=away, fixed=fixed), Direction.INBOUND
            )
        return self._leaving({Field.PROTOCOL: TCP}, self._outside())

    def _of_servers(self, found: Mapping[int | None, list[Part]]) -> list[Part]:
        """The parts of the first server's queries, and what becomes of others' where that is something else."""
        usual = next(iter(found.values()), [])
        others = [
            part.replace(conditions=part.conditions or (f"to {self._address(server)}",))
            for server, parts in found.items()
            for part in parts
            if server is not None and part not in usual
        ]
        return list(dict.fromkeys([*usual, *others]))

    def _queries(self, server: int | None) -> list[Part]:
        fixed = {Field.PROTOCOL: UDP, Field.DPORT: DNS_PORT}
        if server is not None:
            fixed[Field.DESTINATION] = server
        return self._leaving(fixed, self._outside(queries=True), protocol="udp")

    def _leaving(self, fixed: dict[Field, int], within: dict[Field, Intervals], protocol: str = "tcp") -> list[Part]:
        """What is sent, that which no route leads to first: it is refused to its sender before any rule sees it."""
        near = cut_off(self.evaluated.host, self.family)
        server = fixed.get(Field.DESTINATION)
        if near is None and server is not None and unroutable(self.evaluated.host, self._address(server)):
            return [Part(Word.DROPPED.value, Kind.DROP, None, "dropped", NO_ROUTE)]
        refused = []
        if near is not None:
            reached = union([((int(each.network_address), int(each.broadcast_address)),) for each in near])
            if server is None or not any(low <= server <= high for low, high in reached):
                refused = [Part(Word.DROPPED.value, Kind.DROP, None, "dropped", NO_ROUTE)]
            if not reached or (refused and server is not None):
                return refused
            if server is None:
                within = {**within, Field.DESTINATION: intersection(within[Field.DESTINATION], reached)}
        found = self.space.map(Direction.OUTBOUND, only_expected=True, within=within, fixed={**fixed, **self._sender()})
        parts = self._parts(found, Direction.OUTBOUND, protocol=protocol)
        if refused and parts and near:
            parts[0] = parts[0].replace(conditions=(f"to {' or '.join(map(str, near[:SHOWN]))}",))
        return [*refused, *parts]

    def _address(self, number: int) -> IPv4Address | IPv6Address:
        return IPv4Address(number) if self.family is Family.IPV4 else IPv6Address(number)

    def _servers(self) -> list[int | None]:
        """The name servers that are asked by way of the network; None for any where none is known."""
        known: Iterable[IPv4Address | IPv6Address] = self.view.snapshot.dns_servers
        if not self.view.snapshot.knows_servers:
            known = self.view.inferred.around.dns_servers if self.view.inferred is not None else ()
        mine = [int(each) for each in known if each.version == self.family.version and not each.is_loopback]
        return [*mine] if mine or known else [None]

    def _sender(self) -> dict[Field, int]:
        owner = {Field.UID: APP_ID, Field.GID: APP_ID}
        return {Field.SPORT: CLIENT_PORT, Field.MARK: 0, **owner, **self._at(Field.SOURCE)}

    def _at(self, field: Field) -> dict[Field, int]:
        return {field: self.home} if self.home is not None else {}

    def _outside(self, *, queries: bool = False) -> dict[Field, Intervals]:
        found: dict[Field, Intervals] = {Field.OUT_INTERFACE: self._interfaces(), Field.DESTINATION: self._away()}
        meant = self.view.inferred or self.view.ambient
        if queries or meant is None or not meant.config.redirect_dns:
            return found
        # Queries over TCP are no matter of ordinary connections.
        return {**found, Field.DPORT: ((0, DNS_PORT - 1), (DNS_PORT + 1, (1 << 16) - 1))}

    def _interfaces(self) -> Intervals:
        """Those that lead away and have an address; any but lo where none is known."""
        names = [
            number_of(link.name)
            for link in self.evaluated.host.links
            if link.name != "lo" and any(each.version == self.family.version for each in link.addresses)
        ]
        return union([((name, name),) for name in names]) if names else NOT_LO

    def _away(self) -> Intervals:
        """Addresses of others; the kubelet's probes of an ambient pod come from one that stands for the node."""
        last, ambient = (1 << self.family.bits) - 1, self.view.ambient
        away = difference(((0, last),), (LOOPBACK[self.family],))
        if ambient is None:
            return away
        config = ambient.config
        probe = int(config.probe_ipv4 if self.family is Family.IPV4 else config.probe_ipv6)
        return difference(away, ((probe, probe),))

    def _parts(self, found: Map, direction: Direction, protocol: str = "tcp") -> list[Part]:
        """The classes by their outcomes, that with the largest part of all packets first."""
        groups: dict[tuple[Outcome, tuple[Cause, ...]], list[tuple[float, TrafficClass]]] = {}
        for share, each in found.by_share():
            outcome = each.outcome.replace(address=None) if each.outcome.kind is Kind.REDIRECT else each.outcome
            groups.setdefault((outcome, each.causes), []).append((share, each))
        ordered = sorted(groups.values(), key=lambda group: -sum(share for share, _ in group))
        return [
            self._of(found, [each for _, each in group], direction, protocol, is_rest=not number)
            for number, group in enumerate(ordered)
        ]

    def _of(self, found: Map, alike: list[TrafficClass], direction: Direction, protocol: str, *, is_rest: bool) -> Part:
        """One part, of classes with one outcome."""
        told = () if is_rest else tuple(lines(found.together(alike), is_ipv6=self.family is Family.IPV6))
        deciders = list(dict.fromkeys(decider_words(each.decider) for each in alike))
        if None in [each.decider for each in alike]:
            deciders = [decider_words(None)]
        by = " and ".join(deciders[:SHOWN]) + (f" and {len(deciders) - SHOWN} more" if len(deciders) > SHOWN else "")
        if alike[0].outcome.kind is Kind.UNKNOWN:
            by = f"depends on {causes_words(alike[0].causes)}"
        return self._part(alike[0].outcome, direction, by, protocol, told)

    def _part(
        self,
        outcome: Outcome,
        direction: Direction,
        by: str,
        protocol: str,
        told: tuple[str, ...] = (),
    ) -> Part:
        said, name = outcome_words(outcome, self.ports), word(outcome, self.ports).value
        if name == Word.DIRECT.value and protocol == "tcp" and self.view.holdings:
            said = "direct, past the proxy"
        fault = loopback_fault(self.view, self.family) if direction is Direction.OUTBOUND else None
        if fault is not None and outcome.kind is Kind.REDIRECT:
            return Part(Word.DROPPED.value, Kind.DROP, None, Word.DROPPED.value, f"{by}, as {fault.value}", told)
        if self._is_refused(outcome, direction, protocol):
            said, name = f"{REFUSED}, as nothing listens on port {outcome.port}", REFUSED
        elif direction is Direction.INBOUND and outcome.port is not None and outcome.port == self._outbound_port:
            said = f"{said}, the proxy's outbound listener"
            return Part(name, outcome.kind, outcome.port, said, by, told, is_misled=True)
        return Part(name, outcome.kind, outcome.port, said, by, told)

    def _is_refused(self, outcome: Outcome, direction: Direction, protocol: str) -> bool:
        """Whether a redirected connection finds no listener; where TPROXY finds none the map itself has it dropped."""
        if outcome.kind is not Kind.REDIRECT or outcome.port is None or not self.view.snapshot.is_live:
            return False
        inbound = direction is Direction.INBOUND
        mine = [
            each for each in self.view.snapshot.listeners if each.protocol == protocol and each.port == outcome.port
        ]
        return not any(hears(self.view, each, self.family, inbound=inbound) for each in mine)

    def _traced(self, traffic: Traffic) -> list[Part]:
        names = {
            Traffic.OUTBOUND: "outbound connections",
            Traffic.INBOUND: "inbound connections",
            Traffic.DNS: "DNS queries",
        }
        tracer = self.evaluated.live_tracer
        found: dict[Part, None] = {}
        for group in ordinary(self.view, self.family, self.evaluated.host):
            for packet in group.packets if group.name == names[traffic] else ():
                trace = tracer.trace(packet)
                by = self.evaluated.where(trace.delivered_by, self.family)
                protocol = "udp" if packet.protocol == UDP else "tcp"
                found.setdefault(self._part(trace.delivered, packet.direction, by, protocol))
        return list(found)


def by_kind(found: Iterable[Impact]) -> Mapping[Traffic, tuple[Impact, ...]]:
    """The impacts on each kind of traffic, in the order in which they are told."""
    listed = list(found)
    return {
        traffic: tuple(each for each in listed if each.traffic is traffic)
        for traffic in Traffic
        if any(each.traffic is traffic for each in listed)
    }
