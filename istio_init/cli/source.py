"""Where rules to look at come from: a live namespace, files, or a configuration that is applied nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

import click

from istio_init.cli.completing import complete_netns, complete_pid
from istio_init.cli.expect import expectation
from istio_init.cli.files import file_snapshot
from istio_init.cli.lines import say
from istio_init.cli.target import Chosen, choose
from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Config
from istio_init.dialects.iptables.rules import RuleSet, as_in_kernel
from istio_init.dialects.iptables.save import with_texts
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import InputError, NoBackendError, PrivilegeError
from istio_init.inspector.findings.model import View
from istio_init.inspector.reader import reader_of
from istio_init.mesh.meaning import Note, settle, words_of
from istio_init.mesh.policy import ambient, sidecar
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host, Link
from istio_init.netfilter.stages import Netfilter
from istio_init.observe.netfilter import local_marks as marks_of
from istio_init.observe.netfilter import model
from istio_init.observe.snapshot import Interface, Snapshot
from istio_init.observe.unread import Part, Why
from istio_init.system import namespaces
from istio_init.system.names import FileNames
from istio_init.system.places import Place
from istio_init.system.privileges import capabilities
from istio_init.value import Value
from istio_init.visible import visible
from istio_init.wording.commands import Target
from istio_init.wording.traces import Reader

F = TypeVar("F", bound=Callable[..., Any])

PID_OPTION = click.option(
    "--pid", type=int, metavar="PID", shell_complete=complete_pid, help="The network namespace of this process."
)
NETNS_OPTION = click.option(
    "--netns", metavar="NAME-OR-PATH", shell_complete=complete_netns, help="This network namespace."
)
NAMESPACE_OPTIONS = [
    PID_OPTION,
    NETNS_OPTION,
    click.option(
        "--file",
        "file",
        metavar="FILE",
        help="A snapshot, or rules as iptables or nft prints them, instead of a namespace; - for stdin.",
    ),
    click.option("--file6", metavar="FILE", help="What ip6tables prints, beside --file."),
]


def live_snapshot(
    target: str | Chosen | None, pid: int | None = None, netns: str | None = None, *, asks: bool = False
) -> Snapshot:
    """The snapshot of a namespace, named by a word, process, or name; else of the one we are in.

    ``asks`` has it hold what the pod says that it asked for, too.
    """
    chosen = target if isinstance(target, Chosen) else choose(target, pid, netns)
    place = chosen.open()
    try:
        return snapshot_in(place, chosen.words, asks=asks)
    finally:
        place.close()


def snapshot_in(place: Place, target: Target = (), *, asks: bool = False) -> Snapshot:
    """The snapshot of an open namespace; ``target`` are the words that name it."""
    from istio_init.observe.namespace import observe

    return namespaces.call_in(place.replace(userns=None), lambda: observe(place, asks=asks)).replace(target=target)


def config_snapshot(line: str, servers: tuple[IPv4Address | IPv6Address, ...] = ()) -> Snapshot:
    """What `configured` makes of a line; what is to be said of it is said as warnings."""
    return warned(*configured(line, servers))


def warned(found: Snapshot, warnings: tuple[str, ...]) -> Snapshot:
    """A snapshot, when what is to be said of it was said."""
    for warning in warnings:
        say(f"warning: {warning}", fg="yellow", err=True)
    return found


def configured(line: str, servers: tuple[IPv4Address | IPv6Address, ...] = ()) -> tuple[Snapshot, tuple[str, ...]]:
    """A snapshot of the rules that a line of arguments means, and warnings: istio-iptables', IPv6 as well with
    --dual-stack, or --ambient with those of apply.

    ``servers`` are the name servers whose queries DNS capture takes.

    Raises:
        ConfigError: with every problem that was found.
    """
    config, doubts = expectation(line, FileNames())
    found, warnings = wanted_snapshot(config, f"configuration {line!r}", ("--expect", line), servers)
    return found, (*doubts, *warnings)


def wanted_snapshot(
    config: Config | AmbientConfig,
    label: str,
    target: Target,
    servers: tuple[IPv4Address | IPv6Address, ...] = (),
) -> tuple[Snapshot, tuple[str, ...]]:
    """A snapshot of the rules that a configuration means, and warnings; ``target`` names the same to a command."""
    if isinstance(config, AmbientConfig):
        answers = {family: frozenset([ambient.ANSWER_MARK]) for family in config.families}
        return _snapshot(label, target, ambient.rules(config), answers), ()
    meaning = settle(config, servers, ipv6=config.dual_stack)
    warnings = [*filter(None, [words_of(note, config) for note in meaning.notes])]
    if Note.DNS_CAPTURE_OFF in meaning.notes:
        warnings.append("no name server is known here, so --redirect-dns captures none")
    return _snapshot(label, target, sidecar.rules(meaning.config, meaning.around)), tuple(warnings)


def nothing_wanted(label: str) -> Snapshot:
    """A snapshot without a rule, of a pod that asks for no redirection."""
    return _snapshot(label, (), {family: RuleSet(family) for family in Family})


def _snapshot(
    label: str,
    target: Target,
    built: Mapping[Family, RuleSet],
    local_marks: Mapping[Family, frozenset[int]] | None = None,
) -> Snapshot:
    """The rules of a configuration, which are applied nowhere. Without marks these are told by the rules."""
    rules = {(RuleStore.NFT, family): as_in_kernel(with_texts(each)) for family, each in built.items()}
    netfilter = model(rules, None)
    return Snapshot(
        label,
        rules,
        target=target,
        interfaces=(Interface("lo", True),),
        is_live=False,
        registered=netfilter,
        host=Host(links=(Link("lo"),), local_marks=local_marks or marks_of(netfilter.tables)),
    )


class Source(Value):
    """Rules to ask, all that is known of where they are, and how to tell of them."""

    snapshot: Snapshot
    netfilter: Netfilter
    host: Host
    reader: Reader
    caveats: tuple[str, ...] = ()
    """What could not be read, and may decide otherwise."""


def source_of(chosen: Chosen, expect: str | None) -> Source:
    """What was chosen, or the configuration that is given instead.

    Raises:
        click.UsageError: both are given.
    """
    if expect is not None and chosen != Chosen():
        raise click.UsageError("give one of --pid, --netns, --file, --pod, --expect or a target")
    return source_from(config_snapshot(expect) if expect is not None else snapshot_of(chosen))


def source_from(snapshot: Snapshot) -> Source:
    """What `to_be_asked` makes of a snapshot; its caveats are said as warnings."""
    found = to_be_asked(snapshot)
    for caveat in found.caveats:
        say(f"warning: {caveat}", fg="yellow", err=True)
    return found


def to_be_asked(snapshot: Snapshot) -> Source:
    """The rules of a snapshot to be asked; what could not be read and may matter is its caveats.

    Raises:
        PrivilegeError: the rules cannot be read, so that nothing can be said.
        InputError: they are missing from the file.
        NoBackendError: the same, for another reason.
    """
    if snapshot.missing_rules or (snapshot.ruleset is None and not snapshot.is_listed):
        refuse_unread(snapshot)
    return Source(snapshot, snapshot.netfilter, snapshot.host, reader_of(View(snapshot)), tuple(_caveats(snapshot)))


def refuse_unread(snapshot: Snapshot) -> None:
    """Raise where rules could not be read, or not be saved: none is not the same as not known."""
    if not snapshot.partial:
        return
    what = f"{snapshot.label}: its rules cannot all be read: {visible('; '.join(map(str, snapshot.unread)))}"
    if snapshot.taken is not None:
        raise InputError(what, fix="take the snapshot again, as root")
    if not snapshot.is_live:
        raise InputError(what, fix="give iptables-save's text of all tables, or ask about the namespace itself")
    if "NET_ADMIN" in capabilities() and not any(each.why is Why.DENIED for each in snapshot.unread):
        raise NoBackendError(what, fix="install what is missing; iptables and nftables read the rules")
    raise PrivilegeError(what, fix="run as root, or with the capability NET_ADMIN")


DECIDING = frozenset(
    [Part.RULES_NFT, Part.RULES_LEGACY, Part.NATIVE, Part.ROUTING, Part.ROUTING_RULES, Part.INTERFACES, Part.IPSEC]
)
"""Parts without which a packet may fare otherwise than what is known says."""


def _caveats(snapshot: Snapshot) -> Iterator[str]:
    """What could not be read of what decides."""
    for each in snapshot.unread:
        if each.part in DECIDING and (each.part is not Part.RULES_NFT or each in snapshot.missing_rules):
            yield f"not read: {visible(str(each))}"


def snapshot_of(chosen: Chosen, *, asks: bool = False) -> Snapshot:
    """The snapshot of what was chosen: of files, or of a live namespace, as ``live_snapshot`` takes it."""
    return file_snapshot(chosen.file, chosen.file6) if chosen.is_file else live_snapshot(chosen, asks=asks)
