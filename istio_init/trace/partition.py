"""Divides all new connections by what becomes of them: the tracer's walk, with regions of packets instead of one.

Each rule splits the regions that reach it into what matches and what goes on, so that every packet is in exactly one
class. Rules in a row that do the same and differ in one dimension are taken as one, which keeps a thousand excluded
ranges a single split.
"""

from __future__ import annotations

from istio_init.model.matches import Mark
from istio_init.model.netfilter import Table
from istio_init.model.rules import Rule
from istio_init.model.targets import (
    CtZone,
    Goto,
    Jump,
    OpaqueTarget,
    Redirect,
    RestoreMark,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
    Verdict,
)
from istio_init.model.value import Value
from istio_init.trace.engine import (
    CONTINUING,
    INPUT_TABLES,
    LOOPBACK,
    LOOPBACK_TABLES,
    MAX_DEPTH,
    OUTPUT_TABLES,
    PREROUTING_TABLES,
    Outcome,
)
from istio_init.trace.intervals import contains, difference, intersection, union
from istio_init.trace.packet import Direction
from istio_init.trace.space import (
    DESTINATION,
    DPORT,
    INTERFACE,
    MARK,
    Region,
    Space,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.model.rules import Chain, RuleSet
    from istio_init.trace.intervals import Intervals
    from istio_init.trace.space import Test


class Decider(Value):
    """The rules that decide: numbers ``first`` to ``last`` of a chain. None stands for no rule at all."""

    table: Table
    chain: str
    first: int
    last: int
    rule: Rule


class Piece(Value):
    """Packets that share their fate so far: a region of packets as they began, and what was done to all of them.

    ``changed`` are values that rules set, by dimension; ``loopback`` says that they came in again by lo.
    """

    region: Region
    outcome: Outcome = Outcome("direct")
    decider: Decider | None = None
    changed: tuple[tuple[int, int], ...] = ()
    connmark: int = 0
    loopback: bool = False
    ended: bool = False


class _Step(Value):
    """One rule, or several alike in a row, with the regions that match."""

    decider: Decider
    tests: tuple[tuple[tuple[int, Intervals], ...], ...]
    certain: bool


def partition(rules: RuleSet, space: Space) -> list[Piece]:
    """Every new connection of the space, in disjoint pieces with their final outcome."""
    return _Partition(rules, space).run()


class _Partition:
    def __init__(self, rules: RuleSet, space: Space) -> None:
        self.rules = rules
        self.space = space
        self._steps: dict[tuple[Table, str, bool], list[_Step]] = {}

    def run(self) -> list[Piece]:
        """Walk the hooks of the space's direction."""
        start = [Piece(self.space.whole)]
        if self.space.direction is Direction.INBOUND:
            return merged(self._hook("INPUT", INPUT_TABLES, self._hook("PREROUTING", PREROUTING_TABLES, start)))
        sent = self._hook("OUTPUT", OUTPUT_TABLES, start)
        lo = self.space.interfaces.index("lo")
        here: Test = {INTERFACE: ((lo, lo),)}
        returning, done = [], []
        for piece in sent:
            if piece.ended:
                done.append(piece)
            elif piece.outcome.kind == "redirect":
                returning.append(piece)
            else:
                inside, outside = _split(piece.region, here)
                returning += [piece.replace(region=inside)] if inside else []
                done += [piece.replace(region=each) for each in outside]
        returning = [piece.replace(loopback=True) for piece in returning]
        returning = self._hook("PREROUTING", LOOPBACK_TABLES, returning)
        return merged(done + self._hook("INPUT", INPUT_TABLES[:-1], returning))

    def _hook(self, hook: str, tables: tuple[Table, ...], pieces: list[Piece]) -> list[Piece]:
        for table in tables:
            chain = self.rules.chain(table, hook)
            if chain is None or not (chain.entries or chain.policy == "DROP"):
                continue
            passing = [piece for piece in pieces if not piece.ended]
            ended = [piece for piece in pieces if piece.ended]
            fell, accepted, stopped = self._chain(table, hook, passing, 0)
            if chain.policy == "DROP":
                stopped += [each.replace(outcome=Outcome("drop"), decider=None, ended=True) for each in fell]
                fell = []
            pieces = merged(ended + fell + accepted + stopped)
        return pieces

    def _chain(
        self, table: Table, name: str, pieces: list[Piece], depth: int
    ) -> tuple[list[Piece], list[Piece], list[Piece]]:
        """Walk a chain: what reaches its end or returns, what is done with the table, and what is done for good."""
        returned: list[Piece] = []
        accepted: list[Piece] = []
        stopped: list[Piece] = []
        for step in self._steps_of(table, name, loopback=any(piece.loopback for piece in pieces)):
            going: list[Piece] = []
            for piece in pieces:
                matching, missing = self._match(step, piece, table)
                going += missing
                for each in matching:
                    if not step.certain:
                        stopped.append(each.replace(outcome=Outcome("unknown"), decider=step.decider, ended=True))
                        continue
                    on, back, done, final = self._target(table, step, each, depth)
                    going += on
                    returned += back
                    accepted += done
                    stopped += final
            pieces = merged(going) if len(going) > 8 else going
        return pieces + returned, accepted, stopped

    def _match(self, step: _Step, piece: Piece, table: Table) -> tuple[list[Piece], list[Piece]]:
        """Split a piece at a step into what matches and what does not."""
        if table is Table.RAW and "ctstate" in _kinds(step.decider.rule):
            return [], [piece]
        matching: list[Piece] = []
        left = [piece.region]
        for test in step.tests:
            constant = _without_changed(piece, dict(test))
            if constant is None:
                continue
            rest: list[Region] = []
            for region in left:
                inside, outside = _split(region, constant)
                if inside:
                    matching.append(piece.replace(region=inside))
                rest += outside
            left = rest
        return matching, [piece.replace(region=region) for region in left]

    def _target(
        self, table: Table, step: _Step, piece: Piece, depth: int
    ) -> tuple[list[Piece], list[Piece], list[Piece], list[Piece]]:
        """Carry out a target: what goes on in the chain, returns, is done with the table, is done for good."""
        target = step.decider.rule.target
        match target:
            case None | CtZone():
                return [piece], [], [], []
            case Verdict(name):
                decided = piece if table is Table.RAW and name != "DROP" else self._decide(piece, step, target)
                if name == "DROP":
                    return [], [], [], [decided.replace(outcome=Outcome("drop"), decider=step.decider, ended=True)]
                if name == "QUEUE":
                    return [], [], [], [decided.replace(outcome=Outcome("unknown"), ended=True)]
                return ([], [decided], [], []) if name == "RETURN" else ([], [], [decided], [])
            case Jump(name) | Goto(name):
                if self.rules.chain(table, name) is None or depth >= MAX_DEPTH:
                    return [], [], [], [piece.replace(outcome=Outcome("unknown"), decider=step.decider, ended=True)]
                back, done, final = self._chain(table, name, [piece], depth + 1)
                return ([], back, done, final) if isinstance(target, Goto) else (back, [], done, final)
            case Redirect() | Tproxy():
                return [], [], [self._decide(self._deliver(piece, target), step, target)], []
            case SetMark() | SetConnmark() | SaveMark() | RestoreMark():
                return self._mark(piece, target, step), [], [], []
            case OpaqueTarget(name, _) if name in CONTINUING:
                return [piece], [], [], []
            case OpaqueTarget(name, _):
                kind = "drop" if name == "REJECT" else "unknown"
                return [], [], [], [piece.replace(outcome=Outcome(kind), decider=step.decider, ended=True)]

    def _decide(self, piece: Piece, step: _Step, target: object) -> Piece:
        """Remember who decides; a redirection stays decided, whatever lets the packet pass afterwards."""
        settled = piece.outcome.kind in ("redirect", "tproxy") and not isinstance(target, Redirect | Tproxy)
        return piece if settled and piece.decider is not None else piece.replace(decider=step.decider)

    def _deliver(self, piece: Piece, target: Redirect | Tproxy) -> Piece:
        if isinstance(target, Tproxy):
            mark = _set(self._marks(piece), target.mark, target.mask)
            changed = _changed(piece, {MARK: mark}) if mark is not None else piece.changed
            return piece.replace(outcome=Outcome("tproxy", target.port), changed=changed)
        values = {DPORT: target.ports.first} if target.ports is not None else {}
        if self.space.direction is Direction.OUTBOUND and not piece.loopback:
            values[DESTINATION] = LOOPBACK[self.space.family]
        port = target.ports.first if target.ports is not None else None
        return piece.replace(outcome=Outcome("redirect", port), changed=_changed(piece, values))

    def _marks(self, piece: Piece) -> int | None:
        """The packet mark, where all packets of the piece have the same."""
        for dimension, value in piece.changed:
            if dimension == MARK:
                return value
        [(low, high), *more] = piece.region[MARK]
        return low if low == high and not more else None

    def _mark(self, piece: Piece, target: object, step: _Step) -> list[Piece]:
        mark = self._marks(piece)
        match target:
            case SetMark(value, mask):
                new = _set(mark, value, mask)
            case SetConnmark(value, mask):
                return [piece.replace(connmark=(piece.connmark & ~mask) ^ value)]
            case SaveMark(nfmask, ctmask):
                # New connections are looked at: no later rule of this packet's way tests what is saved.
                return (
                    [piece] if mark is None else [piece.replace(connmark=(piece.connmark & ~ctmask) ^ (mark & nfmask))]
                )
            case RestoreMark(nfmask, ctmask):
                new = _set(mark, piece.connmark & ctmask, nfmask)
            case _:
                new = None
        if new is None:
            return [piece.replace(outcome=Outcome("unknown"), decider=step.decider)]
        return [piece.replace(changed=_changed(piece, {MARK: new}))]

    def _steps_of(self, table: Table, name: str, *, loopback: bool) -> list[_Step]:
        key = table, name, loopback
        if key not in self._steps:
            chain = self.rules.chain(table, name)
            self._steps[key] = [] if chain is None else self._compiled(table, chain, loopback=loopback)
        return self._steps[key]

    def _compiled(self, table: Table, chain: Chain, *, loopback: bool) -> list[_Step]:
        steps: list[_Step] = []
        pending: list[Intervals] = []
        varying: int | None = None

        def flush() -> None:
            if varying is not None and len(pending) > 1:
                tests = dict(steps[-1].tests[0])
                tests[varying] = union(pending)
                steps[-1] = steps[-1].replace(tests=(tuple(sorted(tests.items())),))

        for number, entry in enumerate(chain.entries, 1):
            found = self.space.condition(entry.rule, loopback=loopback)
            step = _Step(Decider(table, chain.name, number, number, entry.rule), found.tests, found.certain)
            dimension = _differs_in(steps[-1], step, varying) if steps else None
            if dimension is None:
                flush()
                steps.append(step)
                pending, varying = [], None
                continue
            if varying is None:
                varying, pending = dimension, [dict(steps[-1].tests[0])[dimension]]
            pending.append(dict(step.tests[0])[dimension])
            steps[-1] = steps[-1].replace(decider=steps[-1].decider.replace(last=number))
        flush()
        return steps


def _without_changed(piece: Piece, test: Test) -> Test | None:
    """Decide the tests of what rules have set; None where one fails."""
    for dimension, value in piece.changed:
        if dimension in test:
            if not contains(test[dimension], value):
                return None
            del test[dimension]
    return test


def _differs_in(one: _Step, other: _Step, varying: int | None) -> int | None:
    """The single dimension in which two rules with the same target differ, where one split can do for both."""
    same_target = one.decider.rule.target == other.decider.rule.target
    ends = isinstance(one.decider.rule.target, Verdict | Redirect | Tproxy | Jump)
    if not (same_target and ends and one.certain and other.certain and len(one.tests) == len(other.tests) == 1):
        return None
    if _headers(one.decider.rule) != _headers(other.decider.rule):
        return None
    first, second = dict(one.tests[0]), dict(other.tests[0])
    if first.keys() != second.keys():
        return None
    differing = [dimension for dimension in first if first[dimension] != second[dimension]]
    if varying is not None:
        return varying if set(differing) <= {varying} else None
    return differing[0] if len(differing) == 1 else None


def _headers(rule: Rule) -> tuple[object, ...]:
    """What a step's test regions do not tell: which kind of interface is tested, and tests of tracking."""
    return rule.in_interface, rule.out_interface, *sorted(_kinds(rule))


def _kinds(rule: Rule) -> set[str]:
    return {type(match).__name__.lower() for match in rule.matches if not isinstance(match, Mark)}


def _set(mark: int | None, value: int, mask: int) -> int | None:
    """A mark with some bits replaced; None where it differs from packet to packet."""
    if mask == 0xFFFFFFFF:
        return value
    return None if mark is None else (mark & ~mask) ^ value


def _changed(piece: Piece, values: dict[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted({**dict(piece.changed), **values}.items()))


def _split(region: Region, test: Test) -> tuple[Region | None, list[Region]]:
    """The part of a region that passes a test, and the rest of it in disjoint parts."""
    inside = list(region)
    outside: list[Region] = []
    for dimension, allowed in test.items():
        both = intersection(inside[dimension], allowed)
        rest = difference(inside[dimension], allowed)
        if rest:
            part = list(inside)
            part[dimension] = rest
            outside.append(tuple(part))
        if not both:
            return None, [region]
        inside[dimension] = both
    return tuple(inside), outside


def merged(pieces: list[Piece]) -> list[Piece]:
    """The same packets in fewer pieces: those that differ in one dimension alone are put together."""
    count = 0
    while count != len(pieces) and len(pieces) > 1:
        count = len(pieces)
        for dimension in range(len(pieces[0].region)):
            groups: dict[object, list[Piece]] = {}
            for piece in pieces:
                region = piece.region
                rest = region[:dimension] + region[dimension + 1 :]
                same = piece.outcome, piece.decider, piece.changed, piece.connmark, piece.loopback, piece.ended
                groups.setdefault((rest, same), []).append(piece)
            if len(groups) < len(pieces):
                pieces = [_joined(group, dimension) for group in groups.values()]
    return pieces


def _joined(group: list[Piece], dimension: int) -> Piece:
    if len(group) == 1:
        return group[0]
    region = list(group[0].region)
    region[dimension] = union([piece.region[dimension] for piece in group])
    return group[0].replace(region=tuple(region))
