"""``istio-init render``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import click

from istio_init.cli.asked import asked_by, manifest_of
from istio_init.cli.expect import AMBIENT, configuration, split, taken_apart
from istio_init.cli.lines import hand_over, say
from istio_init.config.ambient import AmbientConfig
from istio_init.config.asked import Words
from istio_init.config.model import Config
from istio_init.errors import ConfigError
from istio_init.inspector.arguments import arguments
from istio_init.inspector.asked import Asked
from istio_init.mesh.meaning import Meaning, Note, resolve, settle, words_of
from istio_init.mesh.policy import ambient as ambient_policy
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import MeshKind
from istio_init.netfilter.family import Family
from istio_init.report.rendering import Rendering, as_args, as_iptables, as_json, as_nft
from istio_init.stores.wanted import Wanted
from istio_init.system.names import FileNames

FORMATS = ["iptables", "nft", "args", "json"]
NATIVE = "--native-nftables"
NO_SERVER = "no name server is known here, so no DNS is captured: give --nameserver, or --capture-all-dns"
Address = IPv4Address | IPv6Address


def _addresses(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[Address, ...]:
    try:
        return tuple(map(ip_address, given))
    except ValueError as error:
        raise click.BadParameter(f"{error}; write for example 10.0.0.5 or fd00::5", param=option) from None


# Everything else is an argument of istio-iptables, so there are no short options that could be mistaken for one.
class _RenderCommand(click.Command):
    """Help by -h as well, where it stands first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--help"] if args[:1] == ["-h"] else args)


@click.command(
    "render",
    cls=_RenderCommand,
    short_help="Print the rules of a configuration, anywhere.",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.argument("words", nargs=-1, metavar="[ARGS]...", type=click.UNPROCESSED)
@click.option("--pod", "manifest", metavar="MANIFEST", help="What the pod of a manifest asks for; - for stdin.")
@click.option("--ambient", is_flag=True, help="ARGS are those of apply --ambient.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="What iptables-restore or nft -f reads, the arguments that give it, or all of it. Default: iptables, or nft "
    f"with {NATIVE}.",
)
@click.option("--family", type=click.Choice([each.value for each in Family]), help="iptables of this family alone.")
@click.option(
    "--address",
    "addresses",
    callback=_addresses,
    metavar="ADDRESS",
    multiple=True,
    help="An address of the pod, which decides on IPv6. May be repeated. Without any, IPv6 is captured with "
    "--dual-stack.",
)
@click.option(
    "--nameserver",
    "servers",
    callback=_addresses,
    metavar="ADDRESS",
    multiple=True,
    help="A server of its resolv.conf, whose queries --redirect-dns captures. May be repeated.",
)
def render(
    words: tuple[str, ...],
    manifest: str | None,
    ambient: bool,
    form: str | None,
    family: str | None,
    addresses: tuple[Address, ...],
    servers: tuple[Address, ...],
) -> int:
    """Print the rules of a configuration. Needs no privilege and no namespace.

    ARGS are those of istio-iptables, with its defaults and its environment, or
    with --ambient those of apply --ambient.
    """
    if manifest is not None and (words or ambient):
        raise click.UsageError("give arguments, or --pod")
    if manifest is not None:
        asked = asked_by(manifest_of(manifest).pod)
        if asked.problem is not None:
            raise ConfigError(tuple(asked.problem.split("; ")))
    elif words or ambient:
        asked = given(words, os.environ, is_ambient=ambient)
    else:
        raise click.UsageError("give the arguments of istio-iptables, --ambient with its own, or --pod")
    made, notes = rendering(asked, addresses, servers)
    for note in asked.notes if form == "args" and asked.configs else notes:
        say(f"warning: {note}", fg="yellow", err=True)
    is_native = any(each.split("=")[0] == NATIVE for words in asked.words[:1] for each in words.argv)
    form = form or ("nft" if is_native else "iptables")
    if form == "args":
        hand_over(as_args(made))
    elif form == "nft":
        hand_over(as_nft(made))
    elif form == "json":
        say(json.dumps({**as_json(made), "notes": notes}, indent=2))
    else:
        hand_over(as_iptables(made, [each for each in Family if family in (None, each.value)]))
    return 0


def given(words: str | Sequence[str], environ: Mapping[str, str], *, is_ambient: bool = False) -> Asked:
    """What arguments ask for, or a line of them, by the environment, too.

    Raises:
        ConfigError: with every problem that was found.
    """
    argv, variables = split(words) if isinstance(words, str) else taken_apart(list(words))
    is_ambient = is_ambient or AMBIENT in argv
    argv = [AMBIENT, *(each for each in argv if each != AMBIENT)] if is_ambient else argv
    config, doubts = configuration(argv, {**environ, **variables}, FileNames(), "render")
    found = arguments(config)
    native = tuple(each for each in argv if each.split("=")[0] == NATIVE)
    return Asked("the command line", None, (Words((*found.argv, *native), found.env),), (config,), notes=doubts)


def rendering(
    asked: Asked, addresses: tuple[Address, ...], servers: tuple[Address, ...]
) -> tuple[Rendering, list[str]]:
    """The rules, and what is to be said of them.

    Raises:
        click.UsageError: no address is one that others reach.
    """
    notes = list(asked.notes)
    if not asked.configs:
        return Rendering(asked.source, asked.name, None, Wanted()), [*notes, f"{asked.source}: asks for no redirection"]
    words, config = asked.words[0], asked.configs[0]
    if isinstance(config, AmbientConfig):
        stated, routing = ambient_policy.clauses(config), ambient_policy.routing(config)
        wanted = Wanted(stated, config.families, routing, config, MeshKind.AMBIENT)
        return Rendering(asked.source, asked.name, words, wanted), notes
    meaning = _meaning(config, addresses, servers)
    if Note.NO_ADDRESS in meaning.notes:
        raise click.UsageError("--address: loopback and link-local addresses do not count; give one that others reach")
    notes += filter(None, [words_of(note, config) for note in meaning.notes])
    if Note.DNS_CAPTURE_OFF in meaning.notes:
        notes.append(NO_SERVER)
    routing = sidecar.routing(meaning.config, meaning.around)
    stated = sidecar.clauses(meaning.config, meaning.around)
    return Rendering(asked.source, asked.name, words, Wanted(stated, meaning.around.families, routing, config)), notes


def _meaning(config: Config, addresses: tuple[Address, ...], servers: tuple[Address, ...]) -> Meaning:
    if addresses:
        return resolve(config, addresses, servers)
    return settle(config, servers, ipv6=config.dual_stack)
