"""Strays: connections that end otherwise under all live rules than under those of the configuration."""

from __future__ import annotations

from ipaddress import IPv4Network

from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.ahead import ENTRIES, Aimed, ahead, count, is_behind
from istio_init.inspector.findings.evaluated import evaluated_of
from istio_init.inspector.findings.model import Finding, Shown
from istio_init.inspector.findings.ordinary import ordinary
from istio_init.inspector.findings.possible import Possible
from istio_init.inspector.findings.rules import half_applied, limited, mode_leftovers
from istio_init.inspector.findings.stores import both_backends
from istio_init.inspector.reader import proxy_ports
from istio_init.mesh.neighbours import OWN, neighbour_of
from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import TCP
from istio_init.netfilter.rules import End, Nat, NatKind, Note, Verdict
from istio_init.space.diagram import TooManyPieces
from istio_init.space.differences import Comparison
from istio_init.trace.result import Hop, Kind, Outcome, PolicyDecider, Trace
from istio_init.trace.tracer import Tracer
from istio_init.value import Value
from istio_init.wording.outcomes import Word, outcome_words, word
from istio_init.wording.packets import trace_command
from istio_init.wording.traces import causes_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inspector.findings.model import View
    from istio_init.netfilter.rules import Rule, Statement
    from istio_init.netfilter.stages import Netfilter
    from istio_init.trace.result import Decider

MOST_MAPPED = 1000
"""Where more rules could take traffic away, no map is made: it could take seconds."""

MOST_AIMED = 50
"""So many rules of others are tried one by one in each direction, where no map is made."""

MOST_OF_A_KIND = 100
"""So many differences of a map that change the same into the same are looked at; evidence lists fewer."""

METADATA = IPv4Network("169.254.0.0/16")
"""Where agents of the node or the cloud answer."""

CAPTURED = frozenset([Kind.REDIRECT, Kind.TPROXY])
STOPPED = frozenset([Kind.DROP, Kind.REJECT])


class Stray(Value):
    """A connection that the live rules treat otherwise than those of the configuration, and its way."""

    family: Family
    meant: Outcome
    trace: Trace
    is_foreign: bool
    """Whether the rules of the mesh alone would treat it as meant."""

    decider: Decider | None


class Sampled(Value):
    """A family of which not all connections were looked at: only ordinary ones, and one for some rules."""

    family: Family
    rules: int
    aimed: int


def captured_otherwise(view: View) -> Iterator[Finding]:
    """Connections that do not go where they should, by whose rule decides: foreign, ours, or undecidable."""
    search = _Search(view)
    found = search.strays()
    lines: dict[str, dict[str, str]] = {"foreign": {}, "ours": {}, "undecidable": {}}
    for stray in sorted(found, key=_oddness):
        is_told = stray.trace.delivered.kind is not Kind.UNKNOWN
        whose = "undecidable" if not is_told else "foreign" if stray.is_foreign else "ours"
        is_open = not is_told and stray.decider is None
        where = stray.family.value if is_open else search.evaluated.where(stray.decider, stray.family)
        lines[whose].setdefault(where, _shown(view, stray, where))
    if lines["ours"] and (any(half_applied(view)) or any(mode_leftovers(view)) or any(both_backends(view))):
        lines["ours"] = {}  # They say what is behind it.
    kinds = (("foreign", catalogue.FOREIGN_AHEAD), ("ours", catalogue.CAPTURED_OTHERWISE))
    for whose, kind in (*kinds, ("undecidable", catalogue.UNDECIDED_RULE)):
        if lines[whose]:
            yield Finding(kind, limited(list(lines[whose].values())))
    if search.sampled:
        yield Finding(catalogue.NOT_ALL_FOLLOWED, tuple(map(_sampled_words, search.sampled)))


def strays(view: View) -> list[Stray]:
    """The connections of each kind that goes astray; none where the rules are just those of the configuration."""
    return _Search(view).strays()


def _shown(view: View, stray: Stray, where: str) -> str:
    trace, ports = stray.trace, proxy_ports(view)
    said = outcome_words(trace.delivered, ports)
    if trace.delivered.kind is Kind.UNKNOWN:
        said = f"{said} ({causes_words(trace.causes)})"
    shown = trace_command(trace.packet, view.snapshot.look)
    return Shown(f"{where}: {said}, not {outcome_words(stray.meant, ports)}", shown)


def _sampled_words(sampled: Sampled) -> str:
    return (
        f"{sampled.family.value}: {sampled.rules} rules are evaluated ahead of the redirection or beside it; only "
        f"ordinary connections were traced, and {sampled.aimed} that single rules match"
    )


def _oddness(stray: Stray) -> tuple[int, ...]:
    """How little one would expect such a connection; the first example of a rule is the one that is shown."""
    packet = stray.trace.packet
    no_socket = packet.uid is None and packet.direction is Direction.OUTBOUND
    return (
        int(no_socket),
        int(packet.mark != 0),
        int(packet.protocol != TCP),
        int(packet.interface == "lo"),
        int(packet.uid != packet.gid),
    )


class _Search:
    """Looks for strays in each family."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.ports = proxy_ports(view)
        self.evaluated = evaluated_of(view)
        self.sampled: list[Sampled] = []

    def strays(self) -> list[Stray]:
        """Those of all families that were read whole."""
        view = self.view
        found = view.inferred or view.ambient
        if found is None or self.evaluated.is_as_meant:
            return []
        self.ours = self.evaluated.ours_alone()
        self.base = self.ours if view.is_older else self.evaluated.meant
        host = self.evaluated.host
        self.wanted = Tracer(self.base, host) if view.is_older else self.evaluated.meant_tracer
        self.live = self.evaluated.live_tracer
        self.alone = Tracer(self.ours, host)
        strays: list[Stray] = []
        for family in view.meant:
            known = view.snapshot.is_live or family in view.rules
            if family not in view.snapshot.partial and known:
                strays += self._of(family)
        return strays

    def _of(self, family: Family) -> Iterator[Stray]:
        host = self.evaluated.host
        usual = [packet for group in ordinary(self.view, family, host) for packet in group.packets]
        if self.view.is_older:
            # The rules of older releases differ from today's by more than what goes astray.
            meant = Tracer(self.evaluated.meant, host)
            yield from filter(None, (self._judged(packet, meant) for packet in usual))
        for packets in self._candidates(family, usual):
            found = (self._judged(packet, self.wanted) for packet in packets)
            if (stray := next(filter(None, found), None)) is not None:
                yield stray

    def _candidates(self, family: Family, usual: list[Packet]) -> Iterator[list[Packet]]:
        """By a map where that is quickly made: one of each kind; else ordinary ones, and some that rules match.

        Each comes with others like it, one of which is enough.
        """
        live, possible = self.evaluated.live, Possible(self.evaluated.host, family)
        if count(live, family) > MOST_MAPPED:
            live = ahead(self.evaluated, family)
        if count(live, family) <= MOST_MAPPED and family not in self.evaluated.divided:
            try:
                yield from map(possible.of, self._differing(live, family))
                yield from map(possible.of, Aimed(self.evaluated, live, family, MOST_AIMED).unusual())
                return
            except TooManyPieces:
                self.evaluated.divided.add(family)
        met = Aimed(self.evaluated, live, family, MOST_AIMED).packets()
        self.sampled.append(Sampled(family, count(live, family), len(met)))
        yield from ([packet] for packet in usual)
        yield from map(possible.of, met)

    def _differing(self, live: Netfilter, family: Family) -> list[Packet]:
        host = self.evaluated.host
        comparison = Comparison((self.base, host), (live, host), family)
        kinds: dict[tuple[object, ...], list[Packet]] = {}
        for direction in Direction:
            for each in comparison.differences(direction):
                before, after = each.before.outcome, each.after.outcome
                if before != after:
                    kinds.setdefault((direction, before, after.kind), []).append(each.witness)
        return [packet for packets in kinds.values() for packet in packets[:MOST_OF_A_KIND]]

    def _judged(self, packet: Packet, wanted: Tracer) -> Stray | None:
        """What goes astray with a connection, if that concerns the mesh."""
        if self._passes_through(packet):
            return None
        expected, trace = wanted.trace(packet), self.live.trace(packet)
        meant = expected.delivered
        if _is_same(trace.delivered, meant) or not self._matters(meant, trace):
            return None
        if expected.outcome.kind is Kind.DIRECT and self._is_sent_elsewhere(trace):
            return None  # A neighbour's doing, also where what comes back via lo would have been captured.
        if packet.destination in METADATA and trace.delivered.kind is Kind.DIRECT:
            return None  # Credentials and the like, which come from the node, and not from the mesh.
        decider = trace.delivered_by
        is_foreign = _is_same(self.alone.trace(packet).delivered, meant)
        if is_foreign and trace.delivered.kind is not Kind.UNKNOWN and not self._is_others(decider):
            decider = self._last_of_others(trace) or decider
        if isinstance(decider, Hop) and _is_own(decider, packet):
            return None
        return Stray(packet.family, meant, trace, is_foreign, decider)

    def _passes_through(self, packet: Packet) -> bool:
        """Whether it comes in for another host, via an interface whose traffic is not to be captured as outbound.

        A pod that forwards has such connections, and what a neighbour does to them takes nothing from the mesh.
        """
        found, host = self.view.inferred or self.view.ambient, self.evaluated.host
        if packet.direction is not Direction.INBOUND or found is None or not self.view.snapshot.is_live:
            return False
        is_virtual = any(
            packet.interface.startswith(name[:-1]) if name.endswith("+") else packet.interface == name
            for name in found.config.virtual_interfaces
        )
        return not is_virtual and bool(host.addresses) and packet.destination not in host.addresses

    def _matters(self, meant: Outcome, trace: Trace) -> bool:
        """Whether it concerns the mesh: what is captured ends elsewhere, or what is not is captured.

        A firewall behind the redirection is not about it; `captured_dropped` says where it leaves nothing.
        """
        for way in trace.ways:
            if _is_same(way.delivered, meant):
                continue
            if meant.kind in CAPTURED:
                if way.delivered.kind not in STOPPED or not self._is_behind(way.delivered_by, trace.packet.direction):
                    return True
            elif meant.kind is not Kind.UNKNOWN and word(way.delivered, self.ports) is Word.PROXIED:
                return True
        return False

    def _is_behind(self, decider: Decider | None, direction: Direction) -> bool:
        """Whether packets were redirected before that decided."""
        if isinstance(decider, Hop):
            hook, origin = decider.hook, decider.rule.origin
            place, name = (origin.store, origin.family, origin.table), None
        elif isinstance(decider, PolicyDecider):
            hook, place, name = decider.hook, (decider.store, decider.family, decider.table), decider.chain
        else:
            return False
        if ENTRIES.get(hook) is not direction:
            return True
        bases = [
            chain
            for table in self.evaluated.live.tables
            if (table.store, table.family, table.name) == place
            for chain in table.chains.values()
            if chain.base is not None and chain.base.hook is hook and name in (None, chain.name)
        ]
        return all(map(is_behind, bases))

    def _is_others(self, decider: Decider | None) -> bool:
        if isinstance(decider, Hop):
            return not self.evaluated.is_ours(decider.rule)
        return isinstance(decider, PolicyDecider)

    def _is_sent_elsewhere(self, trace: Trace) -> bool:
        """Whether a rule of others gives a packet another destination."""
        return any(_is_dnat(statement) for hop in self._touched(trace) for statement in hop.rule.body)

    def _last_of_others(self, trace: Trace) -> Hop | None:
        """The last rule of others that did anything to a packet."""
        touched = list(self._touched(trace))
        return touched[-1] if touched else None

    def _touched(self, trace: Trace) -> Iterator[Hop]:
        """The rules of others that did anything to a packet."""
        for leg in trace.legs:
            for hop in leg.hops:
                if hop.matched and _acts(hop.rule) and not self.evaluated.is_ours(hop.rule):
                    yield hop


def _is_same(one: Outcome, other: Outcome) -> bool:
    """Whether both have the same effect on a connection; older releases handed over by TPROXY what today's redirect."""
    return one == other or (one.kind in CAPTURED and other.kind in CAPTURED and one.port == other.port)


def _is_own(decider: Hop, packet: Packet) -> bool:
    """Whether a neighbour's rule takes what is the neighbour's own."""
    neighbour = neighbour_of(decider.rule.origin)
    return neighbour is not None and OWN.get(neighbour) == str(packet.destination)


def _is_dnat(statement: Statement) -> bool:
    return isinstance(statement, Nat) and statement.kind is NatKind.DNAT


def _acts(rule: Rule) -> bool:
    last = rule.body[-1] if rule.body else None
    if last is None or isinstance(last, Note):
        return False
    return not isinstance(last, End) or last.verdict not in (Verdict.JUMP, Verdict.GOTO)
