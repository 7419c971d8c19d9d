"""Connections that go astray: what the live rules do with them, beside what their configuration means."""

from __future__ import annotations

from itertools import islice

from istio_init.dialects.iptables.rules import RuleSet, is_builtin
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import Goto, Jump
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.model import Finding, place_of
from istio_init.inspector.findings.ordinary import ordinary
from istio_init.inspector.findings.rules import half_applied, limited, mode_leftovers
from istio_init.inspector.release import is_older, release_span
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import is_ours
from istio_init.netfilter.family import Family
from istio_init.space.classes import changes, oddness
from istio_init.space.conditions import condition
from istio_init.space.pieces import TooManyPieces
from istio_init.space.space import Space, split
from istio_init.trace.assume import local_marks
from istio_init.trace.engine import Outcome, Tracer
from istio_init.trace.hooks import FIRST_HOOKS, REDIRECTIONS
from istio_init.trace.packet import Direction, Packet
from istio_init.value import Value
from istio_init.wording.arguments import packet_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inspector.findings.model import View
    from istio_init.inspector.infer import Inferred
    from istio_init.trace.engine import Hop, Trace

MOST_PIECES = 400
"""Where the rules divide the connections into more, ordinary ones alone are followed: a map would take seconds."""

MOST_RULES = 50
"""So many rules of others are tried one by one, where no map is made."""

ENTRIES = ("OUTPUT", "PREROUTING")


class Stray(Value):
    """A connection that the live rules treat otherwise than those of the configuration."""

    family: Family
    meant: Outcome
    live: Outcome
    packet: Packet


def captured_otherwise(view: View) -> Iterator[Finding]:
    """Connections that go astray, by whose rule sends them there: somebody else's, ours, or one that nobody knows."""
    lines: dict[str, dict[str, str]] = {"foreign": {}, "ours": {}, "unknown": {}}
    tracers = {}
    for stray in sorted(strays(view), key=lambda each: oddness(each.packet.direction, each.packet)):
        rules = view.rules.get(stray.family, RuleSet(stray.family))
        if stray.family not in tracers:
            marks = local_marks(view.snapshot, rules)
            tracers[stray.family] = Tracer(rules, marks), Tracer(_without_foreign(rules), marks)
        live, without_foreign = tracers[stray.family]
        trace = live.trace(stray.packet)
        is_foreign = without_foreign.trace(stray.packet).delivered == stray.meant
        hop = _culprit(trace) if is_foreign else trace.delivered_by
        if stray.live.kind == "drop" and (hop is None or hop.hook not in ENTRIES or hop.table is Table.FILTER):
            continue  # A firewall behind the redirection; `captured_dropped` says where it leaves nothing.
        is_told = hop is None or hop.matched is not None
        whose = "unknown" if not is_told else "foreign" if is_foreign else "ours"
        where = (
            str(place_of(hop, view.backend, rules)) if hop is not None else f"{stray.family.value}: no rule takes it"
        )
        what = f"{_fate(stray.live)}, not {_goal(stray.meant)}: istio-init trace {packet_arguments(stray.packet)}"
        lines[whose].setdefault(where, f"{where}: {what}")
    if lines["ours"] and (any(half_applied(view)) or any(mode_leftovers(view))):
        lines["ours"] = {}  # They say what is behind it.
    kinds = (("foreign", catalogue.FOREIGN_AHEAD), ("ours", catalogue.CAPTURED_OTHERWISE))
    for whose, kind in (*kinds, ("unknown", catalogue.UNDECIDED_RULE)):
        if lines[whose]:
            yield Finding(kind, limited(list(lines[whose].values())))


def strays(view: View) -> list[Stray]:
    """The connections of each kind that goes astray; none where the rules are just those of the configuration."""
    inferred = view.inferred
    if inferred is None or (inferred.exact and not _has_foreign(view)):
        return []
    found = []
    for family, meant in sidecar.rules(inferred.config, inferred.around).items():
        live = view.rules.get(family, RuleSet(family))
        known = view.snapshot.is_live or family in view.rules
        if family not in view.snapshot.partial and known:
            found += _strays(view, inferred, meant, live)
    return [each for each in found if _matters(each)]


def _strays(view: View, inferred: Inferred, meant: RuleSet, live: RuleSet) -> list[Stray]:
    """By a map where that is quickly made; the rules of older releases differ by more than what goes astray."""
    marks = local_marks(view.snapshot, live)
    older = is_older(release_span(view.rules))
    base = _without_foreign(live) if older else meant
    groups = ordinary(view.snapshot, inferred, meant.family, {meant.family: marks})
    usual = [packet for group in groups for packet in group.packets]
    found = list(_differing(meant, live, marks, usual)) if older else []
    try:
        return found + [
            Stray(meant.family, each.before, each.after, each.witness)
            for direction in Direction
            for each in changes(base, live, direction, marks, MOST_PIECES)
        ]
    except TooManyPieces:
        return found + list(_differing(base, live, marks, [*usual, *_met_by_foreign(base, live)]))


def _differing(meant: RuleSet, live: RuleSet, marks: frozenset[int], packets: list[Packet]) -> Iterator[Stray]:
    """Those of some packets that the live rules treat otherwise."""
    wanted, found = Tracer(meant, marks), Tracer(live, marks)
    for packet in packets:
        before, after = wanted.trace(packet).delivered, found.trace(packet).delivered
        if before != after:
            yield Stray(meant.family, before, after, packet)


def _met_by_foreign(meant: RuleSet, live: RuleSet) -> Iterator[Packet]:
    """A packet for each of the first rules of others, which it matches as far as can be told."""
    for direction in Direction:
        space = Space(direction, live.family, [meant, live])
        hooks = FIRST_HOOKS[direction]
        foreign = (
            (table, chain.name if is_builtin(table, chain.name) else hooks[0], entry.rule)
            for table, chain, _, entry in live.entries()
            if (chain.name in hooks or not is_builtin(table, chain.name)) and not is_ours(chain.name, entry)
        )
        for table, hook, rule in islice(foreign, MOST_RULES):
            for test in condition(space, rule, table, hook).tests:
                region, _ = split(space.whole, {dimension: found for dimension, found in test if dimension >= 0})
                if region is not None and (possible := space.possible(region)):
                    yield space.packet_in(possible[0])


def _matters(stray: Stray) -> bool:
    """Whether it concerns the mesh: what is captured goes elsewhere, or what is not is captured."""
    if stray.meant.kind in REDIRECTIONS:
        return True
    return stray.live.kind in REDIRECTIONS


def _has_foreign(view: View) -> bool:
    return any(place.backend == view.backend and not is_ours(place.chain.name, place.entry) for place in view.places)


def _without_foreign(rules: RuleSet) -> RuleSet:
    """The rules without those of others in the kernel's own chains."""
    tables = {
        table: {
            name: chain.replace(entries=tuple(each for each in chain.entries if is_ours(name, each)))
            if is_builtin(table, name)
            else chain
            for name, chain in chains.items()
        }
        for table, chains in rules.tables.items()
    }
    return RuleSet(rules.family, tables)


def _culprit(trace: Trace) -> Hop | None:
    """The rule of somebody else that changed a packet's way: the one that decided, else the last that did anything."""
    decisive = trace.delivered_by
    if decisive is not None and not is_ours(decisive.rule.chain, decisive.rule.entry):
        return decisive
    touched = [
        hop
        for leg in trace.legs
        for hop in leg.hops
        if hop.matched
        and not is_ours(hop.rule.chain, hop.rule.entry)
        and not isinstance(hop.rule.entry.rule.target, Jump | Goto | None)
    ]
    return touched[-1] if touched else decisive


def _fate(outcome: Outcome) -> str:
    match outcome.kind:
        case "direct":
            return "goes straight"
        case "drop":
            return "is dropped"
        case "unknown":
            return "goes where nobody can tell"
        case _:
            return f"comes {_goal(outcome)}"


def _goal(outcome: Outcome) -> str:
    return "straight" if outcome.kind == "direct" else f"to port {outcome.port}" if outcome.port else "to this machine"
