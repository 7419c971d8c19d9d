"""One hook: its stages in order, for all ways of a packet."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, CtState
from istio_init.netfilter.intervals import contains, difference, intersection
from istio_init.netfilter.rules import Cause, Hook, Openness
from istio_init.netfilter.stages import Core
from istio_init.trace.body import DROP, UNKNOWN
from istio_init.trace.chains import Chains
from istio_init.trace.compile_rules import CompiledNat
from istio_init.trace.connection import look_up_connection, write_source_again
from istio_init.trace.leaving import leaving
from istio_init.trace.packet_fields import (
    CT_ORIG_DESTINATION,
    CT_REPLY_DESTINATION,
    CT_REPLY_DPORT,
    CT_REPLY_SOURCE,
    CT_REPLY_SPORT,
    DESTINATION,
    DPORT,
    MARK,
    SOURCE,
    SPORT,
    TOS,
    TTL,
)
from istio_init.trace.result import Outcome, PolicyDecider, RoutingDecider
from istio_init.trace.routing import FAILURES
from istio_init.trace.state import NAT_DONE, Unsure, not_given
from istio_init.trace.ways import Open, merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    from istio_init.netfilter.packet import Packet
    from istio_init.trace.chains import FinishWay
    from istio_init.trace.compile_rules import CompiledCall, CompiledStage
    from istio_init.trace.evaluate import Evaluator
    from istio_init.trace.facts import Facts
    from istio_init.trace.result import Leg
    from istio_init.trace.state import DecidedBy, Number, State

    Option = TypeVar("Option")
    Plan = Callable[[Hook], list[tuple[CompiledStage, ...]]]

TRANSLATED_STATES = int(CtState.NEW | CtState.RELATED)
"""Of which packets nat is asked: a connection's first one (nf_nat_inet_fn)."""

ROUTED_BY = (MARK, SOURCE, DESTINATION, TOS)
"""A change of these makes the kernel ask for the route again behind a route chain; in IPv6 of the hop limit, too."""


AS_BEFORE = not_given("whether its connection is translated")
_ENDS = (SOURCE, SPORT, DESTINATION, DPORT)
_ENDS_OF_ANSWERS = (CT_REPLY_SOURCE, CT_REPLY_SPORT, CT_REPLY_DESTINATION, CT_REPLY_DPORT)


class Stages:
    """Takes the ways of one packet through hooks. ``legs`` are those of the main way."""

    __slots__ = ("chains", "facts", "finish", "legs", "packet", "plan", "routed_by")

    def __init__(self, packet: Packet, plan: Plan, facts: Facts, evaluator: Evaluator, finish: FinishWay) -> None:
        self.packet = packet
        self.plan = plan
        self.facts = facts
        self.finish = finish
        self.legs: list[Leg] = []
        self.chains = Chains(facts, evaluator, finish)
        self.routed_by = ROUTED_BY if facts.family is Family.IPV4 else (*ROUTED_BY, TTL)

    def hook(self, states: list[State], hook: Hook) -> list[State]:
        """Go through a hook's stages, in each order in which the kernel may call them."""
        orders = self.plan(hook)
        if len(orders) == 1:
            return self._in_order(states, orders[0], hook)
        words = f"in which order chains of the same priority are called at {hook.value}"
        place = (hook, "order")
        self.chains.decisions.setdefault(place, Open((Cause(Openness.NOT_GIVEN, words),)))
        left = []
        for way, stages in enumerate(orders):
            copies = [state.copy() for state in states]
            for state, each in zip(states, copies, strict=True):
                each.steps = state.steps if way == 0 else None
                each.because |= {(place, way, len(orders))}
            left += self._in_order(copies, stages, hook)
        return merged(left)

    def _in_order(self, states: list[State], stages: Sequence[CompiledStage], hook: Hook) -> list[State]:
        for state in states:
            if state.steps is not None:
                state.steps = []
                self.legs[-1].segments.append((hook, state.steps))
        for stage in stages:
            if isinstance(stage, Core):
                for state in states:
                    look_up_connection(state, self.packet)
            elif isinstance(stage, CompiledNat):
                if hook is Hook.INPUT:
                    write_source_again(states)
                states = self._nat(states, stage, hook)
            else:
                states = self._filter(states, stage)
            if len(states) > 1:
                states = merged(states)
        if hook is not Hook.FORWARD:
            for state in states:
                if state.is_looked_up:
                    state.nat_done |= NAT_DONE[hook]
        if hook is Hook.INPUT and not any(isinstance(stage, CompiledNat) for stage in stages):
            write_source_again(states)
        return states

    def _filter(self, states: list[State], call: CompiledCall) -> list[State]:
        """Call a base chain; a route chain that changes what routing looks at makes it ask again."""
        left: list[State] = []
        for state in states:
            before = [state.values[field] for field in self.routed_by] if call.is_route else None
            passed = self._call(call, state)
            if before is None:
                left += passed
                continue
            for each in passed:
                changes = [*map(_changed, before, [each.values[field] for field in self.routed_by])]
                causes = [change for change in changes if isinstance(change, Cause)]
                options = (True,) if True in changes else (False, True) if causes else (False,)
                for one, is_changed in self.either(each, options, causes, "rerouting"):
                    left += self._route_again(one) if is_changed else [one]
        return left

    def _call(self, call: CompiledCall, state: State) -> list[State]:
        """The ways on which a base chain, or its policy, accepts."""
        self.chains.call = call
        left = []
        for accepted, each in self.chains.evaluate(call.chain, state, 0):
            if accepted or not call.drops:
                left.append(each)
            else:
                table = call.table
                decider = PolicyDecider(call.hook, table.store, table.family, table.name, call.chain.name)
                self.finish(each, DROP, decider, None)
        return left

    def _nat(self, states: list[State], stage: CompiledNat, hook: Hook) -> list[State]:
        """Ask nat, chain by chain until one translates, once for a connection."""
        left: list[State] = []
        is_first = bool(int(self.packet.state) & TRANSLATED_STATES)
        for state in states:
            if not state.has_connection or state.nat_done & NAT_DONE[hook]:
                left.append(state)
                continue
            if not is_first and not state.has_template:  # A template passes for a new connection.
                left += self._as_before(state, stage, hook)
                continue
            mapped, asked = self._asked(state, stage)
            for each in (*mapped, *asked):
                each.is_mapped = False
                if hook is Hook.OUTPUT and each.values[CT_REPLY_SOURCE] != each.values[CT_ORIG_DESTINATION]:
                    left += self._route_again(each)
                else:
                    left.append(each)
        return left

    def _asked(self, state: State, stage: CompiledNat) -> tuple[list[State], list[State]]:
        """Ask nat's chains: the ways on which one translates, and those on which none does."""
        state.is_mapped = False
        asked: list[State] = [state]
        mapped: list[State] = []
        for call in stage.calls:
            passed = [each for one in asked for each in self._call(call, one)]
            mapped += [each for each in passed if each.is_mapped]
            asked = [each for each in passed if not each.is_mapped]
        return mapped, asked

    def _translated_before(self, state: State, stage: CompiledNat) -> Iterator[State | Outcome]:
        """What these rules would have made of the first packet, where it is another one; UNKNOWN where undecidable.

        What ends among them is no packet.
        """
        ended: list[Outcome] = []

        def finish(_: State, outcome: Outcome, decided_by: DecidedBy, cause: Cause | None) -> None:
            ended.append(outcome)

        chains, self.chains = self.chains, Chains(self.facts, self.chains.evaluator, finish)
        self.chains.decisions = chains.decisions
        try:
            mapped, _ = self._asked(state.copy(), stage)
        finally:
            self.chains = chains
        yield from (each for each in mapped if any(each.values[field] != state.values[field] for field in _ENDS))
        if UNKNOWN in ended:
            yield UNKNOWN

    def _as_before(self, state: State, stage: CompiledNat, hook: Hook) -> list[State]:
        """A later packet of a connection: translated as its first one was, which these rules may have seen or not."""
        changed: list[State | Outcome] = [*self._translated_before(state, stage)]
        if not changed:
            return [state]
        found = []
        for each, translated in self.either(state, (None, *changed), (AS_BEFORE,), f"mapping at {hook.value}"):
            if translated is None:
                found.append(each)
                continue
            if isinstance(translated, Outcome):
                self.finish(each, translated, None, AS_BEFORE)
                continue
            each.values.update((field, translated.values[field]) for field in (*_ENDS, *_ENDS_OF_ANSWERS))
            each.because |= translated.because
            each.outcome, each.decided_by = translated.outcome, translated.decided_by
            is_routed = hook is Hook.OUTPUT and each.values[DESTINATION] != state.values[DESTINATION]
            found += self._route_again(each) if is_routed else [each]
        return found

    def _route_again(self, state: State) -> list[State]:
        """Ask for the route of what starts here; where there is none the packet is dropped."""
        found, causes = leaving(self.facts, state, self.packet)
        if not found:
            self.finish(state, UNKNOWN, RoutingDecider("its route is undecidable"), causes[0])
            return []
        left = []
        for each, route in self.either(state, found, causes, "route"):
            if route.type in FAILURES:
                self.finish(each, DROP, RoutingDecider(route.words), None)
                continue
            each.device = route.device
            each.is_local = route.type in (AddressType.LOCAL, AddressType.ANYCAST)
            left.append(each)
        return left

    def either(
        self, state: State, options: Sequence[Option], causes: Sequence[Cause], what: str
    ) -> list[tuple[State, Option]]:
        """One way for each of several answers, where it is undecidable which it is."""
        if len(options) == 1:
            return [(state, options[0])]
        place = (what, causes[0])
        self.chains.decisions.setdefault(place, Open(tuple(causes)))
        before = frozenset([each for each in state.because if each[0] != place])
        states = [state, *(state.copy() for _ in options[1:])]
        for way, each in enumerate(states):
            each.because = before | {(place, way, len(options))}
        return list(zip(states, options, strict=True))


def _changed(before: Number, after: Number) -> bool | Cause:
    """Whether a rule has changed a value; that a test has told more of it is no change."""
    if not isinstance(before, Unsure) and not isinstance(after, Unsure):
        return before != after
    if before is None or after is None:
        return True
    if isinstance(before, int):
        assert isinstance(after, Unsure)
        return after.cause if contains(after.within, before) else True
    if isinstance(after, int):
        return before.cause if contains(before.within, after) else True
    if before.cause == after.cause and not difference(after.within, before.within):
        return False
    return after.cause if intersection(before.within, after.within) else True
