"""The public Python interface: what the commands that only look at things do, as functions on typed values.

What is named in ``__all__`` is stable, as are the exit statuses and the JSON of the commands; a breaking change is in
CHANGELOG.md. All other modules are private, but for the pytest plugin. Nothing here prints, and nothing writes but
`Snapshot.save`. Functions are for one thread at a time: a namespace is entered by the thread that asks about it.

Every function raises `IstioInitError`: `InputError` for a file, a target's rules or a packet that is no good,
`ConfigError` with every problem of a configuration, `NamespaceError` for a target that is not there, `PrivilegeError`
where access to it is denied, `NoBackendError` where no program reads its rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from os import PathLike, fspath

import click

from istio_init.api.values import (
    Comparison,
    Difference,
    Explanation,
    Fate,
    Finding,
    Json,
    Rules,
    Snapshot,
    Trace,
    TrafficClass,
    TrafficMap,
)
from istio_init.cli import diff as _diff
from istio_init.cli import map as _map
from istio_init.cli import render as _render
from istio_init.cli.expect import expectation
from istio_init.cli.explain import explained
from istio_init.cli.files import snapshot_in_files
from istio_init.cli.findings import known_codes
from istio_init.cli.packet import described
from istio_init.cli.source import Source, configured, snapshot_of, to_be_asked
from istio_init.cli.target import resolve
from istio_init.cli.trace import Questions
from istio_init.errors import (
    ConfigError,
    InputError,
    IstioInitError,
    NamespaceError,
    NoBackendError,
    PrivilegeError,
)
from istio_init.inspector.findings.model import Severity
from istio_init.mesh.mode import Mode
from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Direction
from istio_init.report.explain_json import explanation_json
from istio_init.report.rendering import as_json
from istio_init.report.trace_json import trace_json
from istio_init.system.names import FileNames
from istio_init.trace.result import Kind
from istio_init.wording.outcomes import Word as Outcome

__all__ = [
    "Comparison",
    "ConfigError",
    "Difference",
    "Direction",
    "Explanation",
    "Family",
    "Fate",
    "Finding",
    "InputError",
    "IstioInitError",
    "Kind",
    "Mode",
    "NamespaceError",
    "NoBackendError",
    "Outcome",
    "PrivilegeError",
    "Rules",
    "Severity",
    "Snapshot",
    "Trace",
    "TrafficClass",
    "TrafficMap",
    "classify",
    "configuration",
    "diff",
    "explain",
    "load",
    "render",
    "take",
    "trace",
]

Address = str | IPv4Address | IPv6Address


def render(
    arguments: str | Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    addresses: Sequence[Address] = (),
    nameservers: Sequence[Address] = (),
) -> Rules:
    """The rules of istio-iptables' arguments, or of ``--ambient`` with those of ``apply --ambient``.

    The process's own environment is not looked at. ``addresses`` are the pod's, which decide on IPv6;
    ``nameservers`` those whose queries DNS capture takes.

    Raises:
        ConfigError: with every problem that was found.
        InputError: an address is none, or none that others reach.
    """
    with _usage():
        asked = _render.given(arguments, environment or {})
        made, notes = _render.rendering(asked, _addresses(addresses), _addresses(nameservers))
    json: Json = {**as_json(made), "notes": notes}
    return Rules(
        tuple(json["argv"]),
        json["env"],
        made.wanted.families,
        {Family(family): text for family, text in json["iptables"].items()},
        json["nft"],
        tuple(json["routing"]),
        tuple(notes),
        json,
    )


def configuration(arguments: str, *, nameservers: Sequence[Address] = ()) -> Snapshot:
    """A snapshot that holds the rules of a configuration, which is applied nowhere; ``--expect`` means the same.

    Raises:
        ConfigError: with every problem that was found.
    """
    return Snapshot(*configured(arguments, _addresses(nameservers)))


def load(file: str | PathLike[str], file6: str | PathLike[str] | None = None) -> Snapshot:
    """What ``istio-init snapshot`` wrote, or rules in any form that ``explain --file`` reads; ``file6``: of IPv6.

    Raises:
        InputError: it cannot be read, or holds no rules.
    """
    with _usage():
        return Snapshot(*snapshot_in_files(fspath(file), None if file6 is None else fspath(file6)))


def take(target: str = ".") -> Snapshot:
    """A snapshot of what a word names: a pod, a process, a container, an address, a namespace; ``.`` is our own.

    Raises:
        NamespaceError: it names nothing, or could be several things.
        PrivilegeError: access to it is denied.
    """
    return Snapshot(snapshot_of(resolve(target, files=False), asks=True))


def explain(snapshot: Snapshot, *, expected: str | None = None, ignore: Sequence[str] = ()) -> Explanation:
    """Explain a snapshot; with ``expected`` arguments also whether it drifted from these.

    ``ignore`` are codes of findings to leave out.

    Raises:
        ConfigError: the expected configuration is no good.
        InputError: there is no such code.
    """
    with _usage():
        config = None if expected is None else expectation(expected, FileNames())[0]
        json: Json = explanation_json(explained(snapshot._found, config, ignore=known_codes(tuple(ignore), "ignore")))
    drift = json["drift"]
    return Explanation(
        json["target"],
        Mode(json["mode"]),
        tuple(map(Family, json["families"])),
        None if json["argv"] is None else tuple(json["argv"]),
        json["env"] or {},
        json["exact"],
        json["release"],
        tuple(map(_finding, json["findings"])),
        None if drift is None else not drift["equal"],
        tuple(json["unread"]),
        json,
    )


def trace(
    snapshot: Snapshot,
    direction: Direction | str,
    protocol: str,
    destination: str,
    *,
    source: str | None = None,
    uid: int | str | None = None,
    gid: int | str | None = None,
    socket: bool = True,
    interface: str | None = None,
    mark: int | None = None,
    ctstate: str | None = None,
) -> Trace:
    """Follow a connection's first packet, without sending it; the words are those of ``istio-init trace``.

    ``destination`` and ``source`` are such as ``10.0.0.5:443`` or ``[2001:db8::5]:443``.

    Raises:
        InputError: it is no packet, or rules of its family were not given.
        PrivilegeError: the snapshot lacks rules, as reading them is denied.
    """
    with _usage():
        asked = to_be_asked(snapshot._found)
        given = {
            "src": source,
            "uid": None if uid is None else str(uid),
            "gid": None if gid is None else str(gid),
            "no_socket": not socket,
            "interface": interface,
            "mark": None if mark is None else str(mark),
            "ctstate": ctstate,
        }
        unsaid = dict.fromkeys(("flags", "icmp_type", "length", "ttl", "dscp", "priority"))
        name = direction.value if isinstance(direction, Direction) else direction
        questions = Questions(asked)
        packet, assumed = described(name, protocol, destination, {**unsaid, **given}, questions.departures)
        found, depends = questions.trace(packet, assumed)
    json: Json = {"target": asked.snapshot.label, **trace_json(found, asked.reader, depends, asked.caveats)}
    return Trace(json["target"], _fate(json["delivered"]), _causes(json), depends, asked.caveats, json)


def classify(snapshot: Snapshot) -> TrafficMap:
    """Divide all new connections by what becomes of them, as ``istio-init map`` does.

    Raises:
        InputError: the rules divide them into more than can be looked at.
        PrivilegeError: the snapshot lacks rules, as reading them is denied.
    """
    json: Json = _map.map_json(to_be_asked(snapshot._found))
    classes = tuple(
        TrafficClass(
            Direction(each["direction"]), Family(each["family"]), _fate(each), tuple(each["conditions"]), _causes(each)
        )
        for each in json["classes"]
    )
    return TrafficMap(json["target"], classes, tuple(json["caveats"]), json)


def diff(before: Snapshot, after: Snapshot) -> Comparison:
    """Compare two rule sets by what they do, not by their text.

    Raises:
        InputError: they divide connections into more than can be compared.
        PrivilegeError: a snapshot lacks rules, as reading them is denied.
    """
    sides: tuple[Source, Source] = to_be_asked(before._found), to_be_asked(after._found)
    json: Json = _diff.diff_json(_diff.compared(*sides))
    differences = tuple(
        Difference(
            Direction(each["direction"]),
            Family(each["family"]),
            _fate(each["before"]),
            _fate(each["after"]),
            tuple(each["conditions"]),
            each["witness"],
        )
        for each in json["differences"]
    )
    return Comparison(json["equal"], differences, tuple(json["caveats"]), json)


def _fate(told: Json) -> Fate:
    return Fate(Outcome(told["outcome"]), Kind(told["kind"]), told["port"], told["to"], told.get("because", ""))


def _causes(told: Json) -> tuple[str, ...]:
    return tuple(each["what"] for each in told["causes"])


def _finding(told: Json) -> Finding:
    texts = told["code"], Severity(told["severity"]), told["title"], tuple(told["evidence"])
    return Finding(*texts, told["why"], told["fix"], tuple(told["commands"]))


def _addresses(given: Sequence[Address]) -> tuple[IPv4Address | IPv6Address, ...]:
    try:
        return tuple(map(ip_address, given))
    except ValueError as error:
        raise InputError(str(error), fix="write for example 10.0.0.5 or fd00::5") from None


@contextmanager
def _usage() -> Iterator[None]:
    """Have what a command would call bad usage be an error of ours."""
    try:
        yield
    except click.UsageError as error:
        raise InputError(error.format_message()) from None
