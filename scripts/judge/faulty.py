"""Runs of apply and clean in which a system call fails, or a signal comes: is the state the old or the new one?"""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod

from .begun import Begun, Done
from .fault_points import CALL, Calls, Fault, counted

PROGRAM = (sys.executable, "-m", "istio_init")
COMMANDS = ("apply", "clean")
PROGRAMS = "programs"
"""Legacy iptables by its own programs, as where python-iptables is not installed."""

STORES = ("nft", "legacy", PROGRAMS, "native")
HANGS = 240.0
"""Seconds after which a run is held to hang."""

SETTLES = 0.5
"""Seconds after which the kernel has made the routes of an address, which it does by and by."""

BEFORE = ("--dual-stack", "-d", "15090,15021")
AFTER = ("--dual-stack", "-d", "15090,9000:9100", "-x", "192.0.2.0/24,2001:db8::/32", "-m", "TPROXY", "-t", "77")
"""They differ in tables, in both families and in the routing."""


class Case(NamedTuple):
    """A command on rules in a store, and what goes wrong."""

    store: str
    command: str
    fault: Fault


class Verdict(NamedTuple):
    """What came of it: ``old``, ``new``, or a fault of ours."""

    case: Case
    state: str
    status: int
    said: str

    @property
    def is_wrong(self) -> bool:
        """Whether nobody could live with it."""
        return self.state in ("mixed", "hung", "wrong", "traceback", "stuck")


class Bench:
    """A pod in one store's state before, and the states that a command may leave.

    With ``cold`` runs start from nothing, else where the interpreter is up and all modules are loaded.
    """

    def __init__(self, pod: Pod, store: str, command: str, *, cold: bool = False) -> None:
        self.pod, self.store, self.command, self.cold = pod, store, command, cold
        before = self._argv("apply", BEFORE)
        examples = (before, self._argv("apply", AFTER), *((self.argv, before) if command == "clean" else ()))
        self.begun = Begun(*examples, binding=store != PROGRAMS)
        self.old = self.new = ""
        self.reset()
        self.old = self.state()
        self.run(*self.argv)
        self.new = self.state()
        self.reset()
        assert self.state() == self.old != self.new, "the way back is not the way there"

    def _argv(self, command: str, more: tuple[str, ...]) -> tuple[str, ...]:
        store = (
            ("--native-nftables",)
            if self.store == "native"
            else ("--force-iptables-binary", "legacy" if self.store == PROGRAMS else self.store)
        )
        chosen = store if command == "apply" or self.store != "native" else ()
        return (command, "--netns", self.pod.name, *chosen, *more)

    @property
    def argv(self) -> tuple[str, ...]:
        """The arguments of the command under test."""
        return self._argv(self.command, AFTER if self.command == "apply" else ())

    def run(self, *argv: str) -> None:
        """Run to the end, and well."""
        done = self.begun.run(argv, HANGS)
        assert done.status == 0, done.said

    def reset(self) -> None:
        """Return to the state before."""
        self.run(*self._argv("apply", BEFORE))

    def state(self) -> str:
        """Everything that a run may change, without counters and times."""
        return state(self.pod.inside)

    def traced(self, *tracing: str) -> Done:
        """Run the command under test beneath strace."""
        if not self.cold:
            return self.begun.run(self.argv, HANGS, tracing)
        with subprocess.Popen(
            ("strace", *tracing, "-qq", *PROGRAM, *self.argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=HANGS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return Done(None, process.communicate()[0])
        return Done(process.returncode, said)

    def counts(self) -> dict[str, Calls]:
        """How often each call is made."""
        with tempfile.TemporaryDirectory() as folder:
            done = self.traced("-f", "-ff", "-o", f"{folder}/of")
            assert done.status == 0, done.said
            files = sorted(Path(folder).iterdir(), key=lambda each: int(each.suffix[1:]))
            ours, *children = [re.findall(CALL, each.read_text(errors="replace"), re.MULTILINE) for each in files]
        self.reset()
        return counted(ours, children)

    def judge(self, fault: Fault) -> Verdict:
        """Run with a fault, see what it left, and return to the state before."""
        case = Case(self.store, self.command, fault)
        family = ("-f",) if fault.children else ()
        done = self.traced(*family, "-o", "/dev/null", "-e", f"trace={fault.call}", "-e", f"inject={fault.injection}")
        if done.status is None:
            self.reset()
            return Verdict(case, "hung", -1, done.said)
        found = self.state()
        if found not in (self.old, self.new):
            time.sleep(SETTLES)
            found = self.state()
        name = "new" if found == self.new else "old" if found == self.old else "mixed"
        if done.status == 0 and name != "new":
            name = "wrong"
        if fault.what == "SIGKILL" and name == "mixed":
            self.run(*self.argv)  # It may leave a table of each; the next run has to end what it began.
            name = "converged" if self.state() == self.new else "stuck"
        elif "Traceback" in done.said and "istio_init" in done.said and fault.what != "SIGKILL":
            name = "traceback" if name in ("old", "new") and not _is_start(done.said) else name
        said = done.said[-2000:]
        if name == "mixed" and fault.children and "could not be put back" in said:
            name = "said"  # The same fails in every program that is started: nothing can be put back, and that is said.
        elif name == "mixed":
            said += "\n".join(difflib.unified_diff(self.old.splitlines(), found.splitlines(), lineterm="", n=0))
        if name != "old":
            self.reset()
        return Verdict(case, name, done.status, said)


def _is_start(err: str) -> bool:
    """Whether the interpreter itself, or an import, could not start."""
    return "ImportError" in err or "importlib" in err or "init_import_site" in err or "Fatal Python error" in err


def state(namespace: Namespace) -> str:
    """Rules of every store, routing and addresses, as text."""
    script = "; ".join(
        [
            *(f"ip{six}tables-{store}-save" for six in ("", "6") for store in ("nft", "legacy")),
            "nft -s list ruleset inet",
            "ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all; ip -br address",
        ]
    )
    text = namespace.run("sh", "-c", f"({script}) 2>/dev/null")
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[\d+:\d+\]", "", text)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(sorted(_blocks(lines)))


def _blocks(lines: list[str]) -> Iterator[str]:
    """Tables and chains, each with its rules in their order; that of the chains tells only when they were made."""
    place, found = "", dict[str, list[str]]()
    for line in lines:
        if line[0] == "*" or line.lstrip().startswith(("table ", "chain ", "set ")) or line[0].isdigit():
            place = line if line[0] in "*\t" or line.startswith("table") else "routing"
        if line.startswith("-A "):
            found.setdefault(f"{place} {line.split()[1]}", []).append(line)
        elif line[0] == ":" and " ACCEPT" not in line:
            found.setdefault(f"{place} {line.split()[0][1:]}", [])
        elif line[0] not in "*:}" and line not in ("COMMIT", "\t}"):
            found.setdefault(place, []).append(line)
    return ("\n  ".join([name, *rules]) for name, rules in found.items())


def table(verdicts: list[Verdict]) -> str:
    """Runs by store, command and fault, and what came of them."""
    lines = ["store   command  what     runs  calls   old   new  converged  said  mixed  hung  wrong  traceback  stuck"]
    keys = dict.fromkeys((each.case.store, each.case.command, each.case.fault.what) for each in verdicts)
    shown = ("old", "new", "converged", "said", "mixed", "hung", "wrong", "traceback", "stuck")
    widths = (5, 5, 10, 5, 6, 5, 6, 10, 6)
    for store, command, what in keys:
        mine = [
            each
            for each in verdicts
            if (each.case.store, each.case.command, each.case.fault.what) == (store, command, what)
        ]
        states = Counter(each.state for each in mine)
        calls = len({each.case.fault.call for each in mine})
        sums = "".join(f"{states[name]:>{width}} " for name, width in zip(shown, widths, strict=True))
        lines.append(f"{store:<7} {command:<8} {what:<8} {len(mine):>4} {calls:>6} {sums}".rstrip())
    return "\n".join(lines)
