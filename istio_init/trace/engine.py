"""Follows a first packet through the hooks, tables and chains in the kernel's order.

Outbound: raw, mangle, nat and filter of OUTPUT, then mangle and nat of POSTROUTING. What goes to lo, by its address,
because it was redirected there or because its mark leads there, comes in again by lo and meets raw and mangle of
PREROUTING, and INPUT, but never nat: its translation is decided. Inbound: raw, mangle and nat of PREROUTING, then
INPUT.
"""

from __future__ import annotations

from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import Goto, Jump, OpaqueTarget, Redirect, Tproxy, Verdict
from istio_init.trace.compile import CompiledRule, compile_chain
from istio_init.trace.hooks import (
    CONTINUING,
    INPUT_TABLES,
    LOOPBACK,
    LOOPBACK_TABLES,
    MAX_DEPTH,
    OUTPUT_TABLES,
    POSTROUTING_TABLES,
    PREROUTING_TABLES,
    REDIRECTIONS,
    SOURCE_TARGETS,
    UNTRANSLATED,
    goes_on,
)
from istio_init.trace.packet import CT_BITS, DNAT, Direction, Packet, State
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.rules import RuleSet


class Outcome(Value):
    """What becomes of a packet: ``redirect`` and ``tproxy`` with a port, ``direct``, ``drop``, ``unknown``."""

    kind: str
    port: int | None = None


class Hop:
    """One rule that was looked at. ``missed`` is the test that did not hold, or could not be told."""

    __slots__ = ("hook", "matched", "missed", "rule", "table")

    def __init__(self, hook: str, table: Table, rule: CompiledRule, matched: bool | None, missed: object) -> None:
        self.hook = hook
        self.table = table
        self.rule = rule
        self.matched = matched
        self.missed = missed


class Leg:
    """The way from one entry on: OUTPUT and POSTROUTING by the first, PREROUTING and INPUT where it comes in."""

    __slots__ = ("hook", "hops", "interface")

    def __init__(self, hook: str, interface: str) -> None:
        self.hook = hook
        self.interface = interface
        self.hops: list[Hop] = []


class Trace:
    """The whole way: legs, the outcome of the first leg, and the rule that decided it.

    ``delivered`` is what becomes of it in the end, which a second leg may decide otherwise, and ``delivered_by`` the
    rule behind that. ``state`` is the packet as it ended: its port, its marks.
    """

    __slots__ = ("decided_by", "delivered", "delivered_by", "legs", "outcome", "packet", "state")

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self.state = State(packet)
        self.legs: list[Leg] = []
        self.outcome = self.delivered = Outcome("direct")
        self.decided_by: Hop | None = None
        self.delivered_by: Hop | None = None


class Tracer:
    """Traces packets through one family's rules. Made once, asked often.

    ``local_marks`` are the marks whose routing rule leads to this machine, as TPROXY needs one.
    """

    def __init__(self, rules: RuleSet, local_marks: frozenset[int] = frozenset()) -> None:
        self.family = rules.family
        self.local_marks = local_marks
        self.chains = {
            table: {name: compile_chain(chain) for name, chain in chains.items()}
            for table, chains in rules.tables.items()
        }
        self.policies = {
            (table, chain.name): chain.policy for table, chain in rules.chains() if chain.policy is not None
        }

    def trace(self, packet: Packet) -> Trace:
        """Follow a packet."""
        trace = Trace(packet)
        walk = _Walk(self, trace)
        if packet.direction is Direction.INBOUND:
            walk.enter(packet.interface, PREROUTING_TABLES if packet.interface != "lo" else LOOPBACK_TABLES)
            trace.outcome, trace.decided_by = walk.outcome, walk.decided_by
        else:
            walk.leave()
            trace.outcome, trace.decided_by = walk.outcome, walk.decided_by
            if walk.alive and walk.route == "lo":
                walk.come_back_in()
        trace.delivered, trace.delivered_by = walk.outcome, walk.decided_by
        return trace


class _Walk:
    """One packet on its way. ``route`` is the interface by which it will leave."""

    def __init__(self, tracer: Tracer, trace: Trace) -> None:
        self.tracer = tracer
        self.trace = trace
        self.state = trace.state
        self.outcome = trace.outcome
        self.decided_by: Hop | None = None
        self.alive = True
        self.looked_up = False
        self.returned = False
        self.route = trace.packet.interface
        self.hook = ""
        self.hops: list[Hop] = []

    def leave(self) -> None:
        """Go out: the rules of OUTPUT see the interface from before a redirection, those of POSTROUTING the new one."""
        self._leg("OUTPUT", self.route)
        self._tables("OUTPUT", OUTPUT_TABLES)
        self.state.out_interface = self.route
        self._tables("POSTROUTING", POSTROUTING_TABLES)

    def enter(self, interface: str, tables: tuple[Table, ...]) -> None:
        """Come in by an interface; nat is asked in INPUT where it was in PREROUTING."""
        self._leg("PREROUTING", interface)
        self._tables("PREROUTING", tables)
        self._tables("INPUT", INPUT_TABLES if Table.NAT in tables else INPUT_TABLES[:-1])

    def come_back_in(self) -> None:
        """Enter by lo what left by it: marks and connection stay, the socket does not, and nat has decided."""
        state = self.state
        state.in_interface, state.out_interface = "lo", None
        state.uid = state.gid = None
        self.returned = True
        self.enter("lo", LOOPBACK_TABLES)

    def _leg(self, hook: str, interface: str) -> None:
        leg = Leg(hook, interface)
        self.trace.legs.append(leg)
        self.hops = leg.hops

    def _tables(self, hook: str, tables: tuple[Table, ...]) -> None:
        self.hook = hook
        for table in tables:
            if table is not Table.RAW and not self.looked_up:
                self._look_up()
            chains = self.tracer.chains.get(table)
            if not self.alive or chains is None or hook not in chains:
                continue
            if table is Table.NAT and self.trace.packet.ctstate in UNTRANSLATED:
                continue
            mark = self.state.mark
            verdict = self._chain(table, chains[hook], 0)
            if verdict is None and self.tracer.policies.get((table, hook)) == "DROP":
                verdict, self.decided_by = "DROP", None
            if verdict in ("DROP", "UNKNOWN"):
                self.outcome, self.alive = Outcome("drop" if verdict == "DROP" else "unknown"), False
            if hook == "OUTPUT" and table is Table.MANGLE and self.state.mark != mark:
                # A changed mark makes the kernel ask for the route again (ipt_mangle_out).
                self.route = "lo" if self.state.mark in self.tracer.local_marks else self.route

    def _look_up(self) -> None:
        """Find the packet's connection, which happens after raw."""
        ctstate, state = self.trace.packet.ctstate, self.state
        state.ct, state.tracked, state.connmark = CT_BITS[ctstate], ctstate != "INVALID", 0
        self.looked_up = True

    def _chain(self, table: Table, rules: tuple[CompiledRule, ...], depth: int) -> str | None:
        """Walk a chain: ACCEPT, DROP, UNKNOWN, or None where its end or a RETURN was reached."""
        state, hops, hook = self.state, self.hops, self.hook
        for rule in rules:
            missed: object = None
            matched: bool | None = True
            for part, test in zip(rule.parts, rule.tests):  # noqa: B905 - made together, and this is the inner loop
                answer = test(state)
                if answer is not True:
                    matched, missed = answer, part
                    if answer is False:
                        break
            hop = Hop(hook, table, rule, matched, missed)
            hops.append(hop)
            if matched is None and not goes_on(rule.entry.rule.target):
                self.decided_by = hop
                return "UNKNOWN"
            if matched:
                verdict = self._target(table, rule, hop, depth)
                if verdict == "RETURN":
                    return None
                if verdict is not None:
                    return verdict
        return None

    def _target(self, table: Table, rule: CompiledRule, hop: Hop, depth: int) -> str | None:
        """Carry out a target: a verdict, RETURN, or None to go on with the next rule."""
        match rule.entry.rule.target:
            case None:
                return None
            case Verdict(name):
                self._decided(hop, ends=name in ("DROP", "QUEUE"))
                return "UNKNOWN" if name == "QUEUE" else name
            case Jump(name) | Goto(name) as target:
                chain = self.tracer.chains[table].get(name)
                if chain is None or depth >= MAX_DEPTH:
                    self._decided(hop, ends=True)
                    return "UNKNOWN"
                verdict = self._chain(table, chain, depth + 1)
                return "RETURN" if verdict is None and isinstance(target, Goto) else verdict
            case Redirect() | Tproxy() as target:
                has_socket = self.outcome.kind == "tproxy"
                self._deliver(target)
                self._decided(hop, ends=not has_socket)
                return "ACCEPT"
            case OpaqueTarget(name, _):
                return self._opaque(name, hop)
            case target:
                self.state.mark_by(target)
        return None

    def _deliver(self, target: Redirect | Tproxy) -> None:
        state = self.state
        if isinstance(target, Tproxy):
            state.mark = (state.mark & ~target.mask) ^ target.mark
            self.outcome = Outcome("tproxy", target.port)
            return
        ports, before = target.ports, (state.destination, state.dport)
        if ports is not None and not ports.first <= state.dport <= ports.last:
            state.dport = ports.first
        if state.out_interface is not None:
            state.destination, self.route = LOOPBACK[self.tracer.family], "lo"
        if (state.destination, state.dport) != before:
            state.ct |= DNAT
        if self.outcome.kind != "tproxy":  # TPROXY has given the packet its socket already.
            self.outcome = Outcome("redirect", state.dport)

    def _opaque(self, name: str, hop: Hop) -> str | None:
        if name in CONTINUING:
            return None
        if name in SOURCE_TARGETS and not (self.hook == "POSTROUTING" and self.route == "lo"):
            return "ACCEPT"  # Nothing looks at the source any more.
        self._decided(hop, ends=True)
        return "DROP" if name == "REJECT" else "UNKNOWN"

    def _decided(self, hop: Hop, *, ends: bool) -> None:
        """Remember the rule that decides.

        A rule that lets pass decides where it keeps a packet from being redirected: in nat and mangle, before INPUT
        and POSTROUTING. On the second leg it does not take the place of one that decided on the first.
        """
        lets_pass = (
            hop.table in (Table.NAT, Table.MANGLE)
            and hop.hook in ("OUTPUT", "PREROUTING")
            and self.outcome.kind not in REDIRECTIONS
            and not (self.returned and self.decided_by is not None)
        )
        if ends or lets_pass:
            self.decided_by = hop
