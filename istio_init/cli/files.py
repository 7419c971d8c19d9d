"""Rules and snapshots in files, instead of a namespace: what tickets and support bundles hold."""

from __future__ import annotations

import sys

import click

from istio_init.cli.lines import say
from istio_init.errors import InputError
from istio_init.netfilter.family import Family
from istio_init.observe.archive import LONGEST, ArchiveError, is_archive, unpack
from istio_init.observe.bundle import snapshot_of
from istio_init.observe.files import File, from_files
from istio_init.observe.native import holders, raised_from
from istio_init.observe.snapshot import Snapshot

STDIN = "-"


def file_snapshot(file: str | None, file6: str | None) -> Snapshot:
    """What `snapshot_in_files` reads; what is to be said of it is said."""
    found, notes = snapshot_in_files(file, file6)
    for note in notes:
        say(note, err=True)
    return found


def snapshot_in_files(file: str | None, file6: str | None) -> tuple[Snapshot, tuple[str, ...]]:
    """A snapshot that was written to a file, or one of the rules in files, in any form that programs print them in.

    And what is to be said of it: when it was taken, what was taken for what.

    Raises:
        InputError: a file cannot be read, or holds no rules.
    """
    if file == file6 == STDIN:
        raise click.UsageError("only one of --file and --file6 can be standard input")
    data = {path: _read(path) for path in (file, file6) if path is not None}
    if archives := [path for path, content in data.items() if is_archive(content)]:
        if len(data) > 1:
            raise click.UsageError("a snapshot has the rules of both families: not with --file6, nor with another file")
        taken = _taken(archives[0], data[archives[0]])
        return taken, (f"{_name(archives[0])}: {taken.label}, {taken.taken}",)
    for path, content in data.items():
        if b"\0" in content:
            fix = "give what iptables-save or nft list ruleset printed, or what istio-init snapshot wrote"
            raise InputError(f"{_name(path)}: it is not text", fix=fix)
    families = (file, Family.IPV4), (file6, Family.IPV6)
    found = from_files(
        [
            File(path, data[path].decode(errors="surrogateescape"), family)
            for path, family in families
            if path is not None
        ]
    )
    options = ("--file", file), ("--file6", file6)
    natives = raised_from(found.ruleset, found.netfilter)
    made = Snapshot(
        " and ".join(_name(path) for path in data),
        holders(found.rules, natives),
        target=tuple(word for option, path in options if path is not None for word in (option, path)),
        is_live=False,
        unread=found.unread,
        partial=found.partial,
        registered=found.netfilter,
        host=found.host,
        ruleset=found.ruleset,
        raised=natives,
    )
    return made, found.notes


def _taken(path: str, data: bytes) -> Snapshot:
    """The snapshot in an archive."""
    try:
        files = unpack(data)
    except ArchiveError as error:
        fix = "give what istio-init snapshot wrote, as it wrote it"
        raise InputError(f"{path}: a damaged or foreign tar: {error}", fix=fix) from None
    return snapshot_of(files, path)


def _name(path: str) -> str:
    return "standard input" if path == STDIN else path


def _read(path: str) -> bytes:
    if not path:
        raise InputError("an empty word is no name of a file", fix="look at the variable that it came from")
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(LONGEST + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(LONGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror}") from None
    if len(data) > LONGEST:
        raise InputError(f"{path}: it is longer than {LONGEST >> 20} MB", fix="give the rules of one namespace alone")
    return data
