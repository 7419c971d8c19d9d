"""Killing a switch at any moment: no table is left half done, and the next run ends the work and says what it found."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from support.command import begin, istio_init
from support.processes import wait_until
from support.rules import Tables, routing, tables

from istio_init.netfilter.family import Family
from istio_init.system.unfinished import Note
from istio_init.testing.entering import ROOT, User
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import APP, HOSTS, Pod
from istio_init.testing.traffic import Endpoint, Listener, close_without_trace, connect, talk

KILLS = int(os.environ.get("ISTIO_INIT_KILLS", "60"))
SHARES = {"nft": 0.9, "legacy": 0.1}
"""Of all kills: a run through python-iptables takes several times as long."""

CONVERGE_EVERY = 10
SEED = 1337
PORTS = (15001, 15006)
"""Of the proxy's listeners: outbound, inbound."""

CONFIGURATIONS = (
    ("--redirect-dns", "--dual-stack"),
    ("-m", "TPROXY", "-t", "77", "-r", "177", "-d", "15090,9000:9100", "-x", "192.0.2.0/24,2001:db8::/32",
     "--dual-stack"),
)  # fmt: skip
"""Two that differ in every table, in both families and in the routing."""


Rules = dict[Family, Tables]


class Attempt(NamedTuple):
    """One kill: when, as a share of a whole run, and whether the programs that the run started are killed with it."""

    moment: float
    whole_group: bool


class Victim:
    """A pod that is switched to and fro between two configurations whose effects are known."""

    def __init__(self, pod: Pod, backend: str) -> None:
        pod.inside.write_resolv_conf(*(hosts.peer for hosts in HOSTS.values()))
        self.pod = pod
        self.backend = backend
        self.known: list[Rules] = []
        self.known_routing: list[str] = []
        for number, _ in enumerate(CONFIGURATIONS):
            istio_init(*self._arguments(number)).ok()
            self.known.append(self.rules())
            self.known_routing.append(routing(pod.inside))
        self.duration = min(self.switch_to(0), self.switch_to(1), self.switch_to(0))

    def _arguments(self, number: int) -> tuple[str, ...]:
        return ("apply", "--netns", self.pod.name, "--force-iptables-binary", self.backend, *CONFIGURATIONS[number])

    def switch_to(self, number: int) -> float:
        """Apply a configuration, to the end; how long that took."""
        began = time.monotonic()
        istio_init(*self._arguments(number)).ok()
        return time.monotonic() - began

    def kill_on_the_way_to(self, number: int, attempt: Attempt) -> int:
        """Begin to apply a configuration and kill that; its exit status."""
        return kill_after(attempt.moment * self.duration, self.pod, attempt.whole_group, *self._arguments(number))

    def rules(self) -> Rules:
        """What is there now."""
        return {family: tables(self.pod.inside, self.backend, family) for family in Family}

    def is_old_or_new(self, now: Rules) -> bool:
        """Whether each table is wholly as one of the configurations wants it."""
        return all(
            now[family].get(table, {}) in [known[family].get(table, {}) for known in self.known]
            for family in Family
            for table in ("raw", "mangle", "nat", "filter", "security")
        )


def kill_after(seconds: float, pod: Pod, whole_group: bool, *argv: str) -> int:
    """Run to kill it after so long, if it has not ended before; its status. Nothing of it runs any more."""
    with closing(begin(*argv)) as run:
        try:
            return run.wait(seconds)
        except subprocess.TimeoutExpired:
            (os.killpg if whole_group else os.kill)(run.pid, signal.SIGKILL)
            return run.wait()
        finally:
            wait_for_stragglers(pod.inside)


class Watch:
    """The proxy's listeners in a pod, which are to be reached whatever state it is in."""

    def __init__(self, pod: Pod, stack: ExitStack) -> None:
        self._calls: list[tuple[Namespace, User, Endpoint, Listener]] = []
        for family in Family:
            outbound, inbound = (
                stack.enter_context(Listener(pod.inside, family, port, transparent=True)) for port in PORTS
            )
            hosts = HOSTS[family]
            self._calls.append((pod.inside, APP, Endpoint(hosts.far, 80), outbound))
            self._calls.append((pod.peer, ROOT, Endpoint(hosts.pod, 80), inbound))

    def check(self) -> None:
        """Check that connections get through, and to the proxy."""
        for namespace, user, destination, listener in self._calls:
            client = connect(namespace, user, destination)
            accepted = listener.accept().connection
            talk(client, accepted)
            close_without_trace(client, accepted)


def wait_for_stragglers(namespace: Namespace) -> None:
    """Wait until no process is left in a namespace: what a killed run had started may go on to its end."""
    own = namespace.path.stat()
    wait_until(lambda: not any(_is_in(process, own) for process in Path("/proc").glob("[0-9]*")))


def _is_in(process: Path, namespace: os.stat_result) -> bool:
    try:
        return os.path.samestat((process / "ns/net").stat(), namespace)
    except OSError:
        return False


def attempts(seed: int) -> Iterator[Attempt]:
    """Random moments of a run, for ever; its latter half, when it writes, comes twice as often as the former.

    What runs has been imported, so that none of them is wasted on what cannot have changed anything yet.
    """
    chance = random.Random(seed)
    while True:
        share = chance.choice((chance.uniform(0, 0.5), chance.uniform(0.5, 1), chance.uniform(0.5, 1)))
        yield Attempt(share, whole_group=chance.random() < 0.5)


@pytest.mark.timeout(1800)
def test_a_killed_switch_leaves_no_table_half_done_and_the_next_run_converges(pod: Pod, backend: str) -> None:
    with ExitStack() as stack:
        kill_again_and_again(Victim(pod, backend), Watch(pod, stack))


def kill_again_and_again(victim: Victim, watch: Watch) -> None:
    """Kill switches until there were enough, checking after each."""
    count = max(1, round(KILLS * SHARES[victim.backend]))
    kills, outcomes = 0, Counter[str]()
    aim = 1
    for attempt in attempts(SEED):
        status = victim.kill_on_the_way_to(aim, attempt)
        now = victim.rules()
        assert "-j DROP" not in str(now)
        assert victim.is_old_or_new(now), f"{attempt}: {now}"
        try:
            watch.check()
        except OSError as error:
            pytest.fail(f"{attempt}: {error}: {now}\n{routing(victim.pod.inside)}")
        if status == 0:
            aim = 1 - aim
            continue  # It was quicker than usual.
        assert status == -signal.SIGKILL
        kills += 1
        outcomes["done" if now == victim.known[aim] else "undone" if now == victim.known[1 - aim] else "between"] += 1
        if kills % CONVERGE_EVERY == 0 or kills == count:
            victim.switch_to(aim)
            now = victim.rules()
            assert now == victim.known[aim]
            assert routing(victim.pod.inside) == victim.known_routing[aim]
        if kills == count:
            break
        if now == victim.known[aim]:
            aim = 1 - aim
    print(f"{victim.backend}: {count} kills of runs of {victim.duration:.2f} s: {dict(outcomes)}")
    assert count < 50 or set(outcomes) == {"done", "undone", "between"}


KILLED = "was killed before it ended: found "
ATTEMPTS = 40
"""To kill a run while it writes, which takes a few hundredths of a second."""


def killed_at_writing(pod: Pod, *argv: str) -> bool:
    """Whether a run was killed when it had begun to write, and the programs that it started as well."""
    note = pod.inside.call(Note)
    with closing(begin(*argv)) as run:
        while note.left() is None and not run.has_ended():
            time.sleep(0.0002)
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    wait_for_stragglers(pod.inside)
    return note.left() is not None


@pytest.mark.parametrize("command", ["apply", "clean"])
def test_the_run_after_a_killed_one_says_what_it_found_once(pod: Pod, command: str) -> None:
    where = ("--netns", pod.name)
    istio_init("apply", *where, *CONFIGURATIONS[0]).ok()
    interrupted = (command, *where, *(CONFIGURATIONS[1] if command == "apply" else ()))
    assert any(killed_at_writing(pod, *interrupted) for _ in range(ATTEMPTS)), "it always ended before"
    saves = {"IPv4": "iptables-nft-save", "IPv6": "ip6tables-nft-save"}
    left = [f"in nft ({family})" for family, save in saves.items() if "ISTIO_" in pod.inside.run(save)]

    shown = istio_init(*interrupted, "--dry-run").ok()
    done = istio_init(*interrupted).ok()
    again = istio_init(*interrupted).ok()

    for each in (shown, done):
        [line] = [line for line in each.stderr.splitlines() if KILLED in line]
        assert line.startswith("warning: a run that began at ")
        assert [f"in nft ({family})" for family in saves if f"in nft ({family})" in line] == left
        assert ("no rules of ours" in line) == (not left)
    assert KILLED not in again.stderr


def test_a_run_that_ends_or_puts_back_leaves_no_note(pod: Pod) -> None:
    note = pod.inside.call(Note)
    istio_init("apply", "--netns", pod.name, "--redirect-dns").ok()
    assert note.left() is None
    note.begin()
    assert note.left() is not None
    found = istio_init("clean", "--netns", pod.name, "--format", "json").ok()
    assert KILLED in found.stdout
    assert note.left() is None


def test_a_note_of_another_boot_or_of_somebody_else_is_none(
    pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("istio_init.system.unfinished.DIRECTORY", str(tmp_path / "notes"))
    note = pod.inside.call(Note)
    note.begin()
    [path] = (tmp_path / "notes").iterdir()
    assert note.left() is not None

    os.utime(path, (1, 1))
    assert note.left() is None
    os.utime(path)
    os.chown(path, 4242, 4242)
    assert note.left() is None
    path.unlink()
    (tmp_path / "notes").chmod(0o777)
    note.begin()
    assert list((tmp_path / "notes").iterdir()) == []
