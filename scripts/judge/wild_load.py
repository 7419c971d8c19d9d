"""Running programs, and making rules live without those that are refused."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from judge.wild_netlink import Place


class LabError(Exception):
    """The laboratory itself does not work."""


class Batch(NamedTuple):
    """Rules for one program: what surrounds them, what they need, and themselves, each of which may be refused."""

    label: str
    argv: tuple[str, ...]
    head: str
    needs: tuple[str, ...]
    lines: tuple[str, ...]
    tail: str


class Loader:
    """Brings into the current namespace what can be brought, and notes the rest."""

    def __init__(self, lacking: Mapping[str, Sequence[str]]) -> None:
        self._lacking = lacking
        self.refused: list[list[str]] = []
        self.loaded: list[str] = []
        self._live: list[str] = []
        self._programs: set[str] = set()
        self._resets: list[tuple[tuple[str, ...], str]] = []

    def set_up(self, commands: Sequence[str]) -> list[str]:
        """Run commands, and say which of them worked."""
        done = []
        for command in commands:
            argv = shlex.split(command)
            try:
                if argv[0] == "sysctl":
                    set_sysctl(*argv[-1].split("=", 1))
                else:
                    run(*argv)
                done.append(command)
            except (LabError, OSError) as error:
                self.refused.append([command, str(error)[-200:]])
        return done

    def load(self, batch: Batch) -> None:
        """Make rules live, without those that the kernel or the program refuses."""
        missing = self._lacking.get(batch.argv[0], ())
        batch = batch._replace(
            lines=tuple(line for line in batch.lines if not any(each in f"{line} " for each in missing))
        )
        self.loaded.append(batch.label)
        self._live += batch.lines
        if "legacy" in batch.argv[0]:
            self._programs.add(batch.argv[0].replace("restore", "save"))
        if not self._load(batch, (*batch.needs, *batch.lines)):
            return
        for lines in (batch.needs, batch.lines):
            self._load_halves(batch, lines)

    def _load(self, batch: Batch, lines: Sequence[str]) -> str:
        try:
            run(*batch.argv, stdin=batch.head + "".join(f"{line}\n" for line in lines) + batch.tail)
        except LabError as error:
            return str(error)
        return ""

    def _load_halves(self, batch: Batch, lines: Sequence[str]) -> None:
        if not lines or not (error := self._load(batch, lines)):
            return
        if len(lines) == 1:
            self.refused.append([f"{batch.label}: {lines[0]}", error[-200:]])
            return
        middle = len(lines) // 2
        self._load_halves(batch, lines[:middle])
        self._load_halves(batch, lines[middle:])

    def legacy(self) -> list[tuple[str, str]]:
        """The programs that tell of rules of the legacy store, by their families."""
        return [(each, "ip6" if each.startswith("ip6") else "ip") for each in sorted(self._programs)]

    def keep_sets(self) -> None:
        """Have those sets that rules change become again what they are now."""
        if any(re.search(r"--(add|del)-set", line) for line in self._live):
            text = run("ipset", "save")
            names = [line.split()[1] for line in text.splitlines() if line.startswith("create ")]
            adds = [line for line in text.splitlines() if line.startswith("add ")]
            again = "".join(f"{line}\n" for line in (*(f"flush {name}" for name in names), *adds))
            self._resets.append((("ipset", "restore", "-exist"), again))
        changed = dict.fromkeys(tuple(line.split()[2:4]) for line in self._live if "@seen {" in line)
        self._resets += [(("nft", "flush", "set", *where, "seen"), "") for where in changed]

    def reset(self) -> None:
        """Do so."""
        for argv, text in self._resets:
            run(*argv, stdin=text)


def add_legacy(found: dict[Place, int], family: str, text: str) -> None:
    """Count the rules of a text of iptables-save."""
    table, numbers = "", dict[tuple[str, str], int]()
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("["):
            count, _, chain, *_ = line.split(" ", 3)
            numbers[table, chain] = number = numbers.get((table, chain), 0) + 1
            found["legacy", family, table, chain, number] = int(count[1 : count.index(":")])


def set_sysctl(name: str, value: str) -> None:
    """Set one, by its dotted name."""
    with open(f"/proc/sys/{name.replace('.', '/')}", "w") as file:
        file.write(value)


def run(*argv: str, stdin: str = "") -> str:
    """What a program prints; LabError when it fails."""
    done = attempt(*argv, stdin=stdin)
    if done.returncode != 0:
        raise LabError(f"{shlex.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def attempt(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program that may fail; LabError when it does not end."""
    try:
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(str(error)) from error
