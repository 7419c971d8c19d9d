"""``istio-init trace``."""

from __future__ import annotations

import json
from typing import Any

import click

from istio_init.cli.lines import say
from istio_init.cli.packet import PACKET_OPTIONS, batch, described
from istio_init.cli.source import NAMESPACE_OPTIONS, Source, place_of, snapshot_in, source_from, source_of
from istio_init.cli.targets import with_options
from istio_init.errors import InputError
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.stages import NFT_FAMILIES
from istio_init.report.trace_json import trace_json
from istio_init.report.trace_text import trace_lines, verdict_line
from istio_init.space.depends import depends_on, looks_for_invalid
from istio_init.space.diagram import TooManyPieces
from istio_init.trace.departure import Departures
from istio_init.trace.result import Trace
from istio_init.trace.tracer import TOO_MANY, Tracer
from istio_init.visible import visible


@click.command("trace")
@click.argument("direction", required=False, type=click.Choice([each.value for each in Direction]))
@click.argument("protocol", required=False)
@click.argument("destination", required=False, metavar="[DST[:PORT]]")
@with_options(NAMESPACE_OPTIONS)
@click.option(
    "--expect", metavar="ARGS", help="The rules of these istio-iptables or --ambient arguments, applied nowhere."
)
@with_options(PACKET_OPTIONS)
@click.option(
    "--batch", "path", metavar="FILE", help="Answer each packet of a file, one JSON object a line; - for stdin."
)
@click.option("--live", is_flag=True, help="Send it, and show what the kernel does beside what is predicted.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def trace(
    direction: str | None,
    protocol: str | None,
    destination: str | None,
    pid: int | None,
    netns: str | None,
    file: str | None,
    file6: str | None,
    expect: str | None,
    path: str | None,
    live: bool,
    form: str,
    **given: Any,
) -> int:
    """Follow a connection's first packet through the rules, without sending it.

    For example: istio-init trace outbound tcp 10.0.0.5:443 --uid 1000

    A port that is not given is taken to be 80; the answer names every assumed
    value that it depends on.

    With --live it is sent from inside the namespace; exit status 3 where the
    kernel does not do what was predicted.
    """
    if (path is None) == (destination is None) or (path is not None and direction is not None):
        raise click.UsageError("give a direction, a protocol and a destination, or --batch")
    if path is not None and any(value not in (None, False) for value in given.values()):
        raise click.UsageError("--batch takes all of a packet from its line: not with --src, --uid and the like")
    if live and (path or file or file6 or expect) is not None:
        raise click.UsageError(
            "--live sends one connection from inside a namespace: not with --batch, --file, --expect"
        )
    if live:
        assert direction is not None and protocol is not None and destination is not None
        return _live(direction, protocol, destination, given, pid, netns, form)
    source = source_of(pid, netns, file, file6, expect)
    asked = _Asked(source, only_given=not source.snapshot.is_live and expect is None)
    target = {"target": source.snapshot.label}
    if path is not None:
        if form == "text":
            say(source.snapshot.label, err=True)
        for packet, assumed in batch(path, source):
            found, depends = asked.trace(packet, assumed)
            if form == "json":
                say(json.dumps(target | trace_json(found, source.reader, depends, source.caveats)))
            else:
                say(verdict_line(found, source.reader, depends, source.caveats))
        return 0
    assert direction is not None and protocol is not None and destination is not None
    packet, assumed = described(direction, protocol, destination, given, source)
    found, depends = asked.trace(packet, assumed)
    if form == "json":
        say(json.dumps(target | trace_json(found, source.reader, depends, source.caveats), indent=2))
    else:
        first, *rest = trace_lines(found, source.reader, depends, source.caveats)
        say("\n".join([f"{visible(source.snapshot.label)}: {first}", *rest]))
    return 0


def _live(
    direction: str,
    protocol: str,
    destination: str,
    given: dict[str, Any],
    pid: int | None,
    netns: str | None,
    form: str,
) -> int:
    """Send from the very namespace whose rules were read: a process id may have been reused by then."""
    from istio_init.cli.trace_live import run_live

    place = place_of(pid, netns)
    try:
        source = source_from(snapshot_in(place))
        packet, assumed = described(direction, protocol, destination, given, source)
        return run_live(packet, assumed, source, Tracer(source.netfilter, source.host), place, form=form)
    finally:
        place.close()


class _Asked:
    """What is asked about packets; of files that are given, only the families whose rules they hold."""

    def __init__(self, source: Source, *, only_given: bool = False) -> None:
        self.source = source
        self.tracer = Tracer(source.netfilter, source.host)
        held = {table.family for table in source.netfilter.tables}
        self.looks_for_invalid = looks_for_invalid(source.netfilter)
        self.known = [family for family in Family if not only_given or held & NFT_FAMILIES[family]]

    def trace(self, packet: Packet, assumed: list[str]) -> tuple[Trace, tuple[str, ...]]:
        """The trace of a packet, and the assumed values on which its outcome depends."""
        family = packet.family
        if family not in self.known:
            option = "--file" if family is Family.IPV4 else "--file6"
            raise InputError(f"no rules of {family.value} were given", fix=f"add {option}")
        found = self.tracer.trace(packet)
        return found, _depends(self, found, assumed)


def _depends(asked: _Asked, found: Trace, assumed: list[str]) -> tuple[str, ...]:
    """The assumed values on which the outcome depends; all of them where there are too many rules to find out."""
    netfilter, host, packet = asked.source.netfilter, asked.source.host, found.packet
    if not assumed:
        return ()
    if not found.legs:
        return tuple(name for name in assumed if name in Departures(host).asks_for(packet.family))
    if TOO_MANY in found.causes:
        return tuple(assumed)
    try:
        depends = depends_on(netfilter, host, packet, assumed)
    except TooManyPieces:
        return tuple(assumed)
    if "ctstate" in assumed and asked.looks_for_invalid:
        other = asked.tracer.trace(packet.replace(state=CtState.INVALID))
        depends += ("ctstate",) if other.delivered != found.delivered else ()
    return depends
