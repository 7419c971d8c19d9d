"""What a rule does whose tests hold: its statements, carried out one by one."""

from __future__ import annotations

from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import (
    Assign,
    AssignFrom,
    Cause,
    Dispatch,
    End,
    Forget,
    Nat,
    Openness,
    Tproxy,
    Unknowable,
    Untrack,
    Verdict,
    Zone,
)
from istio_init.trace.connection import do_not_track, put_template
from istio_init.trace.effects import Translation, assign, forget
from istio_init.trace.evaluate import narrow
from istio_init.trace.packet_fields import CT_MARK, DESTINATION, DPORT
from istio_init.trace.proxy import hand_over, socket_for, target_of
from istio_init.trace.result import Hop, Kind, Outcome, SocketDecider
from istio_init.trace.state import Unsure, anything, few_values, not_given, points

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.netfilter.rules import Box, Statement
    from istio_init.trace.chains import Chains, Exit
    from istio_init.trace.compile_rules import CompiledRule
    from istio_init.trace.state import State

MOST_DEPTH = 100
"""So deep chains may call each other here; those of nf_tables 16 levels (NFT_JUMP_STACK_SIZE)."""

FEW = 16
"""Of so many ports or addresses that a translation may choose each is followed."""

DROP, REJECT, UNKNOWN = Outcome(Kind.DROP), Outcome(Kind.REJECT), Outcome(Kind.UNKNOWN)
KEEPING = frozenset([Kind.REDIRECT, Kind.TPROXY, Kind.DNAT])
"""What a later rule that lets pass has not decided."""

TAKEN = {Verdict.QUEUE: "a program decides", Verdict.STOLEN: "the packet is taken away"}


class Body:
    """Carries out the statements of rules; what is asked of chains it has `Chains` do."""

    __slots__ = ("chains",)

    def __init__(self, chains: Chains) -> None:
        self.chains = chains

    def run(self, rule: CompiledRule, state: State, at: int, exits: list[Exit], depth: int) -> list[State]:
        """Carry out a rule's statements from one on: the states that go on with the next rule."""
        rest, facts = rule.rest, self.chains.facts
        while at < len(rest):
            statement, test = rest[at]
            at += 1
            if test is not None:
                answer = test(state.values)
                if answer is False:
                    return _left(rule, state, statement)
                if isinstance(answer, Cause):
                    return self._either(rule, state, statement, answer, at, exits, depth)
                continue
            match statement:
                case End():
                    return self._end(rule, state, statement, exits, depth)
                case Assign() if not (state.has_template and statement.field is CT_MARK):
                    assign(state.values, statement, facts)
                case Forget():
                    forget(state.values, statement, facts)
                case Zone(zone, even_untracked):
                    known = anything(Field.CT_ZONE, facts.family.bits, zone) if isinstance(zone, Cause) else zone
                    put_template(state, known, even_untracked=even_untracked)
                case Untrack():
                    do_not_track(state)
                case Nat():
                    self._translate(rule, state, statement, exits)
                    return []
                case Tproxy():
                    return self._proxy(rule, state, statement, at, exits, depth)
                case AssignFrom():
                    return self._assign_from(rule, state, statement, at, exits, depth)
                case Dispatch():
                    return self._dispatch(rule, state, statement, at, exits, depth)
                case Unknowable(cause):
                    self.chains.finish(state, UNKNOWN, (self.chains.call.hook, rule.rule), cause)
                    return []
                case Assign():
                    pass  # What is written to a template stays with it.
                case _:
                    raise TypeError(statement)
        return [state]

    def _either(
        self, rule: CompiledRule, state: State, missed: Statement, cause: Cause, at: int, exits: list[Exit], depth: int
    ) -> list[State]:
        """Follow both ways of a test within the rule: one leaves it, the other goes on behind the test."""
        holds = self.chains.branch(state, rule, missed, [cause])
        narrow(holds.values, missed, holds=True)
        narrow(state.values, missed, holds=False)
        return _left(rule, state, missed, None) + self.run(rule, holds, at, exits, depth)

    def _end(self, rule: CompiledRule, state: State, end: End, exits: list[Exit], depth: int) -> list[State]:
        verdict, finish, here = end.verdict, self.chains.finish, (self.chains.call.hook, rule.rule)
        if verdict is Verdict.JUMP or verdict is Verdict.GOTO:
            return self._jump(rule, state, end, exits, depth)
        if verdict is Verdict.ACCEPT or verdict is Verdict.RETURN:
            self._passed(state, rule)
            exits.append((verdict is Verdict.ACCEPT, state))
        elif verdict is Verdict.DROP:
            finish(state, DROP, here, None)
        elif verdict is Verdict.REJECT:
            finish(state, REJECT, here, None)
        else:
            finish(state, UNKNOWN, here, Cause(Openness.OPEN, f"{TAKEN[verdict]}: {rule.rule.origin.text}"))
        return []

    def _passed(self, state: State, rule: CompiledRule) -> None:
        """Remember a rule that lets pass as what decides, where it keeps the packet from being redirected.

        On the second leg it does not take the place of one that decided on the first.
        """
        call = self.chains.call
        if (
            call.lets_pass
            and state.outcome.kind not in KEEPING
            and not (state.has_returned and state.decided_by is not None)
        ):
            state.decided_by = (call.hook, rule.rule)

    def _jump(self, rule: CompiledRule, state: State, end: End, exits: list[Exit], depth: int) -> list[State]:
        chains = self.chains
        chain = chains.call.chain.table.chain(end.chain)
        if chain is None or depth >= MOST_DEPTH:
            words = f"chain {end.chain} is missing" if chain is None else "chains call each other too deep"
            chains.finish(state, UNKNOWN, (chains.call.hook, rule.rule), Cause(Openness.NOT_GIVEN, words))
            return []
        left = []
        for accepted, each in chains.called(chain, state, depth + 1):
            if accepted or end.verdict is Verdict.GOTO:
                exits.append((accepted, each))
            else:
                left.append(each)
        return left

    def _translate(self, rule: CompiledRule, state: State, nat: Nat, exits: list[Exit]) -> None:
        """Translate and accept. A choice of few addresses or ports is followed for each of them."""
        chains, here = self.chains, (self.chains.call.hook, rule.rule)
        if state.has_template:  # As if it were confirmed, it is not translated (nf_nat_setup_info).
            exits.append((True, state))
            return
        before = state.values[DESTINATION], state.values[DPORT]
        if not Translation(nat, chains.call.hook, chains.facts).apply(state):
            chains.finish(state, DROP, here, None)
            return
        if not nat.kind.is_of_destination:
            exits.append((True, state))
            return
        for each in self._chosen(state, rule, nat):
            address, port = each.values[DESTINATION], each.values[DPORT]
            if isinstance(port, Unsure):
                chains.finish(each, UNKNOWN, here, port.cause)
                continue
            if each.outcome.kind is not Kind.TPROXY:  # The packet has a socket already, and keeps it.
                kind = Kind.REDIRECT if nat.kind.value == "redirect" else Kind.DNAT
                known = address if isinstance(address, int) else None
                changed = kind is Kind.REDIRECT or (address, port) != before
                each.outcome = Outcome(kind, port, known) if changed else each.outcome
                each.decided_by = here
            exits.append((True, each))

    def _chosen(self, state: State, rule: CompiledRule, nat: Nat) -> list[State]:
        """The state, or one for each address and port that the kernel may choose."""
        found = [state]
        for field in (DESTINATION, DPORT):
            for each in list(found):
                value = each.values[field]
                few = few_values(value) if isinstance(value, Unsure) else None
                if few is not None and len(few) <= FEW:
                    place = (self.chains.call.hook, id(rule), field)
                    hop = Hop(self.chains.call.hook, rule.rule, True, nat)
                    found += self.chains.split(each, field, few, value.cause, place, hop)
        return found

    def _proxy(
        self, rule: CompiledRule, state: State, proxy: Tproxy, at: int, exits: list[Exit], depth: int
    ) -> list[State]:
        answer = socket_for(self.chains.facts, proxy, state.values)
        without, left = state, []
        if answer is not False:
            taken = state if answer is True else self.chains.branch(state, rule, proxy, [answer])
            hand_over(taken, proxy, self.chains.facts)
            taken.decided_by = (self.chains.call.hook, rule.rule)
            if proxy.drops:
                exits.append((True, taken))
            else:
                left = self.run(rule, taken, at, exits, depth)
            if answer is True:
                return left
        if proxy.drops:
            hop = Hop(self.chains.call.hook, rule.rule, True, proxy)
            decider = SocketDecider(hop, *target_of(self.chains.facts, proxy, without.values))
            self.chains.finish(without, DROP, decider, None)
            return left
        return left + _left(rule, without, proxy, False if answer is False else None)

    def _assign_from(
        self, rule: CompiledRule, state: State, given: AssignFrom, at: int, exits: list[Exit], depth: int
    ) -> list[State]:
        found, may_miss, cause = self._map(given, given.values, state)
        field, misses = given.field, state
        left: list[State] = []
        if cause is not None or found:
            holds = self.chains.branch(state, rule, given, [cause]) if cause is not None and may_miss else state
            if cause is None:
                holds.values[field] = found[0]
            elif found:
                holds.values[field] = Unsure(points(each for each in found if isinstance(each, int)), cause)
            else:
                holds.values[field] = anything(field, self.chains.facts.family.bits, cause)
            left = self.run(rule, holds, at, exits, depth)
        if may_miss and given.otherwise_goes_on:
            left += self.run(rule, misses, at, exits, depth)
        elif may_miss:
            left += _left(rule, misses, given, False if cause is None else None)
        return left

    def _dispatch(
        self, rule: CompiledRule, state: State, given: Dispatch, at: int, exits: list[Exit], depth: int
    ) -> list[State]:
        """End with a verdict of the map; what stands behind it is for keys that it lets go on."""
        found, may_miss, cause = self._map(given, given.verdicts, state)
        if cause is None:
            [*ends] = [each for each in found if isinstance(each, End)]
            if ends:
                return self._end(rule, state, ends[0], exits, depth)
            return self._missed(rule, state, given, at, exits, depth, matched=False)
        left: list[State] = []
        ends = [each for each in dict.fromkeys(found) if isinstance(each, End)]
        for number, end in enumerate(ends):
            is_last = number == len(ends) - 1 and not may_miss
            holds = state if is_last else self.chains.branch(state, rule, end, [cause])
            left += self._end(rule, holds, end, exits, depth)
        if not ends:  # Its elements come and go: it may have any verdict for the packet.
            holds = self.chains.branch(state, rule, given, [cause])
            self.chains.finish(holds, UNKNOWN, (self.chains.call.hook, rule.rule), cause)
        return left + self._missed(rule, state, given, at, exits, depth, matched=None) if may_miss else left

    def _missed(
        self,
        rule: CompiledRule,
        state: State,
        given: Dispatch,
        at: int,
        exits: list[Exit],
        depth: int,
        *,
        matched: bool | None,
    ) -> list[State]:
        if at < len(rule.rest):
            return self.run(rule, state, at, exits, depth)
        return _left(rule, state, given, matched)

    def _map(
        self, given: AssignFrom | Dispatch, boxes: Iterable[tuple[Box, object]], state: State
    ) -> tuple[list[object], bool, Cause | None]:
        """What a map may give, whether it may have nothing, and why that is not known."""
        evaluator = self.chains.evaluator
        key = evaluator.key(given.keys, state.values)
        if None in key:
            return [], True, None
        if not given.is_complete:
            return [], True, not_given("the elements of a map")
        index = evaluator.index(given, boxes)
        if all(number.__class__ is int for number in key):
            found = index.find(key)
            return ([], True, None) if found is None else ([found[0]], False, None)
        possible, is_certain = index.possible(key)
        if not possible or (is_certain and len(possible) == 1):
            return possible, not possible, None
        return possible, not is_certain, next(each.cause for each in key if isinstance(each, Unsure))


def _left(rule: CompiledRule, state: State, statement: Statement, matched: bool | None = False) -> list[State]:
    """Go on with the next rule: this one has not matched after all."""
    if state.steps:
        state.steps[-1] = (rule.rule, matched, statement)
    return [state]
