"""``istio-init map``."""

from __future__ import annotations

import json

import click

from istio_init.cli.source import NAMESPACE_OPTIONS, rules_of
from istio_init.cli.targets import with_options
from istio_init.model.netfilter import Family
from istio_init.report.region_words import class_words, decider_words, outcome_words
from istio_init.trace.classes import TrafficClass, classes
from istio_init.trace.packet import Direction
from istio_init.trace.space import Space

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
    rule_sets = rules_of(pid, netns, file, file6, expect)
    objects = []
    for family, rules in rule_sets.items():
        for direction in Direction:
            space, found = classes(rules, direction)
            found = [each for each in found if only in (None, each.outcome.kind)]
            found.sort(key=lambda each: (KINDS.index(each.outcome.kind), min(map(len, class_words(space, each)))))
            if form == "json":
                objects += [_json(family, direction, space, each) for each in found]
            else:
                _print(family, direction, space, found)
    if form == "json":
        click.echo(json.dumps({"schema": 1, "classes": objects}, indent=2))
    return 0


def _print(family: Family, direction: Direction, space: Space, found: list[TrafficClass]) -> None:
    click.secho(f"{direction.value}, {family.value}", bold=True)
    for each in found:
        click.echo(f"  {outcome_words(each.outcome)}: {decider_words(each.decider)}")
        for line in class_words(space, each):
            click.echo(f"    {line}")


def _json(family: Family, direction: Direction, space: Space, found: TrafficClass) -> dict[str, object]:
    decider = found.decider
    return {
        "direction": direction.value,
        "family": family.value,
        "kind": found.outcome.kind,
        "port": found.outcome.port,
        "decided_by": None
        if decider is None
        else {"table": decider.table.value, "chain": decider.chain, "first": decider.first, "last": decider.last},
        "conditions": class_words(space, found),
    }
