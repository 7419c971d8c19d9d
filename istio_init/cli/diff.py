"""``istio-init diff``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from istio_init.cli.asked import asked_by, chosen_by, manifest_of, pod_option, wanted
from istio_init.cli.completing import complete_target
from istio_init.cli.lines import say
from istio_init.cli.output import output_options
from istio_init.cli.source import (
    Source,
    config_snapshot,
    nothing_wanted,
    source_from,
    source_of,
    wanted_snapshot,
    warned,
)
from istio_init.cli.target import Chosen, resolve
from istio_init.errors import InputError
from istio_init.netfilter.family import MAX_MARK, Family
from istio_init.netfilter.host import beside
from istio_init.netfilter.packet import Direction
from istio_init.report.trace_json import packet_json
from istio_init.space.diagram import TooManyPieces
from istio_init.space.map import Difference, Fate, differences
from istio_init.value import Value
from istio_init.wording.commands import Target
from istio_init.wording.outcomes import outcome_words, place, word
from istio_init.wording.packets import packet_arguments, trace_command
from istio_init.wording.regions import decider_json, lines, mark_text

DIFFERENT, UNDECIDED = 3, 1

SHOWN = 8
"""Conditions of a difference that are printed; --format json has all."""


# A configuration begins with a dash, so there are no short options that it could be mistaken for.
class DiffCommand(click.Command):
    """Help by -h as well, where it cannot be part of a configuration."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--help"] if args[:1] == ["-h"] else args)


TWO = (
    "give two of these: a target, a file, or a configuration such as \"-b '*' -i '*'\"; or --pod MANIFEST in place of A"
)


@click.command(
    "diff",
    cls=DiffCommand,
    short_help="Compare what two rule sets do.",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.argument("sides", metavar="A B", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_target(files=True))
@pod_option("In place of A what this pod asks for; without B the pod is looked for on this node.")
@output_options("text", "json", short=False)
def diff(sides: tuple[str, ...], manifest: str | None, form: str) -> int:
    """Compare two rule sets by what they do, not by their text.

    Each is a target as explain takes it, two files (FILE,FILE6), or a
    configuration as istio-iptables arguments ("-b '*' -i '*'") or those of
    apply --ambient ("--ambient --ipv6=false"). With --pod A is what a pod asks
    for by its manifest, and B that pod on this node, or what is named. Exit
    status 0 where they are equal in behaviour, 3 where they are not.
    """
    if manifest is None and len(sides) != 2:
        raise click.UsageError(TWO)
    if manifest is not None and len(sides) > 1:
        raise click.UsageError("--pod MANIFEST stands in place of A: give B alone, or nothing")
    one, other = _both(*sides) if manifest is None else _asked_and(manifest, *sides)
    found = compared(one, other)
    if form == "json":
        say(json.dumps(diff_json(found), indent=2))
    else:
        _print(found, other.snapshot.look)
    return DIFFERENT if found.differences else UNDECIDED if found.caveats else 0


class Compared(Value):
    """How two rule sets differ, what could not be read of them, and the ports of the proxy in either."""

    differences: tuple[tuple[Family, Direction, Difference], ...]
    caveats: tuple[str, ...]
    proxy_ports: frozenset[int]


def compared(one: Source, other: Source) -> Compared:
    """Two rule sets by what they do.

    Raises:
        InputError: they divide connections into more than can be compared.
    """
    found = tuple(
        (family, direction, each)
        for family in Family
        for direction in Direction
        for each in _differences(one, other, family, direction)
    )
    caveats = tuple(dict.fromkeys((*one.caveats, *other.caveats)))
    return Compared(found, caveats, one.reader.proxy_ports | other.reader.proxy_ports)


def diff_json(found: Compared) -> dict[str, object]:
    """The differences as JSON values; see istio_init/schemas/diff.schema.json."""
    objects = [_json(*each, found.proxy_ports) for each in found.differences]
    equal = None if found.caveats and not objects else not objects
    return {"schema": 1, "equal": equal, "differences": objects, "caveats": list(found.caveats)}


def _differences(one: Source, other: Source, family: Family, direction: Direction) -> list[Difference]:
    hosts = one.host, other.host
    if one.host.routes is not None:
        hosts = one.host, beside(one.host, other.host)
    elif other.host.routes is not None:
        hosts = beside(other.host, one.host), other.host
    # Who listens is no matter of rules.
    sides = (one.netfilter, hosts[0].replace(listeners=None)), (other.netfilter, hosts[1].replace(listeners=None))
    if sides[0][0].tables == sides[1][0].tables and sides[0][1] == sides[1][1]:
        return []
    try:
        return differences(*sides, family, direction)
    except TooManyPieces:
        what = f"{direction.value} {family.value}: the rules divide connections into too many to be compared"
        raise InputError(what, fix="compare single connections with istio-init trace") from None


def _both(before: str, after: str) -> tuple[Source, Source]:
    """The rule sets of both arguments. A configuration captures DNS to the name servers of the other side."""
    texts = before, after
    found = {number: _source(text) for number, text in enumerate(texts) if not _is_configuration(text)}
    servers = tuple(server for each in found.values() for server in each.snapshot.dns_servers)
    for number, text in enumerate(texts):
        if number not in found:
            found[number] = source_from(config_snapshot(text, servers))
    return found[0], found[1]


def _asked_and(manifest: str, after: str | None = None) -> tuple[Source, Source]:
    """What a pod asks for by its manifest, and the live pod or what is named beside it."""
    found = manifest_of(manifest)
    if after is None:
        other = source_of(chosen_by(found), None)
    else:
        other = source_from(config_snapshot(after)) if _is_configuration(after) else _source(after)
    asked = asked_by(found.pod)
    for note in asked.notes:
        say(f"warning: {note}", fg="yellow", err=True)
    config, label = wanted(asked, other.snapshot), f"what {asked.name or 'the pod'} asks for"
    if config is None:
        return source_from(nothing_wanted(label)), other
    return source_from(warned(*wanted_snapshot(config, label, (), other.snapshot.dns_servers))), other


def _is_configuration(text: str) -> bool:
    return text.lstrip().startswith("-") or " " in text.strip()


def _source(text: str) -> Source:
    """The rule sets that an argument names, which is no configuration."""
    if not text:
        raise click.UsageError("an empty argument names no rules")
    first, comma, second = text.partition(",")
    if comma and Path(first).is_file():
        return source_of(Chosen(file=first, file6=second), None)
    return source_of(resolve(text, files=True), None)


def _print(compared: Compared, target: Target) -> None:
    found, ports = compared.differences, compared.proxy_ports
    if not found and not compared.caveats:
        say("equal: every new connection has the same outcome")
    elif not found:
        say(f"undecidable: equal, as far as could be read: {', '.join(compared.caveats)}")
    for family, direction, each in sorted(found, key=lambda one: one[2].before.outcome == one[2].after.outcome):
        before, after = _words(each.before, each.after, ports), _words(each.after, each.before, ports)
        say(f"{direction.value}, {family.value}: ", bold=True, nl=False)
        say(f"{before} in A, {after} in B")
        told = lines(each.regions, is_ipv6=family is Family.IPV6)
        for line in told[:SHOWN]:
            say(f"  {line}")
        if len(told) > SHOWN:
            say(f"  and {len(told) - SHOWN} conditions more")
        say(f"  for example: {trace_command(each.witness, target)}")


def _words(fate: Fate, beside: Fate, ports: frozenset[int]) -> str:
    """A fate, and of its marks those in which it differs from another."""
    words = outcome_words(fate.outcome, ports)
    if fate.outcome != beside.outcome:
        return words
    if fate.mark != beside.mark:
        words += f" with {mark_text(fate.mark)}" if fate.mark else " with its mark"
    if fate.connection_mark != beside.connection_mark:
        words += f" with {mark_text(fate.connection_mark or ((MAX_MARK, 0),), 'connection mark')}"
    return words


def _json(family: Family, direction: Direction, each: Difference, ports: frozenset[int]) -> dict[str, object]:
    return {
        "direction": direction.value,
        "family": family.value,
        "before": {**_fate(each.before, ports), "decided_by": decider_json(each.decider_before)},
        "after": {**_fate(each.after, ports), "decided_by": decider_json(each.decider_after)},
        "conditions": lines(each.regions, is_ipv6=family is Family.IPV6),
        "witness": packet_arguments(each.witness),
        "packet": packet_json(each.witness),
    }


def _fate(fate: Fate, ports: frozenset[int]) -> dict[str, object]:
    outcome = fate.outcome
    return {
        "outcome": word(outcome, ports).value,
        "kind": outcome.kind.value,
        "port": outcome.port,
        "to": place(outcome) if outcome.address is not None else None,
        "marks": _marks(fate.mark),
        "connection_marks": _marks(fate.connection_mark),
    }


def _marks(parts: tuple[tuple[int, int | None], ...]) -> list[dict[str, int | None]]:
    return [{"mask": mask, "value": value} for mask, value in parts]
