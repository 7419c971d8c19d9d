"""A network namespace of its own for each test, and the backends under test in it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import parse_save
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, XTABLES, Table
from istio_init.netfilter.family import Family
from istio_init.plan.model import Step, TableEdit
from istio_init.stores.fake import Fake
from istio_init.stores.legacy import CHILD, IptablesLegacy
from istio_init.stores.nft import IptablesNft
from istio_init.system import netlink, process
from istio_init.system.xtables import TABLE_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.stores.base import Store

CLONE_NEWNET = 0x40000000
KINDS = ("nft", "legacy with python-iptables", "legacy with the programs", "fake")
WAIT = 5.0
"""Seconds to wait for the lock; nobody else holds that of these tests."""


class Subject:
    """A backend under test, with a way to write and to read rules that does not go through it."""

    def __init__(self, kind: str, family: Family) -> None:
        self.kind = kind
        self.family = family
        self.backend: Store
        match kind:
            case "nft":
                self.backend = IptablesNft(WAIT)
            case "legacy with python-iptables":
                self.backend = IptablesLegacy(WAIT, binding=True)
            case "legacy with the programs":
                self.backend = IptablesLegacy(WAIT, binding=False)
            case _:
                self.backend = Fake()

    @property
    def store(self) -> str | None:
        """Where the kernel keeps the rules: ``nft`` or ``legacy``; None for the fake."""
        return None if self.kind == "fake" else self.kind.partition(" ")[0]

    @property
    def other(self) -> Family:
        """The family that is not under test."""
        return Family.IPV6 if self.family is Family.IPV4 else Family.IPV4

    def program(self, verb: str) -> str:
        prefix = "iptables" if self.family is Family.IPV4 else "ip6tables"
        return f"{prefix}-{self.store}-{verb}"

    def seed(self, table: Table, *lines: str) -> None:
        """Have these lines of iptables-restore in a table before the test begins."""
        text = "\n".join([f"*{table.value}", *lines, "COMMIT", ""])
        if self.store is None:
            self.backend = Fake([_merged(self.backend.read(self.family), table, text)])
            return
        done = process.run([self.program("restore"), "--noflush", "--counters"], stdin=text, timeout=30)
        assert done.status == 0, done.stderr

    def document(self) -> RuleSet:
        """What iptables-save prints, with counters."""
        if self.store is None:
            return self.backend.read(self.family, counters=True)
        return parse_save(process.run([self.program("save"), "-c"], timeout=30).stdout, self.family).rules

    def saved(self) -> dict[Table, dict[str, list[str]]]:
        """All rules by table and chain, as iptables-save prints them; without chains of the kernel that are empty."""
        return texts_of(self.document())

    def commit(self, table: Table, *steps: Step) -> None:
        """Carry out steps in one table."""
        self.backend.commit(self.family, [TableEdit(table, steps)])

    def read(self) -> dict[Table, dict[str, list[str]]]:
        """All rules by table and chain, read through the backend."""
        return texts_of(self.backend.read(self.family))

    def chain(self, table: Table, name: str) -> list[str]:
        """The texts of a chain, read through the backend; the chain must exist."""
        found = self.backend.read(self.family).chain(table, name)
        assert found is not None
        return [str(entry.text) for entry in found.entries]


def _merged(before: RuleSet, table: Table, text: str) -> RuleSet:
    """A rule set with more text of iptables-save in a table."""
    there = before.tables.get(table, {})
    declared = [f":{name} {chain.policy or '-'} [0:0]" for name, chain in there.items()]
    declared += [f":{name} ACCEPT [0:0]" for name in BUILTIN_CHAINS[table] if name not in there]
    first, _, rest = text.partition("\n")
    found = parse_save("\n".join([first, *declared, rest]), before.family).rules.tables[table]
    merged = {
        name: chain.replace(entries=(*(there[name].entries if name in there else ()), *chain.entries))
        for name, chain in found.items()
    }
    return RuleSet(before.family, {**before.tables, table: merged})


def texts_of(rules: RuleSet) -> dict[Table, dict[str, list[str]]]:
    """The texts of rules by table and chain; without chains of the kernel that are empty."""
    found: dict[Table, dict[str, list[str]]] = {}
    for table, chain in rules.chains():
        if chain.entries or chain.policy is None:
            found.setdefault(table, {})[chain.name] = [str(entry.text) for entry in chain.entries]
    return found


def existing_tables() -> set[tuple[str, Family, str]]:
    """The tables of iptables that exist in this namespace, by where the kernel keeps them."""
    legacy = {
        ("legacy", family, name)
        for family, path in TABLE_NAMES.items()
        if Path(path).exists()
        for name in Path(path).read_text().split()
    }
    return legacy | {("nft", family, name) for family, name in netlink.nft_tables() or () if name in XTABLES}


@cache
def binding_trouble(family: Family) -> str:
    """Why python-iptables cannot work here; empty where it does."""
    done = process.run([sys.executable, "-m", CHILD, family.value, "read"], timeout=60)
    return "" if done.status == 0 else done.stderr.strip() or f"it ended with status {done.status}"


@pytest.fixture(params=Family, ids=lambda family: str(family.value))
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def marked(kind: str) -> object:
    """A kind as a parameter that says what it needs."""
    return kind if kind == "fake" else pytest.param(kind, marks=pytest.mark.x_tables)


@pytest.fixture(params=map(marked, KINDS))
def subject(
    request: pytest.FixtureRequest, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Subject]:
    """A backend in an empty namespace."""
    made = Subject(request.param, family)
    if made.store is None:
        yield made
        return
    if process.find_binary(made.program("restore")) is None:
        pytest.skip(f"{made.program('restore')} is not installed")
    if request.param == "legacy with python-iptables" and (trouble := binding_trouble(family)):
        pytest.skip(f"python-iptables cannot work here: {trouble}")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with _Unshared():
        yield made
        if request.param == "legacy with python-iptables":
            assert "CannotExpress" in made.backend.means or made.backend.means == "python-iptables", "it fell back"


class _Unshared:
    """A new network namespace for this process, which returns to its own at the end. It has one thread alone."""

    def __enter__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if self.libc.unshare(CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            os.close(self.home)
            pytest.skip(f"a network namespace cannot be made ({reason}): run as root")

    def __exit__(self, *_: object) -> None:
        status = self.libc.setns(self.home, CLONE_NEWNET)
        os.close(self.home)
        if status != 0:
            pytest.exit("the way back from a test's network namespace is blocked", returncode=3)
