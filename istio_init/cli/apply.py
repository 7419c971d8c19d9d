"""``istio-init apply``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import click

from istio_init.cli.each import Warn, program_each
from istio_init.cli.targets import RUN_OPTIONS, TARGET_OPTIONS, manner, openers, with_options
from istio_init.config.listfile import expand
from istio_init.config.parse import gather, parse, shown, suspicious
from istio_init.errors import ConfigError
from istio_init.options import OPTIONS, Option
from istio_init.stores.programmer import Wanted
from istio_init.stores.surroundings import wanted
from istio_init.system.names import FileNames
from istio_init.system.places import Place


class GroupedCommand(click.Command):
    """A command whose help lists the options that shape the rules by group, from the option table."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError:
            # A word is left over where an option without a value has taken the next flag for it: that is what to say.
            given = gather(_shaping(ctx.params), {}, apply=True).values()
            doubts = [(each, suspicious(each)) for each in given]
            problems = tuple(f"{each.origin} {shown(each.text)}: {doubt}" for each, doubt in doubts if doubt)
            if not problems:
                raise
            raise ConfigError(problems) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shaping = {option.flag: option for option in OPTIONS if option.flag}
        records: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                option = shaping.get(parameter.opts[-1])
                records.setdefault(option.group if option else "Targets and behaviour", []).append(record)
        for group, rows in sorted(records.items(), key=lambda item: item[0] != "Targets and behaviour"):
            with formatter.section(group):
                formatter.write_dl(rows)
        with formatter.section("Environment only"):
            formatter.write_dl([(option.env[0], _help(option)) for option in OPTIONS if option.flag is None])


def _help(option: Option) -> str:
    default = option.default_for(apply=True)
    parts = [option.help]
    if default not in ("", "false"):
        parts.append(f"Default: {default}.")
    if option.env and option.flag:
        parts.append(f"[{', '.join(option.env)}]")
    return " ".join(parts)


def _shaping_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        if option.flag is None:
            continue
        names = [name for name in (option.short, option.flag) if name]
        boolean = {"flag_value": "true", "is_flag": False, "metavar": "[=BOOL]"}
        more: dict[str, Any] = boolean if option.is_flag else {"metavar": "VALUE"}
        field = option.flag[2:].replace("-", "_")
        function = click.option(*names, field, type=str, help=_help(option), **more)(function)
    return function


def _shaping(parameters: Mapping[str, str | None]) -> dict[str, str]:
    """The options that shape the rules, by flag, as far as they are given."""
    flags = {option.flag[2:].replace("-", "_"): option.flag for option in OPTIONS if option.flag}
    return {flags[name]: value for name, value in parameters.items() if name in flags and value is not None}


@click.command(cls=GroupedCommand, short_help="Redirect a namespace's traffic to a sidecar proxy.")
@with_options(TARGET_OPTIONS)
@click.option(
    "--reconcile/--no-reconcile",
    default=True,
    help="Replace live rules of ours that are not wanted (the default), or refuse.",
)
@with_options(RUN_OPTIONS)
@_shaping_options
def apply(
    pids: tuple[int, ...],
    netns: tuple[str, ...],
    allow_host_network: bool,
    reconcile: bool,
    backend: str | None,
    wait: str,
    dry_run: bool,
    form: str,
    verbose: bool,
    **shaping: str | None,
) -> int:
    """Redirect the traffic of network namespaces to a sidecar proxy.

    Without options that shape the rules, those of Istio's injection template
    hold: all traffic but the proxy's own and its ports 15090, 15021, 15020.
    Where a value is a list, @FILE reads it from a file.
    """
    how = manner(allow_host=allow_host_network, backend=backend, wait=wait, dry_run=dry_run, reconcile=reconcile)
    gathered = expand(gather(_shaping(shaping), os.environ, apply=True))

    parse_for = cache(lambda root: parse(gathered, FileNames(root)))

    def prepare(place: Place) -> tuple[Callable[[Warn], Wanted], tuple[str, ...]]:
        # A descriptor names the root of a process, and its number another one's after that.
        config, doubts = parse_for("/") if place.root == "/" else parse(gathered, FileNames(place.root))
        return lambda warn: wanted(config, place, warn), doubts

    return program_each("apply", openers(pids, netns), prepare, how, form=form, verbose=verbose)
