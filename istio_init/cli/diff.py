"""``istio-init diff``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from istio_init.cli.source import Source, config_snapshot, source_from, source_of
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.netfilter.family import Family
from istio_init.report.trace_json import packet_json
from istio_init.space.classes import NO_MARKS, Difference, Fate, differences
from istio_init.space.space import Space
from istio_init.trace.packet import Direction
from istio_init.wording.arguments import packet_arguments
from istio_init.wording.region_words import condition_words, fate_words

DIFFERENT, UNDECIDED = 3, 1

SHOWN = 8
"""Conditions of a difference that are printed; --format json has all."""


# A configuration begins with a dash, so there are no short options that it could be mistaken for.
class DiffCommand(click.Command):
    """Help by -h as well, where it cannot be part of a configuration."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--help"] if args[:1] == ["-h"] else args)


@click.command(
    "diff",
    cls=DiffCommand,
    short_help="Compare what two rule sets do.",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.argument("before", metavar="A", type=click.UNPROCESSED)
@click.argument("after", metavar="B", type=click.UNPROCESSED)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def diff(before: str, after: str, form: str) -> int:
    """Compare two rule sets by what they do, not by their text.

    Each is a process id, the name or path of a network namespace, a file of
    iptables-save text (FILE or FILE,FILE6), or a configuration as
    istio-iptables arguments ("-b '*' -i '*'"). Exit status 0 where they are
    equal in behaviour, 3 where they are not.
    """
    one, other = _both(before, after)
    caveats = list(dict.fromkeys((*one.caveats, *other.caveats)))
    found: list[tuple[Family, Space, Difference]] = []
    for family in Family:
        rules = [each.rules.get(family, RuleSet(family)) for each in (one, other)]
        marks = [each.local_marks.get(family, NO_MARKS) for each in (one, other)]
        for direction in Direction if rules[0] != rules[1] or marks[0] != marks[1] else ():
            space, differing = differences(rules[0], rules[1], direction, marks[0], marks[1])
            found += [(family, space, each) for each in differing]
    if form == "json":
        objects = [_json(*each) for each in found]
        equal = None if caveats and not found else not found
        click.echo(json.dumps({"schema": 1, "equal": equal, "differences": objects, "caveats": caveats}, indent=2))
    else:
        _print(found, caveats)
    return DIFFERENT if found else UNDECIDED if caveats else 0


def _both(before: str, after: str) -> tuple[Source, Source]:
    """The rule sets of both arguments. A configuration is held to the name servers that the other side has."""
    texts = before, after
    found = {number: _source(text) for number, text in enumerate(texts) if not _is_configuration(text)}
    servers = tuple(server for each in found.values() for server in each.snapshot.dns_servers)
    for number, text in enumerate(texts):
        if number not in found:
            found[number] = source_from(config_snapshot(text, servers))
    return found[0], found[1]


def _is_configuration(text: str) -> bool:
    return text.lstrip().startswith("-") or " " in text.strip()


def _source(text: str) -> Source:
    """The rule sets that an argument names, which is no configuration."""
    if not text:
        raise click.UsageError("an empty argument names no rules")
    if text.isdigit():
        return source_of(int(text), None, None, None, None)
    paths = text.split(",")
    if Path(paths[0]).is_file() and not paths[0].startswith(("/run/netns/", "/var/run/netns/", "/proc/")):
        return source_of(None, None, paths[0], paths[1] if len(paths) > 1 else None, None)
    return source_of(None, text, None, None, None)


def _print(found: list[tuple[Family, Space, Difference]], caveats: list[str]) -> None:
    if not found and not caveats:
        click.echo("equal: every new connection has the same outcome")
    elif not found:
        click.echo(f"cannot tell: equal, unless what is not looked at decides otherwise: {', '.join(caveats)}")
    for family, space, each in sorted(found, key=lambda one: one[2].before.outcome == one[2].after.outcome):
        click.secho(f"{space.direction.value}, {family.value}: ", bold=True, nl=False)
        click.echo(f"{fate_words(each.before, each.after)} in A, {fate_words(each.after, each.before)} in B")
        lines = condition_words(space, each.regions)
        for line in lines[:SHOWN]:
            click.echo(f"  {line}")
        if len(lines) > SHOWN:
            click.echo(f"  and {len(lines) - SHOWN} conditions more")
        click.echo(f"  for example: istio-init trace {packet_arguments(each.witness)}")


def _json(family: Family, space: Space, each: Difference) -> dict[str, object]:
    return {
        "direction": space.direction.value,
        "family": family.value,
        "before": _fate(each.before),
        "after": _fate(each.after),
        "conditions": condition_words(space, each.regions),
        "witness": packet_arguments(each.witness),
        "packet": packet_json(each.witness),
    }


def _fate(fate: Fate) -> dict[str, object]:
    """A fate; a mark that rules left alone is null."""
    how = None if fate.how is None else rule_text(fate.how)
    outcome = fate.outcome
    return {"kind": outcome.kind, "port": outcome.port, "how": how, "mark": fate.mark, "connmark": fate.connmark}
