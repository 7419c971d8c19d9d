"""A snapshot as a few files of text, so that it can be looked at later, elsewhere, and without root; and back.

Rules stand in it as the programs print them, all else as JSON (`fields`). What follows from these, such as the model,
is made again by the same code as of a live namespace, so that the answers are the same.
"""

from __future__ import annotations

import json

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import SaveError, parse_save, render_save
from istio_init.dialects.nft.render import render
from istio_init.dialects.nft.ruleset import Ruleset, RulesetError, parse
from istio_init.dialects.rule_store import IPTABLES
from istio_init.errors import InputError
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.observe.fields import FieldError, decoded, encoded
from istio_init.observe.native import holders, raised_from
from istio_init.observe.netfilter import Known, Reading
from istio_init.observe.snapshot import Snapshot, Taken
from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from istio_init.config.asked import Pod

SCHEMA = 1
KIND = "istio-init snapshot"
FACTS, NATIVE = "snapshot.json", "nft.json"
SAVES = {f"{store.value}-{family.value}.save": (store, family) for store in IPTABLES for family in Family}
EXTENSIONS = {f"extensions-{family.value}.save": family for family in Family}
"""Rules of iptables' whose extensions iptables-nft does not print."""

NAMES = frozenset([FACTS, NATIVE, *SAVES, *EXTENSIONS])

MADE_AGAIN = frozenset(["rules", "reading", "registered", "ruleset", "raised", "taken"])
"""Fields of a snapshot that follow from the others, or are not its own."""


def files_of(snapshot: Snapshot, taken: Taken) -> dict[str, bytes]:
    """The files of a snapshot of a namespace.

    Raises:
        ValueError: it is of files or of a configuration, of which there is nothing more to know than they say.
    """
    if snapshot.reading is None:
        raise ValueError("nothing was read")
    reading, ruleset = snapshot.reading, snapshot.ruleset
    found = {name: render_save(reading.iptables[key]) for name, key in SAVES.items() if key in reading.iptables}
    extensions = reading.known.extensions
    found |= {name: render_save(extensions[key]) for name, key in EXTENSIONS.items() if key in extensions}
    if ruleset is not None:
        found[NATIVE] = render(ruleset.tables) + "\n"
    facts = {
        "kind": KIND,
        "schema": SCHEMA,
        "taken": encoded(taken, leave_out=frozenset(["path"])),
        "nft_version": None if ruleset is None else ruleset.version,
        "snapshot": encoded(snapshot, leave_out=MADE_AGAIN),
        "known": encoded(reading.known, leave_out=frozenset(["extensions"])),
        "order": encoded(reading.order),
    }
    text = {FACTS: json.dumps(facts, indent=1) + "\n", **dict(sorted(found.items()))}
    return {name: each.encode(errors="surrogateescape") for name, each in text.items()}


def snapshot_of(files: Mapping[str, bytes], path: str) -> Snapshot:
    """The snapshot that files hold; ``path`` is where they came from.

    Raises:
        InputError: they are not what `files_of` makes, or were made by a newer version.
    """
    if unknown := [name for name in files if name not in NAMES]:
        raise InputError(
            f"{path}: it holds {visible(repr(unknown[0]))}, which no snapshot does",
            fix="give what istio-init snapshot wrote, as it wrote it",
        )
    try:
        return _snapshot(files, path)
    except (FieldError, SaveError, RulesetError) as error:
        fix = "it is damaged or was changed: take it again, with istio-init snapshot"
        raise InputError(f"{path}: {visible(str(error))}", fix=fix) from None


def _snapshot(files: Mapping[str, bytes], path: str) -> Snapshot:
    facts = _facts(files, path)
    texts = {name: each.decode(errors="surrogateescape") for name, each in files.items()}
    iptables = {key: recognise(_rules(texts[name], name, key[1])) for name, key in SAVES.items() if name in texts}
    extensions = {key: _rules(texts[name], name, key) for name, key in EXTENSIONS.items() if name in texts}
    ruleset = _ruleset(texts[NATIVE], facts["nft_version"]) if NATIVE in texts else None
    known: Known = decoded(Known, facts["known"], "known", extensions=extensions)
    reading: Reading = decoded(Reading, {"order": facts["order"]}, "snapshot", iptables=iptables, known=known)
    netfilter = reading.model(ruleset)
    natives = raised_from(ruleset, netfilter)
    made: Snapshot = decoded(
        Snapshot,
        facts["snapshot"],
        "snapshot",
        rules=holders(iptables, natives),
        reading=reading,
        registered=netfilter,
        ruleset=ruleset,
        raised=natives,
        taken=_seen(decoded(Taken, facts["taken"], "taken", path=path)),
    )
    return made.replace(label=visible(made.label), said=tuple(map(_said, made.said)))


def _said(pod: Pod) -> Pod:
    """Whose word it is, in a line; the word itself is judged as that of a live pod is."""
    name = None if pod.name is None else visible(pod.name)
    return pod.replace(source=visible(pod.source), name=name, notes=tuple(map(visible, pod.notes)))


def _seen(taken: Taken) -> Taken:
    """What is printed as a line of ours, in one line."""
    texts = {field: visible(getattr(taken, field)) for field in ("date", "host", "kernel", "version")}
    return taken.replace(**texts)


def _facts(files: Mapping[str, bytes], path: str) -> dict[str, Any]:
    """What the JSON tells; that it is of a version that is known is looked at before all else."""
    if FACTS not in files:
        raise FieldError(f"no {FACTS}, without which nothing is known of its rules")
    try:
        facts = json.loads(files[FACTS])
    except (ValueError, RecursionError) as error:
        raise FieldError(f"{FACTS}: no JSON: {error}") from None
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise FieldError(f"{FACTS}: no {KIND}")
    schema = facts.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise InputError(
            f"{path}: its schema is {visible(repr(schema))}, and this istio-init knows {SCHEMA}",
            fix="look at it with the istio-init that took it, or a newer one",
        )
    expected = {"kind", "schema", "taken", "nft_version", "snapshot", "known", "order"}
    if facts.keys() != expected:
        odd = sorted(facts.keys() ^ expected)[0]
        raise FieldError(f"{FACTS}: {visible(repr(odd))} is {'unknown' if odd in facts else 'missing'}")
    return facts


def _rules(text: str, name: str, family: Family) -> RuleSet:
    try:
        return parse_save(text, family).rules
    except SaveError as error:
        raise SaveError(f"{name}: {error}") from None


def _ruleset(text: str, version: object) -> Ruleset:
    if not isinstance(version, str | None):
        raise FieldError(f"nft_version: not a text, but {version!r}")
    try:
        return parse(text).replace(version=version)
    except RulesetError as error:
        raise RulesetError(f"{NATIVE}: {error}") from None
