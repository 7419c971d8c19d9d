"""``istio-init map``."""

from __future__ import annotations

import json

import click

from istio_init.cli.source import NAMESPACE_OPTIONS, Source, source_of
from istio_init.cli.targets import with_options
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.netfilter.family import Family
from istio_init.space.classes import NO_MARKS, TrafficClass, classes
from istio_init.trace.assume import is_usable
from istio_init.trace.packet import Direction
from istio_init.value import Value
from istio_init.wording.region_words import condition_words, decider_words, outcome_words

KINDS = ["redirect", "tproxy", "direct", "drop", "unknown"]


@click.command("map", short_help="Divide all connections by what becomes of them.")
@with_options(NAMESPACE_OPTIONS)
@click.option("--expect", metavar="ARGS", help="The rules of these istio-iptables arguments, applied nowhere.")
@click.option(
    "--only", type=click.Choice(KINDS), help="Only traffic with this outcome; direct is what bypasses the mesh."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def map_command(
    pid: int | None,
    netns: str | None,
    file: str | None,
    file6: str | None,
    expect: str | None,
    only: str | None,
    form: str,
) -> int:
    """Divide all new connections by what becomes of them.

    Every connection is in exactly one class. Names of interfaces and protocols
    that no rule tests are told together, as any other.
    """
    source = source_of(pid, netns, file, file6, expect)
    objects = []
    for family, rules in _families(source).items():
        for direction in Direction:
            space, every = classes(rules, direction, source.local_marks.get(family, NO_MARKS))
            wanted = [each for each in every if only in (None, each.outcome.kind)]
            found = [_Shown(each, condition_words(space, each.regions)) for each in wanted]
            found.sort(key=lambda each: (KINDS.index(each.found.outcome.kind), len(each.lines[0])))
            if form == "json":
                objects += [_json(family, direction, each) for each in found]
            else:
                _print(family, direction, found)
    if form == "json":
        click.echo(json.dumps({"schema": 1, "classes": objects, "caveats": list(source.caveats)}, indent=2))
    for caveat in source.caveats if form == "text" else ():
        click.echo(f"unless what is not looked at decides otherwise: {caveat}")
    return 0


def _families(source: Source) -> dict[Family, RuleSet]:
    """The rules of each family that there is; a live namespace has those of its addresses, even without any rule."""
    found = dict(source.rules)
    if source.snapshot.is_live:
        usable = [address for address in source.snapshot.addresses if is_usable(address)]
        for family, version in ((Family.IPV4, 4), (Family.IPV6, 6)):
            if any(address.version == version for address in usable):
                found.setdefault(family, RuleSet(family))
    return {family: found[family] for family in Family if family in found} or {Family.IPV4: RuleSet(Family.IPV4)}


class _Shown(Value):
    """A class of traffic and its conditions in words."""

    found: TrafficClass
    lines: list[str]


def _print(family: Family, direction: Direction, found: list[_Shown]) -> None:
    click.secho(f"{direction.value}, {family.value}", bold=True)
    for each in found:
        click.echo(f"  {outcome_words(each.found.outcome)}: {decider_words(each.found.decider)}")
        for line in each.lines:
            click.echo(f"    {line}")
    if not found:
        click.echo("  none")


def _json(family: Family, direction: Direction, shown: _Shown) -> dict[str, object]:
    found = shown.found
    decider = found.decider
    return {
        "direction": direction.value,
        "family": family.value,
        "kind": found.outcome.kind,
        "port": found.outcome.port,
        "decided_by": None
        if decider is None
        else {"table": decider.table.value, "chain": decider.chain, "first": decider.first, "last": decider.last},
        "conditions": shown.lines,
    }
