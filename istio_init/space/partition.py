"""Divides all new connections by what becomes of them: the tracer's walk, with regions of packets instead of one.

Each rule splits the regions that reach it into what matches and what goes on, so that every packet is in exactly one
piece.
"""

from __future__ import annotations

from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import (
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
from istio_init.netfilter.family import MAX_MARK
from istio_init.space.pieces import Piece, TooManyPieces, Ways, merged
from istio_init.space.space import (
    CONNMARK,
    DESTINATION,
    DPORT,
    GID,
    INTERFACE,
    MARK,
    NEW,
    NO_ID,
    TEMPLATE,
    TRACKING,
    TRANSLATED,
    UID,
    UNTRACKED,
    Space,
    split,
)
from istio_init.space.steps import Step, steps
from istio_init.trace.engine import Outcome
from istio_init.trace.hooks import (
    INPUT_TABLES,
    LOOPBACK,
    LOOPBACK_TABLES,
    MAX_DEPTH,
    OUTPUT_TABLES,
    POSTROUTING_TABLES,
    PREROUTING_TABLES,
    REDIRECTIONS,
    SOURCE_TARGETS,
    goes_on,
)
from istio_init.trace.packet import Direction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.rules import RuleSet

    MarkTarget = SetMark | SetConnmark | SaveMark | RestoreMark

MANY = 8
"""From so many pieces on, and whenever they have doubled since, it pays to put together what can be."""


def partition(
    rules: RuleSet, space: Space, local_marks: frozenset[int] = frozenset(), most: int | None = None
) -> list[Piece]:
    """Every new connection of the space, in disjoint pieces with what becomes of them in the end.

    Raises:
        TooManyPieces: more than ``most`` pieces would go through a chain at a time.
    """
    return _Partition(rules, space, local_marks, most).run()


class _Partition:
    def __init__(self, rules: RuleSet, space: Space, local_marks: frozenset[int], most: int | None) -> None:
        self.most = most
        self.rules = rules
        self.space = space
        self.local_marks = local_marks
        self.hook = ""
        self._steps: dict[tuple[Table, str, str], list[Step]] = {}

    def run(self) -> list[Piece]:
        """Walk the hooks of the space's direction."""
        start = [Piece(self.space.whole)]
        if self.space.direction is Direction.INBOUND:
            return merged(self._hook("INPUT", INPUT_TABLES, self._hook("PREROUTING", PREROUTING_TABLES, start)))
        sent = self._hook("OUTPUT", OUTPUT_TABLES, start)
        sent = [each if each.route is None else each.having({INTERFACE: each.route}) for each in sent]
        sent = self._hook("POSTROUTING", POSTROUTING_TABLES, sent)
        lo, returning, done = self.space.interfaces.lo, [], []
        for piece in sent:
            inside, outside = (None, [piece]) if piece.ended else piece.leaving_by(lo)
            returning += [inside] if inside is not None else []
            done += outside
        entering = {INTERFACE: lo, UID: NO_ID, GID: NO_ID}
        returning = [piece.having(entering).replace(returned=True) for piece in returning]
        returning = self._hook("PREROUTING", LOOPBACK_TABLES, returning)
        return merged(done + self._hook("INPUT", INPUT_TABLES[:-1], returning))

    def _hook(self, hook: str, tables: tuple[Table, ...], pieces: list[Piece]) -> list[Piece]:
        self.hook = hook
        for table in tables:
            if table is not Table.RAW:
                pieces = [self._looked_up(piece) for piece in pieces]
            chain = self.rules.chain(table, hook)
            if chain is None or not (chain.entries or chain.policy == "DROP"):
                continue
            going = [piece.replace(entry_mark=dict(piece.changed).get(MARK)) for piece in pieces if not piece.ended]
            ways = self._chain(table, hook, going, 0)
            if chain.policy == "DROP":
                ways.stopped += [_ended(each, "drop", None) for each in ways.returned]
                ways.returned = []
            passing = ways.returned + ways.accepted
            if (table, hook) == (Table.MANGLE, "OUTPUT") and self.local_marks:
                passing = [each for piece in passing for each in self._rerouted(piece)]
            pieces = merged([piece for piece in pieces if piece.ended] + passing + ways.stopped)
        return pieces

    def _rerouted(self, piece: Piece) -> list[Piece]:
        """Ask for the route again where the mark was changed, and now leads to this machine."""
        mark = dict(piece.changed).get(MARK)
        if piece.ended or mark in (None, piece.entry_mark) or self.space.marks.example(mark) not in self.local_marks:
            return [piece]
        if piece.entry_mark is not None:
            return [piece.replace(route=self.space.interfaces.lo)]
        same, rest = split(piece.region, {MARK: ((mark, mark),)})
        lo = self.space.interfaces.lo
        changed = [piece.replace(region=region, route=lo) for region in rest]
        return changed if same is None else [*changed, piece.replace(region=same)]

    def _looked_up(self, piece: Piece) -> Piece:
        """Find the connection, which happens after raw; what a template was marked with is gone."""
        state = piece.get(TRACKING)
        if state == UNTRACKED:
            return piece.having({TRACKING: NEW})
        return piece.having({TRACKING: NEW, CONNMARK: 0}) if state == TEMPLATE else piece

    def _chain(self, table: Table, name: str, pieces: list[Piece], depth: int) -> Ways:
        """Walk a chain; what reaches its end has returned."""
        ways, many = Ways(), MANY
        for step in self._steps_of(table, name):
            ways.going = []
            for piece in pieces:
                ways.going += self._step(step, piece, table, ways, depth)
            pieces = ways.going
            if len(pieces) > many:
                pieces = merged(pieces)
                many = max(MANY, 2 * len(pieces))
                if self.most is not None and len(pieces) > self.most:
                    raise TooManyPieces
        ways.returned += pieces
        return ways

    def _step(self, step: Step, piece: Piece, table: Table, ways: Ways, depth: int) -> list[Piece]:
        """Split a piece at a step, and carry out the target for what matches; what does not, to go on."""
        left = [piece]
        for test in step.tests:
            missing: list[Piece] = []
            for each in left:
                matching, rest = each.split(dict(test))
                missing += rest
                if matching is not None and goes_on(step.decider.rule.target):
                    ways.going.append(matching)
                elif matching is not None and step.certain:
                    self._target(table, step, matching, ways, depth)
                elif matching is not None:
                    ways.stopped.append(_ended(matching, "unknown", step))
            left = missing
        return left

    def _target(self, table: Table, step: Step, piece: Piece, ways: Ways, depth: int) -> None:
        match step.decider.rule.target:
            case Verdict("RETURN"):
                ways.returned.append(self._decided(piece, step, table))
            case Verdict("ACCEPT"):
                ways.accepted.append(self._decided(piece, step, table))
            case Verdict(name):
                ways.stopped.append(_ended(piece, "drop" if name == "DROP" else "unknown", step))
            case Jump(name) | Goto(name) as target:
                self._call(table, target, step, piece, ways, depth)
            case Redirect() as target:
                decider = piece.decider if piece.outcome.kind == "tproxy" else step.decider
                ways.accepted += [each.replace(decider=decider) for each in self._redirected(piece, target)]
            case Tproxy(port, _, mark, mask):
                for each in self._marked(piece, SetMark(mark, mask), step):
                    outcome = each.outcome if each.ended else Outcome("tproxy", port)
                    ways.accepted.append(each.replace(outcome=outcome, decider=step.decider))
            case CtZone():
                known = piece.get(TRACKING) != UNTRACKED
                ways.going.append(piece if known else piece.having({TRACKING: TEMPLATE}))
            case OpaqueTarget(name, _):
                self._opaque(name, step, piece, ways)
            case None:
                raise AssertionError("a rule without a target was to be walked past")
            case target:
                changed = self._marked(piece, target, step)
                ways.going += [each for each in changed if not each.ended]
                ways.stopped += [each for each in changed if each.ended]

    def _call(self, table: Table, target: Jump | Goto, step: Step, piece: Piece, ways: Ways, depth: int) -> None:
        if self.rules.chain(table, target.chain) is None or depth >= MAX_DEPTH:
            ways.stopped.append(_ended(piece, "unknown", step))
            return
        called = self._chain(table, target.chain, [piece], depth + 1)
        (ways.returned if isinstance(target, Goto) else ways.going).extend(called.returned)
        ways.accepted += called.accepted
        ways.stopped += called.stopped

    def _opaque(self, name: str, step: Step, piece: Piece, ways: Ways) -> None:
        rest: list[Piece] = [piece]
        if name in SOURCE_TARGETS:
            inside, rest = piece.leaving_by(self.space.interfaces.lo)
            ways.accepted += rest if self.hook == "POSTROUTING" else [piece]
            rest = [inside] if inside is not None and self.hook == "POSTROUTING" else []
        ways.stopped += [_ended(each, "drop" if name == "REJECT" else "unknown", step) for each in rest]

    def _decided(self, piece: Piece, step: Step, table: Table) -> Piece:
        """Remember a rule that lets pass, as the tracer does."""
        lets_pass = (
            table in (Table.NAT, Table.MANGLE)
            and self.hook in ("OUTPUT", "PREROUTING")
            and piece.outcome.kind not in REDIRECTIONS
            and not (piece.returned and piece.decider is not None)
        )
        return piece.replace(decider=step.decider) if lets_pass else piece

    def _redirected(self, piece: Piece, target: Redirect) -> list[Piece]:
        """Give packets another destination; those whose port lies in the range keep it."""
        ports = target.ports
        if ports is None:
            return self._delivered(piece, {}, None)
        within, outside = piece.split({DPORT: ((ports.first, ports.last),)})
        kept = ports.first if ports.first == ports.last else None
        done = [] if within is None else self._delivered(within, {}, kept)
        for each in outside:
            done += self._delivered(each, {DPORT: ports.first}, ports.first)
        return done

    def _delivered(self, piece: Piece, values: dict[int, int], port: int | None) -> list[Piece]:
        # What TPROXY has given a socket keeps it.
        outcome, same = piece.outcome if piece.outcome.kind == "tproxy" else Outcome("redirect", port), None
        rest = [piece]
        if self.hook == "OUTPUT":
            home = LOOPBACK[self.space.family]
            if not values:
                same, rest = piece.split({DESTINATION: ((home, home),)})
            values = {**values, DESTINATION: home}
            piece = piece.replace(route=self.space.interfaces.lo)
        elif not values:
            same, rest = piece, []
        route = piece.route
        changed = [each.having({**values, TRACKING: TRANSLATED}) for each in rest]
        return [each.replace(outcome=outcome, route=route) for each in (*changed, *([same] if same else []))]

    def _marked(self, piece: Piece, target: MarkTarget, step: Step) -> list[Piece]:
        """Set marks; pieces of several classes of marks are divided where it matters."""
        marks = self.space.marks
        tracked = piece.get(TRACKING) != UNTRACKED
        if not tracked and not isinstance(target, SetMark):
            return [piece]
        done = []
        for each in piece.by_mark():
            mark, connmark = each.get(MARK) or 0, each.get(CONNMARK) or 0
            match target:
                case SetMark(value, mask):
                    dimension, new = MARK, marks.combined(mark, ~mask, marks.number(value), MAX_MARK)
                case SetConnmark(value, mask):
                    dimension, new = CONNMARK, marks.combined(connmark, ~mask, marks.number(value), MAX_MARK)
                case SaveMark(nfmask, ctmask):
                    dimension, new = CONNMARK, marks.combined(connmark, ~ctmask, mark, nfmask)
                case RestoreMark(nfmask, ctmask):
                    dimension, new = MARK, marks.combined(mark, ~nfmask, connmark, ctmask)
            done.append(_ended(each, "unknown", step) if new is None else each.having({dimension: new}))
        return merged(done)

    def _steps_of(self, table: Table, name: str) -> list[Step]:
        key = table, name, self.hook
        if key not in self._steps:
            chain = self.rules.chain(table, name)
            self._steps[key] = [] if chain is None else steps(self.space, table, self.hook, chain)
        return self._steps[key]


def _ended(piece: Piece, kind: str, step: Step | None) -> Piece:
    """The packets stop here."""
    return piece.replace(outcome=Outcome(kind), decider=None if step is None else step.decider, ended=True)
