"""``istio-init trace --live``: the connection is sent, and what the kernel does is shown beside what was predicted."""

from __future__ import annotations

import json

import click

from istio_init.cli.leaving import leaving_in_order
from istio_init.cli.lines import say
from istio_init.cli.source import Source
from istio_init.netfilter.fields import CtState
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import TCP, protocol_name
from istio_init.netfilter.rules import Store
from istio_init.netfilter.stages import NFT_FAMILIES
from istio_init.prove.live_trace import KINDS, TABLE_NAME, Sent, send
from istio_init.report.live_text import live_lines, place_words
from istio_init.report.trace_json import trace_json
from istio_init.system import namespaces
from istio_init.system.places import Place
from istio_init.trace.describe import FIELDS, HEADERS, LENGTHS, SYN
from istio_init.trace.observed import Place as RulePlace
from istio_init.trace.observed import disagreement, settled
from istio_init.trace.result import Kind, Trace
from istio_init.trace.tracer import Tracer
from istio_init.visible import visible
from istio_init.wording.traces import endpoint

DISAGREES = 3

TRIES = 3
"""How often it is sent where counters tell, which other connections move, too."""


def run_live(packet: Packet, assumed: list[str], source: Source, tracer: Tracer, place: Place, *, form: str) -> int:
    """Send a packet from a place, print what came of it, and return the exit status."""
    _check(packet, assumed, source)
    chosen = frozenset(FIELDS.values()) - {FIELDS[name] for name in assumed}
    goal = endpoint(packet.destination, packet.destination_port)
    who = f"as user {packet.uid}, group {packet.gid} from {place.label}"
    note = f"sending {protocol_name(packet.protocol)} to {goal} {who}"
    say(f"{note}; the table inet {TABLE_NAME} is there meanwhile", err=True)
    counts = _has_legacy(source, packet)
    for _ in range(TRIES if counts else 1):
        sent = _sent(packet, chosen, place, counts=counts)
        found = tracer.trace(sent.packet)
        followed, differs = _compared(found, sent, tracer)
        if differs is None:
            break
    if "interface" in chosen and sent.packet.interface != packet.interface:
        differs = f"it left via {sent.packet.interface}, not via {packet.interface}"
    if form == "json":
        target = {"target": source.snapshot.label}
        said = target | trace_json(found, source.reader, caveats=source.caveats) | {"live": _json(found, sent, differs)}
        say(json.dumps(said, indent=2))
    else:
        first, *rest = live_lines(found, followed, source.reader, sent.seen, differs, source.caveats)
        say("\n".join([f"{visible(source.snapshot.label)}: {first}", *rest]))
    return DISAGREES if differs is not None else 0


def _check(packet: Packet, assumed: list[str], source: Source) -> None:
    """Refuse what cannot be sent from inside."""
    if packet.direction is not Direction.OUTBOUND:
        raise click.UsageError("--live sends from inside: an inbound connection has to be sent from outside")
    if packet.protocol not in KINDS or "dport" in assumed or packet.destination_port == 0:
        raise click.UsageError("--live sends tcp or udp to a port")
    if packet.destination.is_multicast:
        raise click.UsageError("--live sends to one host: the copies of a multicast packet cannot be told apart")
    if packet.uid is None:
        raise click.UsageError("--live sends from a socket: not with --no-socket")
    if packet.state is not CtState.NEW or (packet.protocol == TCP and packet.tcp_flags != SYN):
        raise click.UsageError("--live sends a connection's first packet: not with --ctstate, --tcp-flags")
    behind = LENGTHS.get(packet.protocol)
    if packet.length != (None if behind is None else HEADERS[packet.family] + behind):
        raise click.UsageError("--live sends a packet as long as the kernel makes it: not with --length")
    names = [each.name for each in source.snapshot.interfaces]
    if "interface" not in assumed and packet.interface not in names:
        there = visible(", ".join(names))
        raise click.BadParameter(
            f"{packet.interface!r}: there is no such interface; there are {there}", param_hint="--interface"
        )


def _compared(found: Trace, sent: Sent, tracer: Tracer) -> tuple[Trace, str | None]:
    """The trace that the kernel followed, and in what it differs.

    Where nobody told in which order chains of the same priority are called, it is the one of any order.
    """
    differs = disagreement(found, sent.seen, place_words)
    for netfilter in settled(tracer.netfilter, sent.packet.family) if differs is not None else ():
        other = Tracer(netfilter, tracer.host).trace(sent.packet)
        if disagreement(other, sent.seen, place_words) is None:
            return other, None
    return found, differs


def _has_legacy(source: Source, packet: Packet) -> bool:
    """Whether legacy holds rules of the packet's family."""
    return any(
        table.store is Store.LEGACY and table.family in NFT_FAMILIES[packet.family] and chain.rules
        for table in source.netfilter.tables
        for chain in table.chains.values()
    )


def _sent(packet: Packet, chosen: frozenset[str], place: Place, *, counts: bool) -> Sent:
    """Send within the place; the table is gone afterwards, also where a signal ends us."""
    with leaving_in_order():
        return namespaces.call_in(place.replace(userns=None), lambda: send(packet, chosen, place, counts=counts))


def _json(found: Trace, sent: Sent, differs: str | None) -> dict[str, object]:
    seen = sent.seen
    counters = None if seen.counts is None else [{**_place(each), "times": times} for each, times in seen.counts]
    return {
        "legs": [[_place(each) for each in leg] for leg in seen.legs],
        "counters": counters,
        "port": seen.port,
        "agrees": None if differs is None and found.delivered.kind is Kind.UNKNOWN else differs is None,
        "differs": differs,
    }


def _place(place: RulePlace) -> dict[str, object]:
    store, family, table, chain, number = place
    return {"store": store.value, "family": family, "table": table, "chain": chain, "rule": number}
