"""What a run makes of what it finds: its own earlier work, a part of it, rules of others, a lock, a failing tool."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.command import INJECTED, Result, drop_in, environment, istio_init
from support.rules import (
    BACKENDS,
    PROGRAMS,
    Tables,
    everything,
    has_rules_of_ours,
    legacy_tables,
    nft_generation,
    program,
    routing,
    tables,
)

from istio_init.netfilter.family import Family
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import HOSTS, Pod

LOCK = Path("/run/xtables.lock")
FULL = (*INJECTED, "--dual-stack", "--redirect-dns", "--drop-invalid")
"""Rules in every table, of both families."""

OTHER = (*INJECTED, "--dual-stack", "-m", "TPROXY", "-x", "192.0.2.0/24")


@pytest.fixture
def pod(pod: Pod) -> Pod:
    """A pod whose resolv.conf names servers of both families."""
    pod.inside.write_resolv_conf(*(hosts.peer for hosts in HOSTS.values()))
    return pod


@pytest.fixture(scope="module")
def programmed(backend: str) -> Iterator[Pod]:
    """A pod in which the drop-in wrote the full rules; each test leaves it so."""
    with Pod.create() as made:
        made.inside.write_resolv_conf(*(hosts.peer for hosts in HOSTS.values()))
        drop_in(made.inside, *FULL, "--force-iptables-binary", backend).ok()
        yield made


def forbid_python_iptables(directory: Path) -> None:
    """Have runs with this directory in PYTHONPATH look for the child that uses it where there is none."""
    (directory / "sitecustomize.py").write_text("from istio_init.stores import legacy\nlegacy.CHILD = 'no_such'\n")


@contextmanager
def held_lock() -> Iterator[None]:
    """Hold the lock that all legacy programs take for a change."""
    descriptor = os.open(LOCK, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def unwritten(pod: Pod, backend: str) -> Iterator[None]:
    """Check that nothing is written: no transaction of nf_tables, no wish for the lock of legacy tables."""
    before, generation, routes = everything(pod.inside), nft_generation(pod.inside), routing(pod.inside)
    if backend == "legacy":
        with held_lock():
            yield
    else:
        yield
    assert nft_generation(pod.inside) == generation
    assert everything(pod.inside) == before
    assert routing(pod.inside) == routes


class TestEqual:
    """The namespace holds what is wanted."""

    def test_the_drop_in_writes_nothing(self, programmed: Pod, backend: str) -> None:
        with unwritten(programmed, backend):
            drop_in(programmed.inside, *FULL, "--wait", "0.1s").ok()

    @pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
    def test_apply_writes_nothing(self, pod: Pod, backend: str, mode: str) -> None:
        arguments = ("apply", "--netns", pod.name, "--dual-stack", "-m", mode)
        istio_init(*arguments, "--force-iptables-binary", backend).ok()
        with unwritten(pod, backend):
            assert "as wanted already" in istio_init(*arguments, "--wait", "0.1s").ok().stdout

    def test_clean_writes_nothing_where_nothing_is(self, pod: Pod, backend: str) -> None:
        with unwritten(pod, backend):
            istio_init("clean", "--netns", pod.name, "--force-iptables-binary", backend, "--wait", "0.1s").ok()

    def test_force_apply_writes_all_the_same(self, programmed: Pod, backend: str) -> None:
        before, generation = everything(programmed.inside), nft_generation(programmed.inside)
        if backend == "legacy":
            with held_lock():
                began = time.monotonic()
                drop_in(programmed.inside, *FULL, "--force-apply", "--wait", "2s")
                assert time.monotonic() - began >= 2
        drop_in(programmed.inside, *FULL, "--force-apply").ok()
        assert (nft_generation(programmed.inside) > generation) == (backend == "nft")
        assert everything(programmed.inside) == before


Damage = Callable[[Namespace, str], None]


def a_jump(namespace: Namespace, backend: str) -> None:
    """Lose the jump of a built-in chain."""
    namespace.run(program(backend, Family.IPV4), "-w", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")


def the_end_of_a_chain(namespace: Namespace, backend: str) -> None:
    """Lose the last rule of a chain."""
    count = len(tables(namespace, backend, Family.IPV6)["nat"]["ISTIO_OUTPUT"])
    namespace.run(program(backend, Family.IPV6), "-w", "-t", "nat", "-D", "ISTIO_OUTPUT", str(count))


def a_table(namespace: Namespace, backend: str) -> None:
    """Lose all that a table holds."""
    for flag in ("-F", "-X"):
        namespace.run(program(backend, Family.IPV4), "-w", "-t", "nat", flag)


def a_family(namespace: Namespace, backend: str) -> None:
    """Lose all that a family holds."""
    for table in ("raw", "mangle", "nat"):
        for flag in ("-F", "-X"):
            namespace.run(program(backend, Family.IPV6), "-w", "-t", table, flag)


def the_passthrough_address(namespace: Namespace, backend: str) -> None:
    """Lose an address."""
    namespace.run("ip", "address", "del", "::6/128", "dev", "lo")


class TestPart:
    """The namespace holds a part of what is wanted, as an interrupted first run leaves it."""

    @pytest.mark.parametrize("lose", [a_jump, the_end_of_a_chain, a_table, a_family, the_passthrough_address])
    def test_the_drop_in_completes_it_without_being_told(self, programmed: Pod, backend: str, lose: Damage) -> None:
        inside = programmed.inside
        before, routes = everything(inside), routing(inside)
        lose(inside, backend)
        assert (everything(inside), routing(inside)) != (before, routes)
        drop_in(inside, *FULL).ok()
        assert everything(inside) == before
        assert routing(inside) == routes

    def test_lost_routing_is_completed_too(self, pod: Pod, backend: str) -> None:
        drop_in(pod.inside, *OTHER, "--force-iptables-binary", backend).ok()
        routes = routing(pod.inside)
        pod.inside.run("ip", "-4", "rule", "del", "fwmark", "1337")
        pod.inside.run("ip", "-6", "route", "flush", "table", "133")
        drop_in(pod.inside, *OTHER, "--force-iptables-binary", backend).ok()
        assert routing(pod.inside) == routes


class TestUnwanted:
    """The namespace holds rules of ours that this configuration does not want."""

    def test_the_drop_in_refuses_shows_them_and_changes_nothing(self, programmed: Pod, backend: str) -> None:
        with unwritten(programmed, backend):
            done = drop_in(programmed.inside, *OTHER)
            assert done.status == 1
            assert "--reconcile" in done.stderr
            assert "- -A PREROUTING -j ISTIO_INBOUND" in done.stderr
            assert "+ -A ISTIO_OUTPUT -d 192.0.2.0/24 -j RETURN" in done.stderr

    def test_apply_refuses_when_told_not_to_reconcile(self, pod: Pod, backend: str) -> None:
        arguments = ("--netns", pod.name, "--force-iptables-binary", backend)
        istio_init("apply", *arguments).ok()
        with unwritten(pod, backend):
            assert istio_init("apply", *arguments, "-d", "9000", "--no-reconcile").status == 1
        istio_init("apply", *arguments, "-o", "9000", "--no-reconcile").ok()

    def test_with_reconcile_they_are_replaced(self, pod: Pod, backend: str) -> None:
        def reconcile(*flags: str) -> tuple[object, str]:
            drop_in(pod.inside, *flags, "--force-iptables-binary", backend, "--reconcile").ok()
            return everything(pod.inside), routing(pod.inside)

        full = reconcile(*FULL)
        other = reconcile(*OTHER)
        assert reconcile(*FULL) == full
        nothing = reconcile("--cleanup-only")
        assert nothing not in (full, other)
        assert reconcile(*OTHER) == other

    def test_a_dry_run_shows_the_way_and_changes_nothing(self, programmed: Pod, backend: str) -> None:
        with unwritten(programmed, backend):
            assert "- -A " in istio_init("apply", "--netns", programmed.name, "--dry-run").ok().stdout
            assert "COMMIT" in drop_in(programmed.inside, *OTHER, "--reconcile", "-n").ok().stdout

    def test_rules_in_the_other_backend_are_removed(self, pod: Pod, backend: str) -> None:
        other = next(name for name in BACKENDS if name != backend)
        arguments = ("apply", "--netns", pod.name, "--dual-stack", "--redirect-dns", "--force-iptables-binary")
        istio_init(*arguments, other).ok()
        istio_init(*arguments, backend).ok()
        assert has_rules_of_ours(pod.inside, backend)
        assert not has_rules_of_ours(pod.inside, other)

    def test_clean_removes_what_both_backends_hold(self, pod: Pod) -> None:
        before, routes = everything(pod.inside), routing(pod.inside)
        for backend, flags in zip(BACKENDS, (FULL, OTHER), strict=True):
            drop_in(pod.inside, *flags, "--force-iptables-binary", backend, "--reconcile").ok()
            saved = {family: pod.inside.run(program(backend, family, "save")) for family in Family}
        drop_in(pod.inside, *FULL, "--force-iptables-binary", "nft", "--reconcile").ok()
        for family, text in saved.items():
            pod.inside.run(program("legacy", family, "restore"), "-w", stdin=text)
        istio_init("clean", "--netns", pod.name).ok()
        assert [kept for kept in everything(pod.inside).values() if kept] == []
        assert before.keys() == everything(pod.inside).keys()
        assert routing(pod.inside) == routes


FOREIGN = {
    "filter": (("INPUT", "-p tcp --dport 22 -j ACCEPT"), ("CUSTOM", "-j RETURN"), ("OUTPUT", "-j CUSTOM")),
    "nat": (
        ("PREROUTING", "-i eth7 -p tcp --dport 81 -j REDIRECT --to-ports 8081"),
        ("OUTPUT", "-d 192.0.2.9 -p tcp --dport 82 -j REDIRECT --to-ports 8082"),
        ("POSTROUTING", "-o eth7 -j MASQUERADE"),
    ),
    "mangle": (("PREROUTING", "-p udp -m mark --mark 5 -j MARK --set-mark 6"), ("OUTPUT", "-p udp -j ACCEPT")),
    "raw": (("PREROUTING", "-p udp --dport 4789 -j NOTRACK"),),
}  # fmt: skip
"""Rules of others, by table: the chain and the rule."""


def add_foreign_rules(namespace: Namespace, backend: str, mark: str) -> None:
    """Put rules of others at the end of chains; a comment tells when that was."""
    for family in Family:
        lines = []
        for table, rules in FOREIGN.items():
            lines += [f"*{table}", *([":CUSTOM - [0:0]"] if table == "filter" else [])]
            for chain, rule in rules:
                here = rule.replace("192.0.2.9", HOSTS[family].far)
                tests, _, target = here.rpartition("-j ")
                lines.append(f"-A {chain} {tests} -m comment --comment {mark} -j {target}")
            lines.append("COMMIT")
        namespace.run(program(backend, family, "restore"), "-w", "--noflush", stdin="\n".join(lines) + "\n")


def foreign_rules(found: Tables) -> Tables:
    """The rules that carry a comment, and so are not ours."""
    return {
        table: {chain: tuple(rule for rule in rules if "--comment" in rule) for chain, rules in chains.items()}
        for table, chains in found.items()
    }


def without_empty(found: Tables) -> Tables:
    """The same without chains and tables that hold nothing."""
    kept = {table: {chain: rules for chain, rules in chains.items() if rules} for table, chains in found.items()}
    return {table: chains for table, chains in kept.items() if chains}


class TestForeign:
    """The namespace holds rules of others, in both backends and families."""

    def test_they_stay_where_they_are(self, pod: Pod, backend: str) -> None:
        def foreign() -> dict[tuple[str, Family], Tables]:
            return {key: without_empty(foreign_rules(found)) for key, found in everything(pod.inside).items()}

        pod.inside.run("nft", "add table inet others; add chain inet others c; add rule inet others c counter")
        for each in BACKENDS:
            add_foreign_rules(pod.inside, each, "before")
        arguments = ("--netns", pod.name, "--force-iptables-binary", backend)
        before, routes = foreign(), routing(pod.inside)
        istio_init("apply", *arguments, "--dual-stack", "--redirect-dns").ok()
        assert foreign() == before
        for each in BACKENDS:
            add_foreign_rules(pod.inside, each, "after")
        both = foreign()
        places = self.places(pod, backend)
        for flags in (("-m", "TPROXY", "-x", "192.0.2.0/24"), ("--redirect-dns", "-o", "9000")):
            istio_init("apply", *arguments, "--dual-stack", *flags).ok()
            assert foreign() == both
            assert self.places(pod, backend) == places
        istio_init("clean", *arguments).ok()
        assert {key: without_empty(found) for key, found in everything(pod.inside).items()} == both
        assert "counter" in pod.inside.run("nft", "list", "table", "inet", "others")
        assert routing(pod.inside) == routes

    @staticmethod
    def places(pod: Pod, backend: str) -> list[int]:
        """Where among the rules of others the jump stands that every configuration has."""
        return [tables(pod.inside, backend, family)["nat"]["OUTPUT"].index("-j ISTIO_OUTPUT") for family in Family]

    def test_others_may_write_at_the_same_time(self, pod: Pod, backend: str) -> None:
        arguments = ("--netns", pod.name, "--dual-stack", "--force-iptables-binary", backend)
        stop = threading.Event()

        def write_on() -> None:
            while not stop.is_set():
                for verb in ("-I", "-D"):
                    iptables = (program(backend, Family.IPV4), "-w", "-t", "nat", verb, "OUTPUT")
                    pod.inside.run(*iptables, "-p", "udp", "-j", "ACCEPT")

        istio_init("apply", *arguments).ok()
        wanted = {family: tables(pod.inside, backend, family) for family in Family}
        other = threading.Thread(target=write_on)
        other.start()
        try:
            for flags in (("-m", "TPROXY"), ("--redirect-dns",), ()):
                istio_init("apply", *arguments, *flags).ok()
        finally:
            stop.set()
            other.join()
        assert {family: tables(pod.inside, backend, family) for family in Family} == wanted


def test_of_runs_at_the_same_time_each_succeeds_and_the_last_one_holds(pod: Pod, backend: str) -> None:
    configurations = (("-m", "TPROXY", "-t", "77", "-r", "177"), ("--redirect-dns",))

    def apply(flags: tuple[str, ...]) -> Result:
        common = ("--netns", pod.name, "--dual-stack", "--force-iptables-binary", backend, "--wait", "1m")
        return istio_init("apply", *common, *flags)

    def state() -> tuple[object, str]:
        return everything(pod.inside), routing(pod.inside)

    wanted = []
    for flags in configurations:
        apply(flags).ok()
        wanted.append(state())
    for _ in range(4 if backend == "nft" else 1):
        istio_init("clean", "--netns", pod.name).ok()
        with ThreadPoolExecutor(4) as runs:
            results = list(runs.map(apply, configurations * 2))
        for result in results:
            result.ok()
        assert state() in wanted


def test_no_legacy_table_comes_into_being_where_nft_is_used(pod: Pod) -> None:
    for command in (("clean",), ("apply", "--dry-run"), ("apply", "--redirect-dns"), ("apply", "-m", "TPROXY"),
                    ("apply", "-m", "TPROXY"), ("clean",)):  # fmt: skip
        istio_init(*command, "--netns", pod.name, *(["--dual-stack"] if command[0] == "apply" else [])).ok()
        assert [legacy_tables(pod.inside, family) for family in Family] == [[], []]


def test_no_table_comes_into_being_that_the_rules_do_not_need(pod: Pod, backend: str) -> None:
    arguments = ("--netns", pod.name, "--force-iptables-binary", backend)
    istio_init("clean", *arguments).ok()
    istio_init("apply", *arguments).ok()
    existing = {
        family: {line[1:] for line in pod.inside.run(program(backend, family, "save")).splitlines() if line[:1] == "*"}
        for family in Family
    }
    assert existing == {Family.IPV4: {"nat"}, Family.IPV6: set()}


class TestFailure:
    """Something refuses in the middle."""

    @pytest.fixture
    def broken(self, tmp_path: Path) -> Callable[..., dict[str, str]]:
        """An environment in which these programs fail and python-iptables cannot work."""

        def make(*names: str) -> dict[str, str]:
            for name in names:
                script = tmp_path / name
                script.write_text("#!/bin/sh\necho it shall not be >&2\nexit 1\n")
                script.chmod(0o755)
            forbid_python_iptables(tmp_path)
            return {"PATH": f"{tmp_path}:{environment()['PATH']}", "PYTHONPATH": str(tmp_path)}

        return make

    @pytest.mark.parametrize("first", [(), ("--redirect-dns",)], ids=["from nothing", "from another"])
    def test_what_was_committed_is_put_back(
        self, pod: Pod, backend: str, broken: Callable[..., dict[str, str]], first: tuple[str, ...]
    ) -> None:
        arguments = ("apply", "--netns", pod.name, "--dual-stack", "--force-iptables-binary", backend)
        if first:
            istio_init(*arguments, *first).ok()
        before, routes = everything(pod.inside), routing(pod.inside)
        env = broken(program(backend, Family.IPV6, "restore"))
        done = istio_init(*arguments, "-m", "TPROXY", env=env)
        assert done.status == 1
        assert program(backend, Family.IPV6, "restore") in done.stderr
        assert "it shall not be" in done.stderr
        assert "could not be put back" not in done.stderr
        assert everything(pod.inside) == before
        assert routing(pod.inside) == routes

    def test_where_python_iptables_cannot_work_the_programs_do(
        self, pod: Pod, broken: Callable[..., dict[str, str]]
    ) -> None:
        arguments = ("apply", "--netns", pod.name, "--dual-stack", "--force-iptables-binary", "legacy", "-v")
        assert "python-iptables" in istio_init(*arguments, "-m", "TPROXY").ok().stdout
        wanted = everything(pod.inside)
        istio_init("clean", "--netns", pod.name).ok()
        done = istio_init(*arguments, "-m", "TPROXY", env=broken()).ok()
        assert "iptables-legacy-restore" in done.stdout
        assert everything(pod.inside) == wanted

    @pytest.mark.parametrize("family", Family, ids=lambda family: family.value)
    def test_a_table_that_iptables_cannot_express_is_named_and_nothing_is_written(
        self, pod: Pod, family: Family
    ) -> None:
        name = "ip" if family is Family.IPV4 else "ip6"
        pod.inside.run("nft", f"add table {name} mangle; "
                       f"add chain {name} mangle PREROUTING {{ type filter hook prerouting priority -150; }}; "
                       f"add rule {name} mangle PREROUTING ct state established accept")  # fmt: skip
        generation, routes = nft_generation(pod.inside), routing(pod.inside)
        arguments = ("apply", "--netns", pod.name, "--dual-stack", "-m", "TPROXY")
        done = istio_init(*arguments, "--force-iptables-binary", "nft")
        assert done.status == 1
        assert "mangle" in done.stderr
        assert PROGRAMS[family] in done.stderr
        assert nft_generation(pod.inside) == generation
        assert routing(pod.inside) == routes


class TestLock:
    """Another program holds the lock of legacy tables."""

    @pytest.fixture(params=["python-iptables", "programs"])
    def env(self, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
        """An environment in which python-iptables works, and one in which it does not."""
        if request.param == "python-iptables":
            return {}
        forbid_python_iptables(tmp_path)
        return {"PYTHONPATH": str(tmp_path)}

    @staticmethod
    def apply(pod: Pod, wait: str, env: dict[str, str]) -> Result:
        return istio_init("apply", "--netns", pod.name, "--force-iptables-binary", "legacy", "--wait", wait, env=env)

    def test_it_is_waited_for_and_then_reported(self, pod: Pod, env: dict[str, str]) -> None:
        with held_lock():
            began = time.monotonic()
            done = self.apply(pod, "1s", env)
            assert time.monotonic() - began >= 1
        assert done.status == 1
        assert "lock" in done.stderr
        assert "--wait" in done.stderr
        assert not has_rules_of_ours(pod.inside, "legacy")

    def test_it_is_waited_out(self, pod: Pod, env: dict[str, str]) -> None:
        results = []
        waiting = threading.Thread(target=lambda: results.append(self.apply(pod, "30s", env)))
        with held_lock():
            waiting.start()
            time.sleep(1.5)
            assert not has_rules_of_ours(pod.inside, "legacy")
            assert results == []
        waiting.join()
        results[0].ok()
        assert has_rules_of_ours(pod.inside, "legacy")
