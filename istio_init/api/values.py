"""What the public functions return: frozen values, and beside them all of it as the commands' JSON."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from istio_init.cli.snapshot import bytes_of
from istio_init.errors import InputError
from istio_init.inspector.findings.model import Severity
from istio_init.mesh.mode import Mode
from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Direction
from istio_init.observe import snapshot as observed
from istio_init.trace.result import Kind
from istio_init.value import Value
from istio_init.wording.outcomes import Word as Outcome

Json = Mapping[str, Any]


class Rules(Value):
    """The rules of a configuration, as text that programs read.

    ``iptables`` is what ``iptables-restore --noflush`` takes of each family, ``nft`` what ``nft -f`` takes instead,
    ``routing`` the ``ip`` commands that go with either. ``json`` is what ``render --format json`` prints.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    families: tuple[Family, ...]
    iptables: Mapping[Family, str]
    nft: str
    routing: tuple[str, ...]
    warnings: tuple[str, ...]
    json: Json


class Snapshot:
    """Everything that is known of a namespace at one moment; `take`, `load` and `configuration` make them.

    ``label`` is what it is called, ``warnings`` what is to be known of how it came about, ``unread`` what could not be
    read and is missing.
    """

    __slots__ = ("_found", "label", "unread", "warnings")

    def __init__(self, found: observed.Snapshot, warnings: tuple[str, ...] = ()) -> None:
        self._found = found
        self.label: str = found.label
        self.unread: tuple[str, ...] = found.not_read
        self.warnings = warnings

    def __repr__(self) -> str:
        return f"<Snapshot of {self.label}>"

    def save(self, path: str | PathLike[str], *, redact: bool = False, keep_addresses: bool = False) -> None:
        """Write it to a file, as ``istio-init snapshot`` does; one that was loaded cannot be written again.

        Raises:
            InputError: it was not taken of a live namespace just now.
            PrivilegeError: it lacks rules, as reading them is denied.
            OSError: the file cannot be written.
        """
        if self._found.taken is not None or self._found.reading is None:
            raise InputError(f"{self.label}: not taken here and now", fix="keep the file that it was loaded from")
        Path(path).write_bytes(bytes_of(self._found, redact=redact, keep_addresses=keep_addresses))


class Finding(Value):
    """A problem, as ``istio-init findings CODE`` explains it. ``commands`` cure it, where some are safe."""

    code: str
    severity: Severity
    title: str
    evidence: tuple[str, ...]
    why: str
    fix: str
    commands: tuple[str, ...]


class Explanation(Value):
    """What a namespace's rules do and what is wrong. ``json`` is all of it, as ``explain --format json`` prints it.

    ``arguments`` and ``environment`` are the configuration behind the rules, None where there is none; ``exact`` says
    that it gives just these rules. ``drifted`` is None where nothing is known that they should be.
    """

    target: str
    mode: Mode
    families: tuple[Family, ...]
    arguments: tuple[str, ...] | None
    environment: Mapping[str, str]
    exact: bool
    release: str | None
    findings: tuple[Finding, ...]
    drifted: bool | None
    unread: tuple[str, ...]
    json: Json


class Fate(Value):
    """What becomes of a connection: the word, the mechanism, and where it goes as far as that changes.

    ``to`` is another address, by DNAT. ``because`` is the reason in words, empty where `diff` and `classify` have the
    rule instead, in their ``json``.
    """

    outcome: Outcome
    kind: Kind
    port: int | None
    to: str | None
    because: str = ""


class Trace(Value):
    """A connection's first packet through the rules. ``json`` has every rule, as ``trace --format json`` prints it.

    ``fate`` is what becomes of it in the end. Where its outcome is undecidable, ``causes`` says what would have to be
    known. ``depends_on`` are the assumed values that matter; ``caveats`` are what could not be read and may matter.
    """

    target: str
    fate: Fate
    causes: tuple[str, ...]
    depends_on: tuple[str, ...]
    caveats: tuple[str, ...]
    json: Json


class TrafficClass(Value):
    """Connections with one fate: those that meet any of the ``conditions``."""

    direction: Direction
    family: Family
    fate: Fate
    conditions: tuple[str, ...]
    causes: tuple[str, ...]


class TrafficMap(Value):
    """All new connections; each is in exactly one class. ``json`` is as ``map --format json`` prints it."""

    target: str
    classes: tuple[TrafficClass, ...]
    caveats: tuple[str, ...]
    json: Json

    def of(self, outcome: Outcome) -> tuple[TrafficClass, ...]:
        """The classes with an outcome."""
        return tuple(each for each in self.classes if each.fate.outcome is outcome)


class Difference(Value):
    """Connections that two rule sets treat differently; ``example`` is one, as arguments of ``istio-init trace``."""

    direction: Direction
    family: Family
    before: Fate
    after: Fate
    conditions: tuple[str, ...]
    example: str


class Comparison(Value):
    """How two rule sets differ in what they do; ``equal`` is None where something could not be read.

    ``json`` is as ``diff --format json`` prints it.
    """

    equal: bool | None
    differences: tuple[Difference, ...]
    caveats: tuple[str, ...]
    json: Json
