"""``istio-init trace --live``: the connection is sent, and what the kernel does is shown beside what was predicted."""

from __future__ import annotations

import json

import click

from istio_init.cli.leaving import leaving_in_order
from istio_init.cli.source import Source
from istio_init.report.live_text import live_lines
from istio_init.report.trace_json import trace_json
from istio_init.system import namespaces
from istio_init.prove.live_trace import KINDS, TABLE_NAME, Sent, send
from istio_init.system.places import Place
from istio_init.trace.assume import FIELDS
from istio_init.trace.engine import Trace, Tracer
from istio_init.trace.observed import disagreement
from istio_init.trace.packet import Direction, Packet
from istio_init.visible import visible
from istio_init.wording.arguments import endpoint

DISAGREES = 3

TRIES = 3
"""How often it is sent where counters tell, which other connections move, too."""


def run_live(packet: Packet, assumed: list[str], source: Source, tracer: Tracer, place: Place, *, form: str) -> int:
    """Send a packet from a place, print what came of it, and return the exit status."""
    _check(packet, assumed, source)
    chosen = frozenset(FIELDS.values()) - {FIELDS[name] for name in assumed}
    goal = endpoint(packet.destination, packet.destination_port)
    note = f"sending {packet.protocol} to {goal} as user {packet.uid}, group {packet.gid} from {place.label}"
    click.echo(f"{note}; the table inet {TABLE_NAME} is there meanwhile", err=True)
    for _ in range(TRIES if source.backend == "legacy" else 1):
        sent = _sent(packet, chosen, source.backend, place)
        found = tracer.trace(sent.packet)
        differs = disagreement(found, sent.seen)
        if differs is None:
            break
    if "interface" in chosen and sent.packet.interface != packet.interface:
        differs = f"it left by {sent.packet.interface}, not by {packet.interface}"
    if form == "json":
        click.echo(
            json.dumps(
                trace_json(found, caveats=source.caveats) | {"live": _json(found, sent, source.backend, differs)},
                indent=2,
            )
        )
    else:
        click.echo("\n".join(live_lines(found, sent.seen, differs)))
    return DISAGREES if differs is not None else 0


def _check(packet: Packet, assumed: list[str], source: Source) -> None:
    """Refuse what cannot be sent from inside."""
    if packet.direction is not Direction.OUTBOUND:
        raise click.UsageError("--live sends from inside: an inbound connection needs somebody outside who sends it")
    if packet.protocol not in KINDS or "dport" in assumed or packet.destination_port == 0:
        raise click.UsageError("--live sends tcp or udp to a port")
    if packet.destination.is_multicast:
        raise click.UsageError("--live sends to one host: the copies of a multicast packet cannot be told apart")
    if packet.uid is None:
        raise click.UsageError("--live sends from a socket: not with --no-socket")
    if packet.ctstate != "NEW":
        raise click.UsageError("--live sends a connection's first packet: not with --ctstate")
    names = [each.name for each in source.snapshot.interfaces]
    if "interface" not in assumed and packet.interface not in names:
        there = visible(", ".join(names))
        raise click.BadParameter(
            f"{packet.interface!r}: there is no such interface; there are {there}", param_hint="--interface"
        )


def _sent(packet: Packet, chosen: frozenset[str], backend: str, place: Place) -> Sent:
    """Send within the place; the table is gone afterwards, also where a signal ends us."""
    with leaving_in_order():
        return namespaces.call_in(place.replace(userns=None), lambda: send(packet, chosen, backend, place))


def _json(found: Trace, sent: Sent, backend: str, differs: str | None) -> dict[str, object]:
    seen = sent.seen
    return {
        "backend": backend,
        "legs": None if seen.legs is None else [[_place(each) for each in leg] for leg in seen.legs],
        "counters": None
        if seen.legs is not None
        else [{**_place(each), "times": times} for each, times in seen.counts],
        "port": seen.port,
        "agrees": None if differs is None and found.delivered.kind == "unknown" else differs is None,
        "differs": differs,
    }


def _place(place: tuple[str, str, int]) -> dict[str, object]:
    return {"table": place[0], "chain": place[1], "rule": place[2]}
