"""``istio-init apply``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import click

from istio_init.cli.each import Prepare, Warn, program_each
from istio_init.cli.targets import REPLACE_OPTION, RUN_OPTIONS, TARGET_OPTIONS, manner, openers, with_options
from istio_init.config.listfile import expand
from istio_init.config.parse import gather, parse, shown, suspicious
from istio_init.config.parse_ambient import parse_ambient
from istio_init.errors import ConfigError
from istio_init.options import AMBIENT_OPTIONS, OPTIONS, Option
from istio_init.stores.ambient import wanted_ambient
from istio_init.stores.programmer import Wanted
from istio_init.stores.surroundings import wanted
from istio_init.system.names import FileNames
from istio_init.system.places import Place

AMBIENT_GROUP = "Ambient pods"
SIDECAR_FLAGS = frozenset(option.flag for option in OPTIONS if option.flag)
AMBIENT_FLAGS = frozenset(option.flag for option in AMBIENT_OPTIONS if option.flag)
SHAPING = (*OPTIONS, *(option for option in AMBIENT_OPTIONS if option.flag and option.flag not in SIDECAR_FLAGS))
"""The options of both kinds of pods, each flag once."""


class GroupedCommand(click.Command):
    """A command whose help lists the options that shape the rules by group, from the option table."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, [*args])
            if ctx.params.get("target") and (word := _behind_a_list(args)) is not None:
                fix = "write a list with commas; put a target before the options"
                raise click.UsageError(f"{word!r} stands behind a value: is it a part of that? {fix}")
            return rest
        except click.UsageError:
            # A word is left over where an option without a value has taken the next flag for it: that is what to say.
            given = gather(_shaping(ctx.params), {}, apply=True).values()
            doubts = [(each, suspicious(each)) for each in given]
            problems = tuple(f"{each.origin} {shown(each.text)}: {doubt}" for each, doubt in doubts if doubt)
            if not problems:
                raise
            raise ConfigError(problems) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = {option.flag: _group(option) for option in SHAPING if option.flag} | {"--ambient": AMBIENT_GROUP}
        records: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                records.setdefault(groups.get(parameter.opts[-1], BEHAVIOUR), []).append(record)
        for group, rows in sorted(records.items(), key=lambda item: item[0] != BEHAVIOUR):
            with formatter.section(group):
                formatter.write_dl(rows)
        with formatter.section("Environment only"):
            formatter.write_dl([(option.env[0], _help(option)) for option in OPTIONS if option.flag is None])


BEHAVIOUR = "Targets and behaviour"


def _behind_a_list(args: list[str]) -> str | None:
    """A word right behind the value of an option that shapes the rules: as likely a part of a list as a target.

    ``-b 80 443`` must not be taken for ``-b 80`` in the namespace of process 443.
    """
    values = {name for each in SHAPING if not each.is_flag for name in (each.short, each.flag) if name}
    for number, word in enumerate(args):
        if word.startswith("-") or number == 0:
            continue
        before = args[number - 1]
        is_attached = before.partition("=")[0] in values and "=" in before
        is_short = before[:2] in values and len(before) > 2 and not before.startswith("--")
        if is_attached or is_short or (number > 1 and args[number - 2] in values):
            return word
    return None


def _group(option: Option) -> str:
    return option.group if option.flag in SIDECAR_FLAGS else AMBIENT_GROUP


def _help(option: Option) -> str:
    default = option.default_for(apply=True)
    parts = [option.help]
    if default not in ("", "false"):
        parts.append(f"Default: {default}.")
    if option.env and option.flag:
        parts.append(f"[{', '.join(option.env)}]")
    return " ".join(parts)


def _shaping_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(SHAPING):
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
    flags = {option.flag[2:].replace("-", "_"): option.flag for option in SHAPING if option.flag}
    return {flags[name]: value for name, value in parameters.items() if name in flags and value is not None}


@click.command(cls=GroupedCommand, short_help="Redirect a namespace's traffic to a sidecar proxy, or to ztunnel.")
@with_options(TARGET_OPTIONS)
@click.option(
    "--reconcile/--no-reconcile",
    default=True,
    help="Replace live rules of ours that are not wanted (the default), or refuse.",
)
@with_options(REPLACE_OPTION)
@click.option(
    "--native-nftables", "native", is_flag=True, help="Program native nftables, in Istio's own tables, not iptables."
)
@with_options(RUN_OPTIONS)
@click.option(
    "--ambient",
    is_flag=True,
    help="The pod is in an ambient mesh: redirect to ztunnel. Takes --redirect-dns (then on unless it is =false), "
    "--kube-virt-interfaces and these:",
)
@_shaping_options
def apply(
    target: tuple[str, ...],
    pids: tuple[int, ...],
    netns: tuple[str, ...],
    allow_host_network: bool,
    reconcile: bool,
    replace_other: tuple[str, ...],
    native: bool,
    backend: str | None,
    wait: str,
    dry_run: bool,
    form: str,
    verbose: bool,
    ambient: bool,
    **shaping: str | None,
) -> int:
    """Redirect the traffic of network namespaces to a sidecar proxy, or to an
    ambient mesh's ztunnel.

    Without options that shape the rules, those of Istio's injection template
    hold: all traffic but the proxy's own and its ports 15090, 15021, 15020.
    Where a value is a list, @FILE reads it from a file. TARGET is a pod, a
    process or container id, an address, or a network namespace, as explain
    takes it.
    """
    if native and backend is not None:
        raise click.UsageError("--native-nftables and --force-iptables-binary name two stores: give one")
    how = manner(
        allow_host=allow_host_network,
        backend=backend,
        wait=wait,
        dry_run=dry_run,
        reconcile=reconcile,
        native=native,
        replace_other=replace_other,
    )
    given = _shaping(shaping)
    _refuse_options_of_the_other(given, ambient=ambient)
    prepare = _prepare_ambient(given) if ambient else _prepare_sidecar(given)
    return program_each("apply", openers(target, pids, netns), prepare, how, form=form, verbose=verbose)


def _refuse_options_of_the_other(given: Mapping[str, str], *, ambient: bool) -> None:
    why = "does nothing for an ambient pod; leave it out" if ambient else "is for ambient pods: add --ambient"
    known = AMBIENT_FLAGS if ambient else SIDECAR_FLAGS
    problems = tuple(f"{flag}: {why}" for flag in given if flag not in known)
    if problems:
        raise ConfigError(problems)


def _prepare_ambient(given: Mapping[str, str]) -> Prepare:
    gathered = expand(gather(given, os.environ, apply=True, options=AMBIENT_OPTIONS), AMBIENT_OPTIONS)
    config = parse_ambient(gathered, FileNames())
    return lambda place: (lambda warn: wanted_ambient(config, place, warn), ())


def _prepare_sidecar(given: Mapping[str, str]) -> Prepare:
    gathered = expand(gather(given, os.environ, apply=True))
    parse_for = cache(lambda root: parse(gathered, FileNames(root)))

    def prepare(place: Place) -> tuple[Callable[[Warn], Wanted], tuple[str, ...]]:
        # A descriptor names the root of a process, and its number another one's after that.
        config, doubts = parse_for("/") if place.root == "/" else parse(gathered, FileNames(place.root))
        return lambda warn: wanted(config, place, warn), doubts

    return prepare
