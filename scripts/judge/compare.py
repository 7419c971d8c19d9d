"""Judge what the tracer says of recorded packets by what the kernel did with them.

usage: PYTHONPATH=scripts python -m judge.compare [--most N] [--case SEED[:PACKET]] FILE.jsonl...
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum
from ipaddress import ip_address
from typing import Any, NamedTuple

from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import Assign, AssignFrom, Dispatch, Forget, Lookup, Openness, Test, Tproxy
from istio_init.netfilter.stages import Netfilter
from istio_init.trace.result import Hop, Kind, Outcome, Trace
from judge.predict import Predictor
from judge.recorded import host_of, netfilter_of

NOWHERE = (Kind.DROP, Kind.REJECT)
LATE = (Tproxy, Dispatch, AssignFrom)
"""Statements that can leave a rule whose counter has counted the packet before."""

IMPLIED = (Field.NFPROTO, Field.PROTOCOL)
"""What nft tests by itself, behind the counter, before a statement that asks for it (tproxy ip6, tcp dport set)."""

EVERY_MARK = ((0, 0xFFFFFFFF),)
"""What the model has a rule test that changes something only where there is a connection."""

Json = Mapping[str, Any]
Place = tuple[str, str, str, str, int]


class Verdict(Enum):
    """How a prediction stands to what happened; the value is how figures name it."""

    AGREES = "agree"
    OPEN = "undecided for an open match"
    OTHER = "undecided otherwise"
    WRONG = "wrong"


class Judged(NamedTuple):
    """One packet's verdict; ``why`` is what differs, or what was not known."""

    verdict: Verdict
    why: tuple[str, ...]
    trace: Trace | None = None


def judge(trace: Trace, sent: Json, observed: Json, netfilter: Netfilter) -> Judged:
    """Whether the packet ended where the tracer says, by the rules that it says."""
    if trace.delivered.kind is Kind.UNKNOWN:
        causes = tuple(f"{each.openness.value}: {each.words}" for each in trace.causes)
        if not any(_is_possible(each.delivered, sent, observed, trace) for each in trace.ways):
            said = ", ".join(_words(each.delivered) for each in trace.ways)
            return Judged(Verdict.WRONG, (f"none of the possible ends: {said}",), trace)
        is_open = all(each.openness is Openness.OPEN for each in trace.causes)
        return Judged(Verdict.OPEN if is_open else Verdict.OTHER, causes, trace)
    differs = [*_ends(trace, sent, observed)]
    if not _is_any_order_possible(trace, netfilter):
        differs += _rules(trace, observed)
    return Judged(Verdict.WRONG if differs else Verdict.AGREES, tuple(differs), trace)


def _is_possible(outcome: Outcome, sent: Json, observed: Json, trace: Trace) -> bool:
    if outcome.kind is Kind.UNKNOWN:
        return True
    if (observed["end"] == "drop") != (outcome.kind in NOWHERE):
        return False
    if observed["end"] == "drop":
        return True
    if outcome.kind is Kind.REDIRECT and outcome.port != observed["port"] and Field.DPORT not in _rewritten(trace):
        return False
    if outcome.kind is Kind.DIRECT:
        return sent["dst"] == observed["address"] or Field.DESTINATION in _rewritten(trace)
    if outcome.kind is Kind.TPROXY:  # Its address is the socket's; the packet keeps its own.
        taken = observed["arrived"]
        return taken is None or taken["remote"] is not None or taken["port"] == outcome.port
    return outcome.address is None or outcome.address == int(ip_address(observed["address"]))


def _rewritten(trace: Trace) -> set[Field]:
    """What rules write of the packet, which is no translation."""
    hops = [hop for leg in trace.legs for hop in leg.hops if hop.matched is not False]
    return {each.field for hop in hops for each in hop.rule.body if isinstance(each, Assign | AssignFrom | Forget)}


def _ends(trace: Trace, sent: Json, observed: Json) -> Iterator[str]:
    """What differs of the packet as it ended."""
    if trace.delivered.kind in NOWHERE:
        if observed["end"] != "drop":
            yield f"{observed['end']}, not {trace.delivered.kind.value}"
        return
    state = trace.state
    leaves = "left" if sent["direction"] == "outbound" else "forwarded"
    vias = {("input", None) if each is None else (leaves, each) for each in state.via}
    if observed["end"] not in {end for end, _ in vias}:
        said = " or ".join(sorted({end for end, _ in vias}))
        yield f"{observed['end']}, not {said} ({trace.delivered.kind.value})"
        return
    pairs: list[tuple[str, object, object]] = [
        ("destination", state.destination, int(ip_address(observed["address"]))),
        ("port", state.destination_port, observed["port"]),
        ("mark", state.mark, observed["mark"]),
        ("source", state.source, int(ip_address(observed["source"]))),
        ("source port", state.source_port, observed["sport"]),
    ]
    if observed["end"] != "input" and not vias & {(leaves, observed["interface"]), (leaves, "")}:
        yield f"interface {observed['interface']}, not {' or '.join(str(via) for _, via in vias)}"
    for name, expected, seen in pairs:
        if None not in (expected, seen) and expected != seen:
            yield f"{name} {seen}, not {expected}"
    taken = observed["arrived"]
    port = trace.delivered.port if trace.delivered.kind is Kind.TPROXY else state.destination_port
    if taken and port is not None and taken["port"] != port:
        yield f"the socket on port {taken['port']} took it, not the one on {port}"


def _is_any_order_possible(trace: Trace, netfilter: Netfilter) -> bool:
    """Whether nobody told in which order chains are called; the tracer then lists the rules of one order."""
    hooks = {hook for leg in trace.legs for hook, _ in leg.segments}
    return any(len(netfilter.stages(trace.packet.family, hook)) > 1 for hook in hooks)


def _rules(trace: Trace, observed: Json) -> Iterator[str]:
    """Which rules matched otherwise, if the tracer is sure of all."""
    hops = [hop for leg in trace.legs for hop in leg.hops]
    if _is_unsure(trace):
        return
    said = Counter(_place(hop) for hop in hops if hop.matched)
    # What chains at an interface do is never told; where it does not matter they are not listed.
    seen = Counter({_place_of(each): each[5] for each in observed["matched"] if each[1] != "netdev"})
    for hop in hops:
        if hop.matched is False and _is_late(hop):
            said[_place(hop)] = seen[_place(hop)]
    for place, times in (seen - said).items():
        yield f"matched: {' '.join(map(str, place))} ({times})"
    for place, times in (said - seen).items():
        yield f"did not match: {' '.join(map(str, place))} ({times})"


def _is_unsure(trace: Trace) -> bool:
    """Whether there are several ways, whatever their end."""
    return len(trace.state.via) > 1 or any(hop.matched is None for leg in trace.legs for hop in leg.hops)


def _is_late(hop: Hop) -> bool:
    """Whether the rule's counter may have counted the packet before it left the rule."""
    missed, (_, _, behind) = hop.missed, hop.rule.origin.text.partition("counter ")
    if isinstance(missed, Lookup):
        return "map " in behind
    if not isinstance(missed, Test):
        return isinstance(missed, LATE)
    asks_for_connection = missed.field is Field.CT_MARK and missed.within == EVERY_MARK
    return asks_for_connection or (missed.field in IMPLIED and bool(behind.strip()))


def _place(hop: Hop) -> Place:
    at = hop.rule.origin
    return at.store.value, at.family, at.table, at.chain, at.number


def _place_of(counted: list[Any]) -> Place:
    store, family, table, chain, number, _ = counted
    return store, family, table, chain, number


def _words(outcome: Outcome) -> str:
    return " ".join(str(each) for each in (outcome.kind.value, outcome.port, outcome.address) if each is not None)


def judged(found: Json, predictor: Predictor | None = None) -> Iterator[tuple[int, Json, Judged]]:
    """The packets of a recorded rule set, but for those that never came to be."""
    ruleset = found["ruleset"]
    predictor = predictor or Predictor(netfilter_of(ruleset), host_of(ruleset), ruleset["sysctls"])
    for number, each in enumerate(found["packets"]):
        if each["observed"]["end"] == "unsent":
            if _is_refused(each):
                yield number, each, _judge_refused(predictor.refused(each["packet"]))
            continue
        try:
            trace = predictor.trace(each["packet"])
        except Exception:  # What the tracer may never do.
            yield number, each, Judged(Verdict.WRONG, (traceback.format_exc(),))
            continue
        yield number, each, judge(trace, each["packet"], each["observed"], predictor.tracer.netfilter)


def _is_refused(each: Json) -> bool:
    """Whether IPv4's routing refused a packet of which a description leaves nothing out.

    Of IPv6 the source that would have been chosen is not told, by which rules may select.
    """
    sent, refusals = each["packet"], ("ENETUNREACH", "EHOSTUNREACH", "EINVAL")
    is_odd = sent["raw"] or sent["src"] or sent["bound"] or sent["transparent"] or sent["direction"] != "outbound"
    return sent["family"] == 4 and each["observed"]["error"] in refusals and not is_odd


def _judge_refused(trace: Trace) -> Judged:
    kind = trace.delivered.kind
    if kind is Kind.UNKNOWN:
        return Judged(Verdict.OTHER, tuple(f"{each.openness.value}: {each.words}" for each in trace.causes), trace)
    return Judged(Verdict.AGREES if kind in NOWHERE else Verdict.WRONG, ("it is not sent",), trace)


def case(found: Json, number: int, each: Json, result: Judged) -> str:
    """All that is needed to see what differs."""
    lines = [f"--- --case {found['seed']}:{number} {result.verdict.value}", *(f"  {why}" for why in result.why)]
    lines.append(f"  packet { ({k: v for k, v in each['packet'].items() if v is not None}) }")
    seen = each["observed"]
    lines.append(f"  kernel { ({k: v for k, v in seen.items() if k not in ('trail', 'matched')}) }")
    lines += [f"    {_station(station)}" for station in seen["trail"]]
    lines += [f"    matched {' '.join(map(str, rule))}" for rule in seen["matched"]]
    trace = result.trace
    if trace is not None:
        lines.append(f"  traced {_words(trace.outcome)}; {_words(trace.delivered)}; {trace.delivered_by}")
        lines.append(f"    {trace.state}")
        for leg in trace.legs:
            lines.append(f"    {leg.hook.value} {leg.interface}")
            for hop in leg.hops:
                if hop.matched is not False:
                    lines.append(f"      {hop.hook.value} {_place(hop)} {hop.matched} {hop.rule.origin.text}")
    return "\n".join(lines)


def _station(station: Json) -> str:
    named = ("hook", "interface", "mark", "src", "sport", "dst", "dport", "tos", "ttl")
    return " ".join(f"{name}={station.get(name)}" for name in named)


def figures(counts: Counter[Verdict]) -> str:
    """All in one line."""
    said = ", ".join(f"{counts[each]} {each.value}" for each in list(Verdict)[1:])
    return f"{counts[Verdict.AGREES]} of {counts.total()} agree, {said}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--most", type=int, default=8, help="so many wrong ones are printed")
    parser.add_argument("--case", default="", help="SEED or SEED:PACKET: print that alone")
    args = parser.parse_args()
    seed, _, wanted = args.case.partition(":")
    counts, whys, printed = Counter[Verdict](), Counter[str](), 0
    for path in args.files:
        with open(path) as file:
            for line in file:
                found = json.loads(line)
                if seed and found["seed"] != seed:
                    continue
                for number, each, result in judged(found):
                    if wanted and number != int(wanted):
                        continue
                    counts[result.verdict] += 1
                    if result.verdict is Verdict.OTHER:
                        whys.update(result.why)
                    if (result.verdict is Verdict.WRONG and printed < args.most) or wanted:
                        printed += 1
                        print(case(found, number, each, result))
    for why, times in whys.most_common(25):
        print(f"{times:6} {why}")
    print(figures(counts))
    return int(counts[Verdict.WRONG] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
