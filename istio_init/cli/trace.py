"""``istio-init trace``."""

from __future__ import annotations

import json
from typing import Any

import click

from istio_init.cli.packet import PACKET_OPTIONS, batch, described
from istio_init.cli.source import NAMESPACE_OPTIONS, Source, place_of, snapshot_in, source_from, source_of
from istio_init.cli.targets import with_options
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.errors import InputError
from istio_init.netfilter.family import Family
from istio_init.report.trace_json import trace_json
from istio_init.report.trace_text import trace_lines, verdict_line
from istio_init.trace.assume import FIELDS
from istio_init.trace.depends import depends_on
from istio_init.trace.engine import Trace, Tracer
from istio_init.trace.packet import Direction, Packet


@click.command("trace")
@click.argument("direction", required=False, type=click.Choice([each.value for each in Direction]))
@click.argument("protocol", required=False)
@click.argument("destination", required=False, metavar="[DST[:PORT]]")
@with_options(NAMESPACE_OPTIONS)
@click.option("--expect", metavar="ARGS", help="The rules of these istio-iptables arguments, applied nowhere.")
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
    value that it hinges on.

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
    tracers = _Tracers(source, only_given=file is not None or file6 is not None)
    if path is not None:
        for packet, assumed in batch(path, source):
            found, hinges = tracers.trace(packet, assumed)
            if form == "json":
                click.echo(json.dumps(trace_json(found, hinges, source.caveats)))
            else:
                click.echo(verdict_line(found, hinges, source.caveats))
        return 0
    assert direction is not None and protocol is not None and destination is not None
    packet, assumed = described(direction, protocol, destination, given, source)
    found, hinges = tracers.trace(packet, assumed)
    if form == "json":
        click.echo(json.dumps(trace_json(found, hinges, source.caveats), indent=2))
    else:
        click.echo("\n".join(trace_lines(found, hinges, source.caveats)))
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
    """Send from the very namespace whose rules were read: a process id may be somebody else's the next time."""
    from istio_init.cli.trace_live import run_live

    place = place_of(pid, netns)
    try:
        source = source_from(snapshot_in(place))
        packet, assumed = described(direction, protocol, destination, given, source)
        return run_live(packet, assumed, source, _Tracers(source).by_family[packet.family], place, form=form)
    finally:
        place.close()


class _Tracers:
    """The tracers of both families; of files that are given, only those whose rules they hold."""

    def __init__(self, source: Source, *, only_given: bool = False) -> None:
        self.only_given = only_given
        self.source = source
        self.rules = {family: source.rules.get(family, RuleSet(family)) for family in Family}
        self.by_family = {
            family: Tracer(rules, source.local_marks.get(family, frozenset())) for family, rules in self.rules.items()
        }

    def trace(self, packet: Packet, assumed: list[str]) -> tuple[Trace, tuple[str, ...]]:
        """The trace of a packet, and on which assumed values its outcome hinges."""
        family = packet.family
        if self.only_given and family not in self.source.rules:
            option = "--file" if family is Family.IPV4 else "--file6"
            raise InputError(f"no rules of {family.value} were given", fix=f"add {option}")
        found = self.by_family[family].trace(packet)
        hinges = depends_on(found, self.by_family[family], self.rules[family], [FIELDS[name] for name in assumed])
        names = {field: name for name, field in FIELDS.items()}
        return found, tuple(names[field] for field in hinges)
