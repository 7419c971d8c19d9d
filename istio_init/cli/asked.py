"""What a pod asked for, from its words: each way that they may have been taken, as a configuration."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from istio_init.cli.expect import AMBIENT
from istio_init.cli.pflag import UsageError, parse_flags
from istio_init.cli.target import Chosen, SeveralError, choose, resolve
from istio_init.config import asked
from istio_init.config.parse import gather, parse
from istio_init.config.parse_ambient import parse_ambient
from istio_init.errors import ConfigError, InputError, NamespaceError
from istio_init.inspector.asked import Asked, held, speaker
from istio_init.inspector.findings.model import View
from istio_init.options import AMBIENT_OPTIONS, DROPIN_OPTIONS, OPTIONS
from istio_init.system.names import FileNames

F = TypeVar("F", bound=Callable[..., Any])

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.ambient import AmbientConfig
    from istio_init.config.asked import Pod, Words
    from istio_init.config.model import Config
    from istio_init.observe.manifest import Manifest
    from istio_init.observe.snapshot import Snapshot


def asked_by(pod: Pod) -> Asked:
    """What a pod asked for. What cannot be made a configuration is its ``problem``, as it would fail there, too."""
    notes = list(pod.notes)
    found: dict[Config | AmbientConfig, Words] = {}
    try:
        for number, words in enumerate(asked.ways(pod)):
            config, doubts = _config(words, is_ambient=asked.is_ambient(pod))
            found.setdefault(config, words)
            notes += doubts if number == 0 else ()
    except ConfigError as error:
        return Asked(pod.source, pod.name, notes=tuple(notes), problem="; ".join(error.problems))
    return Asked(pod.source, pod.name, tuple(found.values()), tuple(found), asked.unsaid(pod), tuple(notes))


def manifest_of(path: str) -> Manifest:
    """The pod of a manifest; ``-`` is standard input.

    Raises:
        InputError: it cannot be read, or is none of one pod.
    """
    from istio_init.observe.manifest import LONGEST, manifest

    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror}") from None
    return manifest(data.decode(errors="replace"), "standard input" if path == "-" else path)


def pod_option(does: str) -> Callable[[F], F]:
    """The option that names a pod by its manifest."""
    return click.option(
        "--pod",
        "manifest",
        metavar="MANIFEST",
        help=f"{does} As kubectl get pod -o yaml or json prints it; - for stdin.",
    )


def choose_with(
    manifest: str | None,
    target: str | None,
    pid: int | None,
    netns: str | None,
    file: str | None,
    file6: str | None,
    expect: str | None = None,
) -> Chosen:
    """The pod of a manifest on this node; without one what is given, as `choose` takes it.

    ``expect`` are arguments whose rules are looked at instead.

    Raises:
        click.UsageError: more than one thing is given.
        NamespaceError: the pod is not here.
    """
    if manifest is None:
        return choose(target, pid, netns, file, file6, files=True)
    if any(each is not None for each in (target, pid, netns, file, file6, expect)):
        raise click.UsageError("--pod names what is looked at: not with a target, --pid, --netns, --file or --expect")
    words = f'--expect "$(istio-init render --pod {shlex.quote(manifest)} --format args)"'
    return chosen_by(manifest_of(manifest), f"name it with --pid, or ask about the rules that it asks for: {words}")


def chosen_by(found: Manifest, fix: str = "name it with --pid, or look on the node of its spec.nodeName") -> Chosen:
    """The pod on this node, by its containers' ids or else its addresses.

    Raises:
        NamespaceError: it is not here, or another one says that it is it.
    """
    why = []
    for each in (*found.containers, *found.addresses):
        try:
            return resolve(each, files=False)
        except SeveralError:
            raise  # Of what names it further, as a container that has ended, only the other one may be left.
        except NamespaceError as error:
            why.append(error.message)
    name = found.pod.name or "the pod of the manifest"
    what = "; ".join(why) or "the manifest names neither containers nor addresses of it"
    raise NamespaceError(f"{name} is not found on this node: {what}", fix=fix)


def wanted(asked: Asked, snapshot: Snapshot) -> Config | AmbientConfig | None:
    """What was asked for as one configuration, the way that fits the rules best; None for no redirection.

    Raises:
        ConfigError: none can be made of it.
    """
    if asked.problem is not None:
        raise ConfigError(tuple(asked.problem.split("; ")))
    return None if asked.asks_nothing else held(View(snapshot), asked).config


def asked_in(snapshot: Snapshot) -> Asked | None:
    """What the pod of a live namespace says that it asked for; None where nobody in it says so."""
    if not snapshot.said:
        return None
    pod, why = speaker(View(snapshot))
    if pod is not None:
        return asked_by(pod)
    return Asked(snapshot.said[0].source, problem=why) if why is not None else None


def _config(words: Words, *, is_ambient: bool) -> tuple[Config | AmbientConfig, list[str]]:
    """One configuration, and what is to be said of it.

    Raises:
        ConfigError: with every problem that was found.
    """
    environ = dict(words.env)
    argv = [each for each in words.argv if each != AMBIENT] if is_ambient else list(words.argv)
    options = AMBIENT_OPTIONS if is_ambient else OPTIONS + DROPIN_OPTIONS
    try:
        given, stray = parse_flags(argv, options)
    except UsageError as error:
        raise ConfigError((str(error),)) from None
    if is_ambient:
        return parse_ambient(gather(given, {}, apply=True, options=AMBIENT_OPTIONS), FileNames()), []
    config, doubts = parse(gather(given, environ, apply=False), FileNames(), lenient_mode=True)
    lost = [f"{each!r} belongs to no flag and is ignored, as istio-iptables ignores it" for each in stray]
    return config, [*lost, *doubts]
