"""``istio-init trace``."""

from __future__ import annotations

import json
from typing import Any

import click
from click.shell_completion import CompletionItem

from istio_init.cli.asked import choose_with, pod_option
from istio_init.cli.completing import complete_target
from istio_init.cli.lines import say
from istio_init.cli.output import output_options
from istio_init.cli.packet import PACKET_OPTIONS, batch, described
from istio_init.cli.source import NAMESPACE_OPTIONS, Source, snapshot_in, source_from, source_of
from istio_init.cli.target import Chosen
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
from istio_init.trace.result import Trace
from istio_init.trace.tracer import TOO_MANY, Tracer
from istio_init.visible import visible

DIRECTIONS = [each.value for each in Direction]
NOT_LIVE = "--live sends one connection from inside a namespace: not with --batch, --file, --expect"


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A target or a direction first, and what comes after a direction is for whoever asks to know."""
    before = ctx.params.get("words") or ()
    if set(before) & set(DIRECTIONS) or len(before) > 1:
        return []
    found = [CompletionItem(each) for each in DIRECTIONS if each.startswith(incomplete)]
    return found if before else [*found, *complete_target(files=True)(ctx, param, incomplete)]


@click.command("trace", short_help="Follow a connection's first packet, without sending it.")
@click.argument("words", nargs=-1, metavar="[TARGET] [DIRECTION PROTOCOL DST[:PORT]]", shell_complete=_complete)
@with_options(NAMESPACE_OPTIONS)
@click.option(
    "--expect", metavar="ARGS", help="The rules of these istio-iptables or --ambient arguments, applied nowhere."
)
@pod_option("This pod, looked for on this node.")
@with_options(PACKET_OPTIONS)
@click.option(
    "--batch", "path", metavar="FILE", help="Answer each packet of a file, one JSON object a line; - for stdin."
)
@click.option("--live", is_flag=True, help="Send it, and show what the kernel does beside what is predicted.")
@output_options("text", "json")
def trace(
    words: tuple[str, ...],
    pid: int | None,
    netns: str | None,
    file: str | None,
    file6: str | None,
    expect: str | None,
    manifest: str | None,
    path: str | None,
    live: bool,
    form: str,
    **given: Any,
) -> int:
    """Follow a connection's first packet through the rules, without sending it.

    For example: istio-init trace outbound tcp 10.0.0.5:443 --uid 1000

    DIRECTION is inbound or outbound. A TARGET before it is what explain takes.

    A port that is not given is taken to be 80; the answer names every assumed
    value that it depends on.

    With --live it is sent from inside the namespace; exit status 3 where the
    kernel does not do what was predicted.
    """
    target, asked_for = _split(words, is_batch=path is not None)
    if path is not None and any(value not in (None, False) for value in given.values()):
        raise click.UsageError("--batch takes all of a packet from its line: not with --src, --uid and the like")
    if live and (path or file or file6 or expect) is not None:
        raise click.UsageError(NOT_LIVE)
    if "-" == manifest == path:
        raise click.UsageError("only one of --pod and --batch can be standard input")
    chosen = choose_with(manifest, target, pid, netns, file, file6, expect)
    if live and chosen.is_file:
        raise click.UsageError(NOT_LIVE)
    if live:
        return _live(asked_for, given, chosen, form)
    source = source_of(chosen, expect)
    asked = Questions(source)
    looked_at = {"target": source.snapshot.label}
    if path is not None:
        if form == "text":
            say(source.snapshot.label, err=True)
        for packet, assumed in batch(path, asked.departures):
            found, depends = asked.trace(packet, assumed)
            if form == "json":
                say(json.dumps(looked_at | trace_json(found, source.reader, depends, source.caveats)))
            else:
                say(verdict_line(found, source.reader, depends, source.caveats))
        return 0
    packet, assumed = described(*asked_for, given, asked.departures)
    found, depends = asked.trace(packet, assumed)
    if form == "json":
        say(json.dumps(looked_at | trace_json(found, source.reader, depends, source.caveats), indent=2))
    else:
        first, *rest = trace_lines(found, source.reader, depends, source.caveats)
        say("\n".join([f"{visible(source.snapshot.label)}: {first}", *rest]))
    return 0


Words = tuple[str, str, str]
"""A direction, a protocol and a destination."""


def _split(words: tuple[str, ...], *, is_batch: bool) -> tuple[str | None, Words]:
    """The target, which is what stands before a direction, and the rest."""
    wanted = 0 if is_batch else 3
    if len(words) not in (wanted, wanted + 1):
        raise click.UsageError(
            "give --batch, and nothing else of the packet"
            if is_batch
            else "give a direction, a protocol and a destination, such as: outbound tcp 10.0.0.5:443"
        )
    target, rest = (words[0], words[1:]) if len(words) > wanted else (None, words)
    if rest and rest[0] not in DIRECTIONS:
        raise click.BadParameter(f"{rest[0]!r}: write {' or '.join(DIRECTIONS)}", param_hint="DIRECTION")
    return target, (rest[0], rest[1], rest[2]) if rest else ("", "", "")


def _live(words: Words, given: dict[str, Any], chosen: Chosen, form: str) -> int:
    """Send from the very namespace whose rules were read: a process id may have been reused by then."""
    from istio_init.cli.trace_live import run_live

    place = chosen.open()
    try:
        source = source_from(snapshot_in(place, chosen.words))
        tracer = Tracer(source.netfilter, source.host)
        packet, assumed = described(*words, given, tracer.departures)
        return run_live(packet, assumed, source, tracer, place, form=form)
    finally:
        place.close()


class Questions:
    """What is asked about packets; of files that are given, only the families whose rules they hold."""

    def __init__(self, source: Source) -> None:
        only_given = not source.snapshot.is_live and source.snapshot.target[:1] != ("--expect",)
        self.source = source
        self.tracer = Tracer(source.netfilter, source.host)
        self.departures = self.tracer.departures
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


def _depends(asked: Questions, found: Trace, assumed: list[str]) -> tuple[str, ...]:
    """The assumed values on which the outcome depends; all of them where there are too many rules to find out."""
    netfilter, host, packet = asked.source.netfilter, asked.source.host, found.packet
    if not assumed:
        return ()
    if not found.legs:
        return tuple(name for name in assumed if name in asked.departures.asks_for(packet.family))
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
