"""``istio-init map``."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from istio_init.cli.asked import choose_with, pod_option
from istio_init.cli.completing import target_argument
from istio_init.cli.lines import say
from istio_init.cli.output import output_options
from istio_init.cli.source import NAMESPACE_OPTIONS, Source, source_of
from istio_init.cli.targets import with_options
from istio_init.errors import InputError
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.host import is_usable
from istio_init.netfilter.packet import Direction
from istio_init.netfilter.stages import NFT_FAMILIES
from istio_init.space.diagram import TooManyPieces
from istio_init.space.map import classes
from istio_init.space.traffic import TrafficClass
from istio_init.space.unsaid import taken_for_zero
from istio_init.trace.result import Kind
from istio_init.value import Value
from istio_init.wording.outcomes import outcome_words, place, word
from istio_init.wording.regions import decider_json, decider_words, lines
from istio_init.wording.traces import causes_words

KINDS = [each.value for each in Kind]
ASSUMED = {Field.TOS: ("tos", "DSCP and ECN 0"), Field.PRIORITY: ("priority", "priority 0")}


@click.command("map", short_help="Divide all connections by what becomes of them.")
@target_argument(files=True)
@with_options(NAMESPACE_OPTIONS)
@click.option(
    "--expect", metavar="ARGS", help="The rules of these istio-iptables or --ambient arguments, applied nowhere."
)
@pod_option("This pod, looked for on this node.")
@click.option(
    "--only", type=click.Choice(KINDS), help="Only traffic with this outcome; direct is what bypasses the mesh."
)
@output_options("text", "json")
def map_command(
    target: str | None,
    pid: int | None,
    netns: str | None,
    file: str | None,
    file6: str | None,
    expect: str | None,
    manifest: str | None,
    only: str | None,
    form: str,
) -> int:
    """Divide all new connections by what becomes of them.

    Every connection is in exactly one class, whatever store and dialect the
    rules are of. Values that no rule tells apart stand together.
    TARGET is what explain takes.
    """
    source = source_of(choose_with(manifest, target, pid, netns, file, file6, expect), expect)
    if form == "json":
        say(json.dumps(map_json(source, only), indent=2))
        return 0
    say(source.snapshot.label)
    for part in _parts(source, only):
        _print(source, *part)
    if assumed := [ASSUMED[field][1] for field in taken_for_zero(source.netfilter, source.host)]:
        say(f"assumed: {', '.join(assumed)}; rules test that, and any program may set it (trace --dscp, --priority)")
    for caveat in source.caveats:
        say(f"not certain: {caveat}")
    return 0


def map_json(source: Source, only: str | None = None) -> dict[str, object]:
    """The classes of traffic as JSON values; see istio_init/schemas/map.schema.json.

    Raises:
        InputError: the rules divide connections into more than can be looked at.
    """
    objects = [
        _json(source, family, direction, each) for family, direction, found in _parts(source, only) for each in found
    ]
    assumed = {ASSUMED[field][0]: 0 for field in taken_for_zero(source.netfilter, source.host)}
    return {
        "schema": 1,
        "target": source.snapshot.label,
        "classes": objects,
        "assumed": assumed,
        "caveats": list(source.caveats),
    }


def _parts(source: Source, only: str | None) -> Iterator[tuple[Family, Direction, list[_Shown]]]:
    """The classes of each family and direction, in the order in which they are shown."""
    for family in _families(source):
        for direction in Direction:
            wanted = [each for each in _classes(source, family, direction) if only in (None, each.outcome.kind.value)]
            found = [_Shown(each, lines(each.regions, is_ipv6=family is Family.IPV6)) for each in wanted]
            found.sort(key=lambda each: (KINDS.index(each.found.outcome.kind.value), len(each.lines[0])))
            yield family, direction, found


def _classes(source: Source, family: Family, direction: Direction) -> tuple[TrafficClass, ...]:
    try:
        return classes(source.netfilter, source.host, family, direction, only_expected=True).classes
    except TooManyPieces:
        what = f"{source.snapshot.label}: {direction.value} {family.value}: the rules divide connections into too many"
        raise InputError(what, fix="ask about one connection with istio-init trace") from None


def _families(source: Source) -> list[Family]:
    """The families with rules; a live namespace has those of its addresses, too, and there is one in any case."""
    held = {table.family for table in source.netfilter.tables}
    found = {family for family in Family if held & NFT_FAMILIES[family] and _has(source, family)}
    if source.snapshot.is_live:
        versions = {address.version for address in source.snapshot.addresses if is_usable(address)}
        found |= {family for family, version in ((Family.IPV4, 4), (Family.IPV6, 6)) if version in versions}
    return [family for family in Family if family in found] or [Family.IPV4]


def _has(source: Source, family: Family) -> bool:
    """Whether a table is of the family, or one of both is worth to be told of for a family that it could be."""
    own = {"ip"} if family is Family.IPV4 else {"ip6"}
    return any(table.family in own | {"inet"} for table in source.netfilter.tables)


class _Shown(Value):
    """A class of traffic and its conditions in words."""

    found: TrafficClass
    lines: list[str]


def _print(source: Source, family: Family, direction: Direction, found: list[_Shown]) -> None:
    say(f"{direction.value}, {family.value}", bold=True)
    for each in found:
        outcome = each.found.outcome
        why = decider_words(each.found.decider)
        if outcome.kind is Kind.UNKNOWN:
            why = f"depends on {causes_words(each.found.causes)}"
        say(f"  {outcome_words(outcome, source.reader.proxy_ports)}: {why}")
        for line in each.lines:
            say(f"    {line}")
    if not found:
        say("  none")


def _json(source: Source, family: Family, direction: Direction, shown: _Shown) -> dict[str, object]:
    outcome, is_sure = shown.found.outcome, not source.caveats
    return {
        "direction": direction.value,
        "family": family.value,
        "outcome": word(outcome, source.reader.proxy_ports).value if is_sure else "undecidable",
        "kind": outcome.kind.value if is_sure else "unknown",
        **({} if is_sure else {"likely": outcome.kind.value}),
        "port": outcome.port,
        "to": place(outcome) if outcome.address is not None else None,
        "decided_by": decider_json(shown.found.decider),
        "causes": [{"why": cause.openness.value, "what": cause.words} for cause in shown.found.causes],
        "conditions": shown.lines,
    }
