"""Traces packets through everything that is registered in a namespace."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.netfilter.rules import Cause, Hook, Openness
from istio_init.trace.arrival import Arriving
from istio_init.trace.chains import TooMuch
from istio_init.trace.compile_rules import Compiler
from istio_init.trace.departure import Departures
from istio_init.trace.evaluate import Evaluator
from istio_init.trace.facts import Facts
from istio_init.trace.packet_fields import CT_MARK, DESTINATION, DPORT, MARK, SOURCE, SPORT
from istio_init.trace.result import Ended, Hop, Kind, Outcome, Trace, Way
from istio_init.trace.state import State
from istio_init.trace.walk import Walk
from istio_init.trace.ways import relevant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.packet import Packet
    from istio_init.netfilter.stages import Netfilter
    from istio_init.trace.compile_rules import CompiledStage
    from istio_init.trace.result import Decider
    from istio_init.trace.state import DecidedBy, Number
    from istio_init.trace.ways import Finish, Open

TOO_MANY = Cause(Openness.NOT_MODELLED, "too many rules, or too many of them undecided")
UNKNOWN = Outcome(Kind.UNKNOWN)


class Tracer:
    """Traces packets through a namespace's rules. Made at once; chains are compiled when they are first evaluated."""

    def __init__(self, netfilter: Netfilter, host: Host | None = None) -> None:
        self.netfilter = netfilter
        self.host = host if host is not None else Host()
        self.departures = Departures(self.host, lambda family: self._of(family).facts.tables)
        """The first routes of what starts here."""
        self._families: dict[Family, FamilyTracer] = {}

    def trace(self, packet: Packet) -> Trace:
        """Follow a packet."""
        return self._of(packet.family).trace(packet)

    def _of(self, family: Family) -> FamilyTracer:
        tracer = self._families.get(family)
        if tracer is None:
            tracer = self._families[family] = FamilyTracer(self.netfilter, self.host, family)
        return tracer


class FamilyTracer:
    """Traces packets of one family."""

    def __init__(self, netfilter: Netfilter, host: Host, family: Family) -> None:
        self.netfilter = netfilter
        self.family = family
        self.facts = Facts(host, family)
        self.arriving = Arriving(self.facts, self.facts.tables) if self.facts.tables is not None else None
        self.evaluator = Evaluator(self.facts.derived)
        self.tracks = netfilter.tracks_connections(family)
        self._compiler = Compiler(self.evaluator)
        self._plans: dict[Hook, list[tuple[CompiledStage, ...]]] = {}

    def plan(self, hook: Hook) -> list[tuple[CompiledStage, ...]]:
        """The orders in which the kernel may call the stages of a hook."""
        found = self._plans.get(hook)
        if found is None:
            orders = self.netfilter.stages(self.family, hook)
            compiled = [self._compiler.stages(order, hook, tracks=self.tracks) for order in orders]
            found = self._plans[hook] = compiled
        return found

    def trace(self, packet: Packet) -> Trace:
        """Follow a packet."""
        walk = Walk(self, packet)
        try:
            walk.run()
        except TooMuch:
            answer = Way(UNKNOWN, None, UNKNOWN, None, (TOO_MANY,))
            return Trace(packet, walk.stages.legs, answer, (answer,), _ended(State(packet)))
        return _trace(packet, walk, sorted(walk.finishes, key=_is_other))


def _is_other(finish: Finish) -> bool:
    """Whether it is not the main way's."""
    return finish.state.steps is None


def _trace(packet: Packet, walk: Walk, finishes: list[Finish]) -> Trace:
    """The one answer that is right whichever way the packet takes."""
    decisions, legs = walk.stages.chains.decisions, walk.stages.legs
    main = finishes[0]
    if len({(each.outcome, each.delivered) for each in finishes}) == 1:
        causes = tuple(dict.fromkeys(each.cause for each in finishes if each.cause is not None))
        answer = _way(main, causes)
        return Trace(packet, legs, answer, (answer,), _ended_all(finishes))
    # Ways that met again may have lost on what it hinges between them: then it may be on any decision.
    places = relevant(finishes) or set(decisions)
    ways: dict[tuple[Outcome, Outcome], Way] = {}
    for each in finishes:
        own = (each.cause,) if each.cause is not None else ()
        hinging = _causes(decisions, {place for place, _, _ in each.state.because if place in places})
        ways.setdefault((each.outcome, each.delivered), _way(each, tuple(dict.fromkeys((*hinging, *own)))))
    causes = _causes(decisions, places)
    causes = tuple(dict.fromkeys((*causes, *(each.cause for each in finishes if each.cause is not None))))
    decider = next((decisions[place].hop for place in decisions if place in places and decisions[place].hop), None)
    outcomes, delivered = {outcome for outcome, _ in ways}, {end for _, end in ways}
    first = _way(main, causes)
    answer = Way(
        *((first.outcome, first.decided_by) if len(outcomes) == 1 else (UNKNOWN, decider)),
        *((first.delivered, first.delivered_by) if len(delivered) == 1 else (UNKNOWN, decider)),
        causes,
    )
    return Trace(packet, legs, answer, tuple(ways.values()), _ended_all(finishes))


def _causes(decisions: dict[object, Open], places: set[object]) -> tuple[Cause, ...]:
    """The causes of decisions, in the order in which they were met."""
    return tuple(dict.fromkeys(cause for place, each in decisions.items() if place in places for cause in each.causes))


def _way(finish: Finish, causes: tuple[Cause, ...]) -> Way:
    decided_by = _decider(finish.decided_by)
    same = finish.delivered_by is finish.decided_by
    delivered_by = decided_by if same else _decider(finish.delivered_by)
    return Way(finish.outcome, decided_by, finish.delivered, delivered_by, causes)


def _decider(decided_by: DecidedBy) -> Decider | None:
    return Hop(*decided_by, True) if isinstance(decided_by, tuple) else decided_by


def _ended_all(finishes: list[Finish]) -> Ended:
    """The packet as it ended on all ways."""
    main, *others = [_ended(each.state) for each in finishes]
    via = dict.fromkeys(main.via)
    for each in others:
        if each != main:
            via.update(dict.fromkeys(each.via))
            changed = {name for name in Ended.__match_args__ if getattr(each, name) != getattr(main, name)}
            main = main.replace(**dict.fromkeys(changed - {"via"}))
    return main.replace(via=tuple(via))


def _ended(state: State) -> Ended:
    values = state.values
    return Ended(
        _known(values[SOURCE]),
        _known(values[DESTINATION]),
        _known(values[SPORT]),
        _known(values[DPORT]),
        _known(values[MARK]),
        _known(values[CT_MARK]),
        (None if state.is_here else state.device or "",),
    )


def _known(value: Number) -> int | None:
    return value if value.__class__ is int else None
