"""Follows a first packet through the hooks, tables and chains in the kernel's order.

Outbound: raw, mangle, nat and filter of OUTPUT. What goes to lo, by its address or because it was redirected there,
comes in again by lo and meets raw and mangle of PREROUTING, and INPUT, but never nat of PREROUTING: its translation is
decided. Inbound: raw, mangle and nat of PREROUTING, then INPUT.
"""

from __future__ import annotations

from istio_init.model.netfilter import Family, Table
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
from istio_init.trace.compile import CompiledRule, compile_chain
from istio_init.trace.packet import Direction, Packet, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.model.rules import RuleSet

LOOPBACK = {Family.IPV4: 0x7F000001, Family.IPV6: 1}
"""Where REDIRECT sends an outbound packet: 127.0.0.1, ::1 (nf_nat_redirect)."""

OUTPUT_TABLES = (Table.RAW, Table.MANGLE, Table.NAT, Table.FILTER, Table.SECURITY)
PREROUTING_TABLES = (Table.RAW, Table.MANGLE, Table.NAT)
LOOPBACK_TABLES = (Table.RAW, Table.MANGLE)
INPUT_TABLES = (Table.MANGLE, Table.FILTER, Table.SECURITY, Table.NAT)

CONTINUING = frozenset(
    "AUDIT CHECKSUM CLASSIFY CONNSECMARK DSCP ECN HL HMARK IDLETIMER LED LOG NFLOG RATEEST SECMARK SET TCPMSS "
    "TCPOPTSTRIP TEE TOS TRACE TTL ULOG".split()
)
"""Targets after which the next rule is looked at (iptables-extensions(8))."""

MAX_DEPTH = 64


class Outcome(Value):
    """What becomes of a packet: ``redirect`` and ``tproxy`` with a port, ``direct``, ``drop``, ``unknown``."""

    kind: str
    port: int | None = None


class Hop:
    """One rule that was looked at. ``missed`` is the test that did not hold, or could not be told."""

    __slots__ = ("matched", "missed", "rule", "table")

    def __init__(self, table: Table, rule: CompiledRule, matched: bool | None, missed: object) -> None:
        self.table = table
        self.rule = rule
        self.matched = matched
        self.missed = missed


class Leg:
    """The way through the hooks of one entry: by the first hook, or in again by lo."""

    __slots__ = ("hook", "hops", "interface")

    def __init__(self, hook: str, interface: str) -> None:
        self.hook = hook
        self.interface = interface
        self.hops: list[Hop] = []


class Trace:
    """The whole way: legs, the outcome of the first leg, and the rule that decided it.

    ``delivered`` is what becomes of it in the end, which a second leg may decide otherwise.
    """

    __slots__ = ("decided_by", "delivered", "legs", "outcome", "packet")

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self.legs: list[Leg] = []
        self.outcome = Outcome("direct")
        self.delivered = self.outcome
        self.decided_by: Hop | None = None


class Tracer:
    """Traces packets through one family's rules. Made once, asked often."""

    def __init__(self, rules: RuleSet) -> None:
        self.family = rules.family
        self._chains = {
            table: {name: compile_chain(chain) for name, chain in chains.items()}
            for table, chains in rules.tables.items()
        }
        self._policies = {
            (table, chain.name): chain.policy for table, chain in rules.chains() if chain.policy is not None
        }

    def trace(self, packet: Packet) -> Trace:
        """Follow a packet."""
        trace = Trace(packet)
        walk = _Walk(self, State(packet), trace)
        if packet.direction is Direction.INBOUND:
            walk.leg("PREROUTING", packet.interface, PREROUTING_TABLES)
            walk.enter_input()
            trace.outcome = trace.delivered = walk.outcome
            return trace
        walk.leg("OUTPUT", packet.interface, OUTPUT_TABLES)
        trace.outcome = trace.delivered = walk.outcome
        goes_to_lo = walk.outcome.kind == "redirect" or packet.interface == "lo"
        if walk.alive and goes_to_lo:
            walk.come_back_in()
            trace.delivered = walk.outcome
        return trace


class _Walk:
    """One packet on its way."""

    def __init__(self, tracer: Tracer, state: State, trace: Trace) -> None:
        self.tracer = tracer
        self.state = state
        self.trace = trace
        self.outcome = Outcome("direct")
        self.alive = True
        self.current = Leg("", "")

    def leg(self, hook: str, interface: str, tables: tuple[Table, ...]) -> None:
        """Go through the tables of a hook."""
        self.current = Leg(hook, interface)
        self.trace.legs.append(self.current)
        self._tables(hook, tables)

    def enter_input(self) -> None:
        """Go through INPUT, within the same leg."""
        if self.alive:
            self._tables("INPUT", INPUT_TABLES)

    def come_back_in(self) -> None:
        """Enter by lo what left by it: marks stay, the socket does not, and nat has decided."""
        state = self.state
        state.in_interface, state.out_interface = "lo", None
        state.uid = state.gid = None
        self.leg("PREROUTING", "lo", LOOPBACK_TABLES)
        if self.alive:
            self._tables("INPUT", INPUT_TABLES[:-1])

    def _tables(self, hook: str, tables: tuple[Table, ...]) -> None:
        tracked = self.state.ctstate
        for table in tables:
            chains = self.tracer._chains.get(table)
            if chains is None or hook not in chains:
                continue
            # Before connection tracking there is no state; -m conntrack takes that for INVALID.
            self.state.ctstate = "INVALID" if table is Table.RAW else tracked
            verdict = self._chain(table, chains[hook], 0)
            self.state.ctstate = tracked
            if verdict is None and self.tracer._policies.get((table, hook)) == "DROP":
                verdict = "DROP"
                self.trace.decided_by = None
            if verdict == "DROP":
                self.outcome, self.alive = Outcome("drop"), False
            elif verdict == "UNKNOWN":
                self.outcome, self.alive = Outcome("unknown"), False
            if not self.alive:
                return

    def _chain(self, table: Table, rules: tuple[CompiledRule, ...], depth: int) -> str | None:
        """Walk a chain: ACCEPT, DROP, UNKNOWN, or None where its end or a RETURN was reached."""
        state, hops = self.state, self.current.hops
        for rule in rules:
            missed: object = None
            matched: bool | None = True
            for part, test in zip(rule.parts, rule.tests):  # noqa: B905 - made together, and this is the inner loop
                answer = test(state)
                if answer is not True:
                    matched, missed = answer, part
                    if answer is False:
                        break
            hop = Hop(table, rule, matched, missed)
            hops.append(hop)
            if matched is None:
                self.trace.decided_by = hop
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
        state = self.state
        match rule.entry.rule.target:
            case None | CtZone():
                return None
            case Verdict(name):
                if name in ("DROP", "ACCEPT", "RETURN") and table is not Table.RAW:
                    self._decided(hop)
                return "UNKNOWN" if name == "QUEUE" else name
            case Jump(name) | Goto(name) as target:
                chain = self.tracer._chains[table].get(name)
                if chain is None or depth >= MAX_DEPTH:
                    self._decided(hop)
                    return "UNKNOWN"
                verdict = self._chain(table, chain, depth + 1)
                return "RETURN" if verdict is None and isinstance(target, Goto) else verdict
            case Redirect(ports):
                port = ports.first if ports is not None else state.dport
                state.dport = port
                if state.out_interface is not None:
                    state.destination, state.out_interface = LOOPBACK[self.tracer.family], "lo"
                self.outcome = Outcome("redirect", port)
                self._decided(hop)
                return "ACCEPT"
            case Tproxy(port, _, mark, mask):
                state.mark = (state.mark & ~mask) ^ mark
                self.outcome = Outcome("tproxy", port)
                self._decided(hop)
                return "ACCEPT"
            case SetMark(value, mask):
                state.mark = (state.mark & ~mask) ^ value
            case SetConnmark(value, mask):
                state.connmark = (state.connmark & ~mask) ^ value
            case SaveMark(nfmask, ctmask):
                state.connmark = (state.connmark & ~ctmask) ^ (state.mark & nfmask)
            case RestoreMark(nfmask, ctmask):
                state.mark = (state.mark & ~nfmask) ^ (state.connmark & ctmask)
            case OpaqueTarget(name, _):
                return self._opaque(name, hop)
        return None

    def _opaque(self, name: str, hop: Hop) -> str | None:
        if name in CONTINUING:
            return None
        self._decided(hop)
        return "DROP" if name == "REJECT" else "UNKNOWN"

    def _decided(self, hop: Hop) -> None:
        """Remember the rule that decides, while no redirection is behind it."""
        kinds = ("redirect", "tproxy")
        by = self.trace.decided_by
        settled = (
            by is not None
            and self.outcome.kind in kinds
            and not isinstance(hop.rule.entry.rule.target, Redirect | Tproxy)
        )
        dropping = hop.rule.entry.rule.target == Verdict("DROP")
        if not settled or dropping:
            self.trace.decided_by = hop
