"""One word that says what a command works on: TARGET, beside --pid, --netns and --file, which leave nothing open."""

from __future__ import annotations

import os

import click

from istio_init.errors import NamespaceError, PrivilegeError
from istio_init.system import places
from istio_init.system.lookup import Lookup, Match, look_up
from istio_init.system.places import Place
from istio_init.value import Value
from istio_init.visible import visible
from istio_init.wording.commands import Target
from istio_init.wording.words import counted

HERE = "."
MOST = 8
"""Things that are listed where a word could be any of them."""


class SeveralError(NamespaceError):
    """A word could be several things."""


class Chosen(Value):
    """What a command works on: a process's namespace, a named one, files, or where none is given the one we are in.

    ``inode`` is the namespace's where it was looked up; ``pod`` the name that it was found by.
    """

    pid: int | None = None
    netns: str | None = None
    file: str | None = None
    file6: str | None = None
    inode: int | None = None
    pod: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is no live namespace."""
        return self.file is not None or self.file6 is not None

    @property
    def label(self) -> str:
        """What it is called."""
        if self.pid is not None:
            return f"{self.pod} (pid {self.pid})" if self.pod else f"pid {self.pid}"
        return places.HERE.label if self.netns is None else f"netns {self.netns}"

    @property
    def words(self) -> Target:
        """The options that name the same namespace to another command, wherever it is typed."""
        if self.pid is not None:
            return ("--pid", str(self.pid))
        if self.netns is not None:
            return ("--netns", os.path.abspath(self.netns) if "/" in self.netns else self.netns)
        return ()

    def open(self) -> Place:
        """The namespace, pinned.

        Raises:
            NamespaceError: it is not there any more.
            PrivilegeError: opening it is denied.
        """
        if self.pid is None:
            return places.HERE if self.netns is None else places.of_netns(self.netns)
        place = places.of_pid(self.pid)
        assert place.netns is not None
        if self.inode not in (None, os.fstat(place.netns).st_ino):
            place.close()
            raise NamespaceError(f"{self.label}: it has ended meanwhile", fix="look for the pod again")
        return place.replace(label=self.label)


def choose(
    target: str | None,
    pid: int | None = None,
    netns: str | None = None,
    file: str | None = None,
    file6: str | None = None,
    *,
    files: bool = False,
) -> Chosen:
    """The one thing that is given; the namespace that we are in where none is. ``files``: TARGET may be one.

    Raises:
        click.UsageError: more than one is given.
        NamespaceError: TARGET is nothing, or could be several things.
        PrivilegeError: it may be what we must not see.
    """
    if len([each for each in (target, pid, netns, file if file is not None else file6) if each is not None]) > 1:
        raise click.UsageError(f"give one of --pid, --netns,{' --file,' if files else ''} or a target")
    if target is None:
        return Chosen(pid, netns, file, file6)
    return resolve(target, files=files)


def resolve(word: str, *, files: bool) -> Chosen:
    """What a word names.

    Raises:
        NamespaceError: nothing; SeveralError: one of several things.
        PrivilegeError: it may be what we must not see.
    """
    if not word:
        raise NamespaceError("an empty word names nothing", fix="look at the variable that it came from")
    if word == HERE:
        return Chosen()
    found = look_up(word, files=files)
    if not found.matches:
        raise _nothing(word, found, files=files)
    if len(found.matches) > 1:
        raise _several(word, found.matches)
    [match] = found.matches
    if match.option == "--file":
        return Chosen(file=match.value)
    if match.option == "--netns":
        return Chosen(netns=match.value)
    return Chosen(pid=int(match.value), inode=match.inode, pod=match.pod)


def _several(word: str, matches: tuple[Match, ...]) -> SeveralError:
    shown = "".join(f"\n  {match.option} {visible(match.value)}: {match.what}" for match in matches[:MOST])
    more = f"\n  and {len(matches) - MOST} more" if len(matches) > MOST else ""
    return SeveralError(
        f"{visible(word)!r} could be several things:{shown}{more}", fix="say which one with these options"
    )


def _nothing(word: str, found: Lookup, *, files: bool) -> NamespaceError | PrivilegeError:
    kinds = f"pod, container, process, address{', file' if files else ''} or network namespace"
    what = f"{visible(word)!r}: no {kinds} here"
    if found.silent:
        return NamespaceError(
            f"{what} has that name; {counted(found.silent, 'network namespace')} did not say in time how it is called",
            fix="istio-init ps lists them; name one by --pid",
        )
    if found.unseen is not None:
        return PrivilegeError(
            f"{what} that may be seen has that name, but {found.unseen}", fix="run as root on the node"
        )
    if found.near:
        return NamespaceError(f"{what} has that name", fix=f"did you mean {' or '.join(map(visible, found.near))}?")
    if os.path.isdir(word):
        return NamespaceError(f"{what} has that name; it is a directory", fix="istio-init ps lists what there is")
    hint = "" if files or not os.path.isfile(word) else "; it is a file, and this command works on a namespace"
    fix = "look at the path" if files and "/" in word and not hint else "istio-init ps lists what there is"
    return NamespaceError(f"{what} has that name{hint}", fix=fix)
