"""iptables-legacy: rules in the kernel's own tables, through python-iptables or through the legacy programs.

python-iptables keeps its state for the life of a process, opens every table that it is asked about, and ends the
process when both families meet in it. So it runs in a child of its own for each reading and each commit, and every
use is preceded by a look at which tables exist: opening one creates it.
"""

from __future__ import annotations

import os
import sys

import istio_init
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import parse_save
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import ToolError
from istio_init.netfilter.family import Family
from istio_init.plan.restore import render_restore
from istio_init.stores.failure import LOCK_HELD_STATUS, failure
from istio_init.stores.genuine import genuine
from istio_init.system import process
from istio_init.system.process import Completed
from istio_init.system.xtables import existing_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from istio_init.dialects.iptables.rules import Rule
    from istio_init.plan.model import TableEdit

SAVE = {Family.IPV4: "iptables-legacy-save", Family.IPV6: "ip6tables-legacy-save"}
RESTORE = {Family.IPV4: "iptables-legacy-restore", Family.IPV6: "ip6tables-legacy-restore"}
TIMEOUT = 60.0
READING = 20.0
"""Seconds for python-iptables to read; after that the programs do."""
CHILD = "istio_init.stores.iptc_child"
PACKAGES = os.path.dirname(os.path.dirname(istio_init.__file__))
START = """\
import runpy, sys
sys.path.append(sys.argv.pop(1))
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__")
except ImportError as error:
    sys.exit(print(f"ImportError: {error}", file=sys.stderr) or 3)
"""
"""What the isolated interpreter runs: neither the current directory nor a variable says what it imports. Where we were
imported from comes last, for packages that lie outside of its own directories."""

TOO_NEW = (1, 8, 11)
"""From this iptables on the options of its extensions are laid out otherwise than python-iptables 1.2 reads them."""
CANNOT_WORK = 3
"""The child's exit status when python-iptables cannot work and nothing was changed."""


class IptablesLegacy:
    """The legacy backend."""

    name = RuleStore.LEGACY

    def __init__(self, wait: float, *, binding: bool = True) -> None:
        """``binding`` false uses the programs from the start; else they are used once python-iptables cannot work."""
        self.wait = wait
        self._binding = dict.fromkeys(Family, binding)
        self._untried = binding
        self.doubts = ""
        """Why python-iptables cannot work here, in its own words."""

    @property
    def means(self) -> str:
        """How rules are reached, as far as it is known."""
        if process.needs_owner():
            return "iptables-legacy-restore (the pod has a user namespace of its own)"
        return "python-iptables" if all(self._binding.values()) else f"iptables-legacy-restore ({self.doubts})"

    def families(self) -> tuple[Family, ...]:
        return tuple(family for family in Family if existing_tables(family))

    def read(self, family: Family, known: Mapping[str, Rule] | None = None, *, counters: bool = False) -> RuleSet:
        return genuine(lambda: self._read(family, known, counters=counters), self.name, known)

    def _read(self, family: Family, known: Mapping[str, Rule] | None, *, counters: bool) -> RuleSet:
        tables = existing_tables(family)
        if not tables:
            return RuleSet(family)
        names = [table.value for table in Table if table in tables]
        completed = self._through_binding(family, "read", *names)
        if completed is None:
            return self._read_with_program(family, names, known, counters=counters)
        if completed.status != 0:
            raise failure(completed)
        return parse_save(process.bounded(completed), family, known).rules

    def _read_with_program(
        self, family: Family, names: list[str], known: Mapping[str, Rule] | None, *, counters: bool
    ) -> RuleSet:
        """Read table by table: the program itself would read the list of tables, which it may not be allowed to."""
        text = ""
        for name in names:
            completed = process.run([SAVE[family], "-t", name, *(["-c"] if counters else [])], timeout=TIMEOUT)
            if completed.status != 0:
                raise failure(completed)
            text += process.bounded(completed)
        return parse_save(text, family, known).rules

    def admit(self, wanted: RuleSet) -> None:
        """Nobody but iptables writes these tables, and none of them sleeps."""

    def commit(self, family: Family, edits: Sequence[TableEdit]) -> None:
        text = render_restore(edits)
        completed = self._through_binding(family, "commit", f"{self.wait:g}", stdin=text)
        if completed is None:
            argv = [RESTORE[family], "--noflush", "--wait", str(max(1, round(self.wait)))]
            completed = process.run(argv, stdin=text, timeout=TIMEOUT + self.wait, writing=True)
        if completed.status != 0:
            raise failure(completed, text)

    def _through_binding(self, family: Family, *args: str, stdin: str = "") -> Completed | None:
        """Ask the child; None where python-iptables cannot work, which is then not tried again."""
        if self._untried:
            self._untried, self.doubts = False, _reason_not_to_try()
            self._binding = dict.fromkeys(Family, not self.doubts)
        if not self._binding[family]:
            return None
        if args[0] == "commit" and process.needs_owner():
            return None  # An interpreter is not to be had there without our files.
        argv = [sys.executable, "-I", "-c", START, PACKAGES, CHILD, family.value, *args]
        try:
            timeout = READING if args[0] == "read" else TIMEOUT + self.wait
            completed = process.run(argv, stdin=stdin, timeout=timeout, writing=args[0] == "commit")
        except ToolError as error:
            completed = Completed(tuple(argv), CANNOT_WORK, "", error.message)
        if completed.status in ((0,) if args[0] == "read" else (0, 1, LOCK_HELD_STATUS)):
            return completed.replace(argv=("python-iptables",))
        self.doubts = completed.stderr.strip().rpartition("\n")[2] or f"it ended with status {completed.status}"
        self._binding[family] = False
        if args[0] == "commit" and completed.status != CANNOT_WORK:
            # It died in the middle; only reading again can tell what it had done.
            raise failure(completed.replace(argv=("python-iptables",)), stdin)
        return None


def _reason_not_to_try() -> str:
    """Why python-iptables cannot work here, as far as that can be told without starting it; empty where it may."""
    from importlib.machinery import PathFinder

    if PathFinder.find_spec("iptc") is None:
        return "python-iptables is not installed"
    if process.find_binary(RESTORE[Family.IPV4]) is None:
        return ""
    said = process.run([RESTORE[Family.IPV4], "--version"], timeout=READING).stdout
    version = said.partition(" v")[2].partition(" ")[0]
    numbers = tuple(int(each) for each in version.split(".") if each.isdecimal())
    return f"python-iptables 1.2 cannot work with iptables {version}" if numbers >= TOO_NEW else ""
