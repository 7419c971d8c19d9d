"""The stages of hooks, put behind what came before them."""

from __future__ import annotations

from istio_init.netfilter.chains import ChainType
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState, CtStatus, Field
from istio_init.netfilter.rules import Cause, Hook, Openness, Test
from istio_init.netfilter.stages import CONNTRACK_PRIORITY, Call, Core, NatCalls
from istio_init.space.bits import together
from istio_init.space.diagram import END
from istio_init.space.layout import NOT_YET, TEMPLATE, TRACKED
from istio_init.space.programs import Context
from istio_init.space.ways import ACCEPTED, GOING, doubts
from istio_init.trace.result import Kind, PolicyDecider

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.stages import Stage
    from istio_init.space.boxes import Region
    from istio_init.space.diagram import Node, Substitute
    from istio_init.space.leaving import Leaving
    from istio_init.space.namespace import Namespace

BEFORE_ROUTING = frozenset([Hook.PREROUTING, Hook.OUTPUT])
SOURCE_HOOKS = frozenset([Hook.INPUT, Hook.POSTROUTING])
ROUTED_BY = (Field.MARK, Field.SOURCE, Field.DESTINATION, Field.TOS)
"""What makes the kernel ask for the route again where a route chain has changed it (ipt_mangle_out); in IPv6 also the
hop limit (ip6t_mangle_out)."""

OWN = {Field.CT_ORIG_SOURCE: Field.SOURCE, Field.CT_ORIG_DESTINATION: Field.DESTINATION,
       Field.CT_ORIG_SPORT: Field.SPORT, Field.CT_ORIG_DPORT: Field.DPORT,
       Field.CT_REPLY_DESTINATION: Field.SOURCE, Field.CT_REPLY_SOURCE: Field.DESTINATION,
       Field.CT_REPLY_DPORT: Field.SPORT, Field.CT_REPLY_SPORT: Field.DPORT}  # fmt: skip
"""What a new connection has of its first packet."""

SMALL = 60
"""Programs of so few nodes are put together before they are put behind a larger one."""


class Line:
    """Programs one after the other. Small ones wait for each other, as a large one is gone through each time."""

    __slots__ = ("_first", "_waiting", "namespace")

    def __init__(self, namespace: Namespace, first: Node | None = None) -> None:
        self.namespace = namespace
        self._first = first if first is not None else namespace.ways.going
        self._waiting = namespace.ways.going

    def put(self, program: Node) -> None:
        """Add a program at the end."""
        ways = self.namespace.ways
        if self._waiting is not ways.going and not (is_small(program) and is_small(self._waiting)):
            self._first, self._waiting = ways.then(self._first, self._waiting), ways.going
        self._waiting = ways.then(self._waiting, program)

    def program(self) -> Node:
        """All of it."""
        return self.namespace.ways.then(self._first, self._waiting)

    def copy(self) -> Line:
        """The same line so far."""
        other = Line(self.namespace, self._first)
        other._waiting = self._waiting
        return other

    def become(self, program: Node) -> None:
        """Go on with another program."""
        self._first, self._waiting = program, self.namespace.ways.going


def is_small(program: Node) -> bool:
    """Whether a program has but a few nodes."""
    seen = {program}
    todo = [program]
    while todo and len(seen) < SMALL:
        for child in todo.pop().children:
            if child not in seen:
                seen.add(child)
                if child.dim != END:
                    todo.append(child)
    return len(seen) < SMALL


class Stages:
    """Takes a line through hooks."""

    def __init__(self, namespace: Namespace, leaving: Leaving) -> None:
        self.namespace = namespace
        self.leaving = leaving
        self.ways = namespace.ways
        self.truths = namespace.truths
        self.layout = namespace.layout
        self._known: Region = {}

    def hook(self, line: Line, hook: Hook, *, has_returned: bool = False, known: Region | None = None) -> None:
        """Go through the stages of a hook, in each order that is possible.

        ``known`` is a region in which all packets of interest are before nat has given them anything.
        """
        self._known = known or {}
        orders = self.namespace.netfilter.stages(self.namespace.family, hook)
        if len(orders) == 1:
            self._in_order(line, orders[0], hook, has_returned)
            return
        found = []
        for stages in orders:
            other = line.copy()
            self._in_order(other, stages, hook, has_returned)
            found.append(other.program())
        node = found[0]
        words = f"in which order chains of the same priority are called at {hook.value}"
        for each in found[1:]:
            node = self.ways.either(node, each, doubts([Cause(Openness.NOT_GIVEN, words)]))
        line.become(node)

    def _in_order(self, line: Line, stages: tuple[Stage, ...], hook: Hook, has_returned: bool) -> None:
        known = self._known
        for stage in stages:
            if isinstance(stage, Call):
                self._base_chain(line, stage, hook, has_returned)
            elif not self.namespace.tracks:
                pass
            elif has_returned:  # What comes back has its connection, and its translation.
                if isinstance(stage, NatCalls) and hook is Hook.INPUT:
                    line.put(self._source_again())
            elif isinstance(stage, NatCalls):
                line.put(self._nat(stage, hook))
                self._known = {}
                if hook is Hook.OUTPUT:
                    line.put(self.leaving.after_nat())
            elif stage is Core.CONNTRACK:
                line.put(self._lookup())
        self._known = known
        if self.namespace.tracks and not has_returned and hook is not Hook.FORWARD:
            line.put(self._nat_is_done(hook))

    def _behind(self, line: Line, program: Node, hook: Hook, fields: tuple[Field, ...]) -> None:
        """A program, behind which what leaves is routed again where it has changed some fields."""
        if hook is Hook.OUTPUT and self.leaving.changes(program, fields):
            line.become(self.leaving.rerouting(line.program(), program, fields))
        else:
            line.put(program)

    def _base_chain(self, line: Line, call: Call, hook: Hook, has_returned: bool) -> None:
        base = call.chain.base
        assert base is not None
        if not (call.chain.rules or base.drops):
            return
        called = self._called(call, hook, has_returned)
        routed_by = ROUTED_BY if self.namespace.family is Family.IPV4 else (*ROUTED_BY, Field.TTL)
        self._behind(line, called, hook, routed_by if base.type is ChainType.ROUTE else ())

    def _called(self, call: Call, hook: Hook, has_returned: bool) -> Node:
        """A base chain: what it lets pass goes on."""
        base = call.chain.base
        assert base is not None
        follows_lookup = hook is Hook.PREROUTING and base.priority > CONNTRACK_PRIORITY
        lets_pass = hook in BEFORE_ROUTING and (base.type is not ChainType.FILTER or follows_lookup)
        context = Context(hook, lets_pass, has_returned)
        program = self.namespace.programs.chain(call.table, call.chain.name, context, self._known)
        if base.drops:
            table = call.table
            decider = PolicyDecider(hook, table.store, table.family, table.name, call.chain.name)
            program = self.ways.then(program, self.ways.stopped(Kind.DROP, decider))
        return self.ways.ending(program, {ACCEPTED: GOING})

    def _source_again(self) -> Node:
        """What came back via lo gets its connection's source once more, whatever rules made of it (nf_nat_packet)."""
        layout, bit = self.layout, int(CtStatus.SNAT)
        if not layout.assigned & {Field.SOURCE, Field.SPORT}:
            return self.ways.going
        copied = self.namespace.effects.copied
        changes = {
            **copied(Field.SOURCE, Field.CT_REPLY_DESTINATION),
            **copied(Field.SPORT, Field.CT_REPLY_DPORT),
        }
        translated = self.truths.node(Test(Field.CT_STATUS, ((1, bit),), bit))
        return self.ways.where(translated, self.ways.end(GOING, changes), self.ways.going)

    def _lookup(self) -> Node:
        """Find the connection: a new one, in the zone of a template."""
        layout, effects = self.layout, self.namespace.effects
        changes: dict[int, Substitute] = {layout.track: TRACKED}
        changes.update(effects.numbers({Field.CT_STATE: int(CtState.NEW), Field.CT_STATUS: 0, Field.CT_MARK: 0}))
        for field, source in OWN.items():
            changes.update(effects.copied(field, source))
        waiting: Region = {layout.track: ((NOT_YET, TEMPLATE),)}
        return self.truths.choice(waiting, self.ways.end(GOING, changes), self.ways.going)

    def _nat(self, stage: NatCalls, hook: Hook) -> Node:
        """All nat base chains, until one has translated the connection; nothing after that does so again."""
        layout, ways = self.layout, self.ways
        done = layout.source_done if hook in SOURCE_HOOKS else layout.destination_done
        still: Region = {done: ((0, 0),)}
        program = ways.going
        for call in stage.calls:
            called = self._called(call, hook, has_returned=False)
            program = ways.then(program, ways.where(self.truths.within(still), called, ways.going))
        first: Region = {layout.track: ((TEMPLATE if layout.tracks_after_all else TRACKED, TRACKED),), **still}
        return ways.where(self.truths.within(first), program, ways.going)

    def _nat_is_done(self, hook: Hook) -> Node:
        """What no rule has translated by the end of a hook never will be (nf_nat_alloc_null_binding)."""
        layout, ways = self.layout, self.ways
        changes: dict[int, Substitute] = {
            layout.source_done if hook in SOURCE_HOOKS else layout.destination_done: 1,
            **(self._confirmed() if hook in SOURCE_HOOKS else {}),
        }
        tracked: Region = {layout.track: ((TRACKED, TRACKED),)}
        return self.truths.choice(tracked, ways.end(GOING, changes), ways.going)

    def _confirmed(self) -> dict[int, Substitute]:
        """What others see of the connection from then on (nf_confirm)."""
        bit = int(CtStatus.CONFIRMED)
        groups = self.layout.groups[Field.CT_STATUS]
        return {group.dim: together(bit, bit) for group in groups if group.mask == bit}
