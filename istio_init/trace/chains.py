"""Chains, evaluated for all ways of a packet: where a match is undecidable, both ways are followed."""

from __future__ import annotations

from istio_init.netfilter.rules import Cause
from istio_init.trace.body import Body
from istio_init.trace.evaluate import narrow
from istio_init.trace.result import Hop
from istio_init.trace.ways import Open, merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.netfilter.fields import Field
    from istio_init.netfilter.rules import Statement
    from istio_init.trace.compile_rules import CompiledCall, CompiledChain, CompiledRule
    from istio_init.trace.evaluate import Evaluator
    from istio_init.trace.facts import Facts
    from istio_init.trace.result import Outcome
    from istio_init.trace.state import DecidedBy, State, Values

    Exit = tuple[bool, State]
    """A way out of a chain: whether the packet was accepted, and its state; else the chain came to its end."""

    Doubts = list[tuple[Statement, Cause]]
    FinishWay = Callable[[State, Outcome, DecidedBy, Cause | None], None]

MOST_STEPS = 300_000
CALL = 10
"""What calling a chain counts, in steps, as states are copied and compared."""

MOST_WAYS = 512
MOST_FORKS = 10_000

OFTEN = 4
"""A chain that is called more often than that in one walk is not evaluated again in the same state."""


class TooMuch(Exception):
    """The rules lead to more ways, or are more, than can be followed."""


class Chains:
    """Evaluates the chains of one packet's walk. ``call`` is the base chain that is being evaluated.

    ``finish`` takes the ways that end.
    """

    __slots__ = ("_body", "_forks", "_known", "_steps", "_times", "call", "decisions", "evaluator", "facts", "finish")

    def __init__(self, facts: Facts, evaluator: Evaluator, finish: FinishWay) -> None:
        self.facts = facts
        self.evaluator = evaluator
        self.finish = finish
        self.decisions: dict[object, Open] = {}
        self.call: CompiledCall
        self._body = Body(self)
        self._steps = self._forks = 0
        self._times: dict[int, int] = {}
        self._known: dict[object, tuple[list[object], list[Exit], int]] = {}

    def evaluate(self, chain: CompiledChain, state: State, depth: int) -> list[Exit]:
        """All ways out of a chain; ways that end in it are finished."""
        rules = chain.rules
        self._steps += len(rules)
        if self._steps > MOST_STEPS:
            raise TooMuch
        exits: list[Exit] = []
        active = [state]
        for rule in rules:
            holding: list[tuple[State, Doubts | None]] | None = None
            for state in active:
                values, doubts = state.values, None
                for test, statement in rule.tests:
                    answer = test(values)
                    if answer is not True:
                        if answer is False:
                            if state.steps is not None:
                                state.steps.append((rule.rule, False, statement))
                            break
                        doubts = [*(doubts or ()), (statement, answer)]
                else:
                    holding = [*(holding or ()), (state, doubts)]
            if holding is not None:
                active = self._hold(rule, active, holding, exits, depth)
                if not active:
                    break
        exits += [(False, state) for state in active]
        return exits

    def _hold(
        self,
        rule: CompiledRule,
        active: list[State],
        holding: list[tuple[State, Doubts | None]],
        exits: list[Exit],
        depth: int,
    ) -> list[State]:
        """Go on from a rule whose tests hold, or may hold, in some states: all that reach the next rule."""
        held = [state for state, _ in holding]
        left = [state for state in active if state not in held]
        for state, doubts in holding:
            if rule.is_idle:
                note(state, rule, None if doubts else True, doubts[0][0] if doubts else None)
                left.append(state)
            elif doubts is None:
                note(state, rule, True)
                left += self._body.run(rule, state, 0, exits, depth)
            elif (failed := _contradiction(rule, doubts, state.values)) is not None:
                note(state, rule, False, failed)
                left.append(state)
            else:
                note(state, rule, None, doubts[0][0])
                holds = self.branch(state, rule, doubts[0][0], [cause for _, cause in doubts])
                for each, _ in doubts:
                    narrow(holds.values, each, holds=True)
                if len(doubts) == 1:
                    narrow(state.values, doubts[0][0], holds=False)
                left.append(state)
                left += self._body.run(rule, holds, 0, exits, depth)
        if len(left) > 1:
            left = merged(left)
            self._steps += 10 * len(left)
        if len(exits) > MOST_WAYS:
            exits[:] = [
                (accepted, state) for accepted in (True, False) for state in merged(_of(exits, accepted=accepted))
            ]
        if max(len(left), len(exits)) > MOST_WAYS:
            raise TooMuch
        return left

    def branch(self, state: State, rule: CompiledRule, statement: Statement, causes: list[Cause]) -> State:
        """Another way from here on, on which an undecided statement of a rule holds."""
        place = (self.call.hook, id(rule), id(statement))
        if place not in self.decisions:
            hop = Hop(self.call.hook, rule.rule, None, statement)
            self.decisions[place] = Open(tuple(dict.fromkeys(causes)), hop)
        return self.fork(state, place)

    def fork(self, state: State, place: object) -> State:
        """Another way from here on, by a decision that was noted."""
        self._forks += 1
        if self._forks > MOST_FORKS:
            raise TooMuch
        other = state.copy()
        before = frozenset([each for each in state.because if each[0] != place])
        other.because, state.because = before | {(place, 1, 2)}, before | {(place, 0, 2)}
        return other

    def split(
        self, state: State, field: Field, values: list[int], cause: Cause, place: object, hop: Hop | None
    ) -> list[State]:
        """Other ways from here on, one for each value of a field but the first, which the given one takes."""
        self.decisions.setdefault(place, Open((cause,), hop))
        states = [state, *(state.copy() for _ in values[1:])]
        before = frozenset([each for each in state.because if each[0] != place])
        for way, (each, value) in enumerate(zip(states, values, strict=True)):
            each.values[field] = value
            each.because = before | {(place, way, len(values))}
        return states[1:]

    def called(self, chain: CompiledChain, state: State, depth: int) -> list[Exit]:
        """The ways out of a chain; one that is called often is evaluated once for each state."""
        self._steps += CALL
        times = self._times[id(chain)] = self._times.get(id(chain), 0) + 1
        if times <= OFTEN:
            return self.evaluate(chain, state, depth)
        steps = state.steps
        key = id(chain), self.call.hook, steps is None, state.because, state.key()
        known = self._known.get(key)
        if known is None:
            noted: list[object] = []
            state.steps = None if steps is None else noted
            if steps is not None:
                steps.append(noted)
            found = self.evaluate(chain, state, depth)
            main = next((at for at, (_, each) in enumerate(found) if each.steps is not None), -1)
            self._known[key] = noted, [(accepted, each.copy()) for accepted, each in found], main
        else:
            noted, exits, main = known
            found = [(accepted, each.copy()) for accepted, each in exits]
            if steps is not None:
                steps.append(noted)
        if main >= 0:
            found[main][1].steps = steps
        return found


def _contradiction(rule: CompiledRule, doubts: Doubts, values: Values) -> Statement | None:
    """The test of several undecided ones that cannot hold where those before it do; None where all may."""
    if len(doubts) > 1:
        values, asked = values.copy(), {id(statement) for statement, _ in doubts}
        for test, statement in rule.tests:
            if id(statement) in asked:
                if test(values) is False:
                    return statement
                narrow(values, statement, holds=True)
    return None


def note(state: State, rule: CompiledRule, matched: bool | None, missed: Statement | None = None) -> None:
    """List a rule on the way whose rules are listed."""
    if state.steps is not None:
        state.steps.append((rule.rule, matched, missed))


def _of(exits: list[Exit], *, accepted: bool) -> list[State]:
    return [state for was_accepted, state in exits if was_accepted is accepted]
