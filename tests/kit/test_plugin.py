"""What the plugin adds to pytest: options, fixtures of each scope, failures that point at the test's own line."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from support.processes import wait_until

from istio_init.testing import leftovers

from .project import run_pytest
from .unprivileged import NOBODY, RANGE, run_unprivileged


@pytest.fixture
def directory(as_root: None, tmp_path: Path) -> Path:
    """Where the tests of a run are."""
    return tmp_path


def write(directory: Path, text: str) -> None:
    """Make this the tests of a directory."""
    (directory / "test_it.py").write_text(text)


UNJUDGED = """
import pytest

def test_of_nothing(istio_session_pod):
    istio_session_pod.app.connecting_to("203.0.113.7", 443)  # Never judged.

def test_of_one_of_two(istio_session_pod):
    for port in (80, 81):
        attempt = istio_session_pod.proxy.sending_to("203.0.113.7", port)
    attempt.must_be_direct()

def test_that_fails_before(istio_session_pod):
    istio_session_pod.app.connecting_to("203.0.113.7", 443)
    assert not "the test's own words"

def test_of_all(istio_session_pod):
    with pytest.raises(AssertionError):
        istio_session_pod.app.connecting_to("203.0.113.7", 443).must_be_refused()
"""


def test_an_attempt_of_which_nothing_is_said_fails_its_test(directory: Path) -> None:
    write(directory, UNJUDGED)
    done = run_pytest(directory)
    assert "3 failed, 1 passed" in done.output, done.output
    nothing_sent = re.findall(r"^\S*/test_it.py:(\d+): (.*): nothing was sent\. End it with must_reach_proxy\(port\), ",
                              done.output, re.MULTILINE)  # fmt: skip
    assert nothing_sent == [
        ("5", "user 1000, group 1000 of pod, connecting to 203.0.113.7:443"),
        ("9", "user 1337, group 1337 of pod, sending a datagram to 203.0.113.7:80"),
    ]
    assert "the test's own words" in done.output


MISTAKES = """
import pytest
from istio_init.testing import APP, Endpoint, Family, Listener, Namespace, connect

def test_a_sentence(istio_session_pod):
    istio_session_pod.app.connecting_to("203.0.113.7", 443).must_be_refused()  # HERE

def test_a_name(istio_session_pod):
    istio_session_pod.app.connecting_to("db.local", 443)  # HERE

def test_arguments(istio_session_pod):
    istio_session_pod.redirect("-m SIDEWAYS")  # HERE

def test_a_command(istio_session_pod):
    istio_session_pod.inside.run("false")  # HERE

def test_a_function(istio_session_pod):
    istio_session_pod.inside.call(lambda: 1 // 0)  # HERE

def test_a_connection(istio_session_pod):
    connect(istio_session_pod.inside, APP, Endpoint("127.0.0.1", 1))  # HERE

def test_a_label(istio_session_mesh):
    istio_session_mesh.pod("a/b")  # HERE
"""


def test_a_traceback_ends_in_the_tests_own_line(directory: Path) -> None:
    write(directory, MISTAKES)
    done = run_pytest(directory, "--tb=short")
    assert "7 failed" in done.output, done.output
    last = re.findall(r"^(\S+):\d+: in .*\n    (.*)\n(?:    [ ~^]*\n)?E ", done.output, re.MULTILINE)
    assert len(last) == 7, done.output
    for file, line in last:
        assert file.endswith("test_it.py")
        assert line.endswith("# HERE")


def test_all_frames_are_there_where_they_are_asked_for(directory: Path) -> None:
    write(directory, MISTAKES)
    done = run_pytest(directory, "--full-trace", "-k", "test_a_name")
    assert "checks.py" in done.output


SCOPES = """
names = {"function": [], "module": [], "session": []}

def note(namespace, mesh, pod, scope):
    assert pod in mesh.pods
    names[scope].append((namespace.name, pod.name, mesh.peer.name))

def check(istio_namespace, istio_mesh, istio_pod, istio_module_namespace, istio_module_mesh, istio_module_pod,
          istio_session_namespace, istio_session_mesh, istio_session_pod):
    note(istio_namespace, istio_mesh, istio_pod, "function")
    note(istio_module_namespace, istio_module_mesh, istio_module_pod, "module")
    note(istio_session_namespace, istio_session_mesh, istio_session_pod, "session")
"""


def test_fixtures_live_as_long_as_their_scope(directory: Path) -> None:
    (directory / "scopes.py").write_text(SCOPES)
    (directory / "conftest.py").write_text(
        "import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))"
    )
    asked = re.search(r"def check\((.*?)\)", SCOPES, re.DOTALL)
    assert asked is not None
    names = re.sub(r"\s+", " ", asked[1])
    test = f"from scopes import check\ndef test_one({names}): check({names})\ndef test_two({names}): check({names})\n"
    (directory / "test_a.py").write_text(test)
    count = """
from scopes import names
def test_counts():
    assert {scope: len(set(found)) for scope, found in names.items()} == {"function": 4, "module": 2, "session": 1}
"""
    (directory / "test_b.py").write_text(test + count)
    done = run_pytest(directory)
    assert "5 passed" in done.output, done.output


KEPT = """
import pytest

@pytest.fixture
def pod(istio_pod):
    istio_pod.redirect()
    return istio_pod

def test_that_passes(pod):
    pass

def test_that_fails(pod):
    assert pod is None

@pytest.fixture
def broken(pod):
    raise RuntimeError("no pod for this test")

def test_whose_fixture_fails(broken):
    pass
"""


def commands(output: str) -> dict[str, dict[str, list[str]]]:
    """By test and label, how to enter what a run kept."""
    told = output.partition("kept until the next run that makes namespaces")[2].splitlines()
    found: dict[str, dict[str, list[str]]] = {}
    test = ""
    for line in told[1:]:
        if match := re.fullmatch(r"  (\S+): (.*) bash", line):
            found[test][match[1]] = match[2].split()
        elif "::" in line and not line.startswith(("FAILED", "ERROR", "=", " ")):
            test = line.partition("::")[2]
            found[test] = {}
    return found


def test_namespaces_of_failed_tests_are_kept_where_that_is_asked_for_and_can_be_entered(directory: Path) -> None:
    write(directory, KEPT)
    assert "kept until" not in run_pytest(directory).output
    kept = commands((done := run_pytest(directory, "--istio-keep")).output)
    try:
        assert set(kept) == {"test_that_fails", "test_whose_fixture_fails"}, done.output
        for found in kept.values():
            assert set(found) == {"peer", "pod"}
            rules = subprocess.check_output([*found["pod"], "iptables-save"], text=True)
            assert "-A ISTIO_OUTPUT" in rules
            assert "eth0" in subprocess.check_output([*found["pod"], "ip", "-br", "link"], text=True)
        write(directory, "def test_it(istio_namespace): pass")
        assert run_pytest(directory).status == 0
        for found in kept.values():
            assert not (leftovers.RUN_NETNS / found["pod"][3]).exists()
    finally:
        for found in kept.values():
            for command in found.values():
                leftovers.remove(command[3])


def test_without_root_they_are_kept_as_well(project: Path) -> None:
    (project / "test_it.py").write_text(KEPT)
    kept = commands((done := run_unprivileged(project, "--istio-keep", "-k", "test_that_fails", ids=RANGE)).output)
    enter = kept["test_that_fails"]["pod"]
    assert enter[:4] == ["nsenter", "--preserve-credentials", "--user", "--net"], done.output
    user = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
    environment = {"PATH": os.environ["PATH"], "XTABLES_LOCKFILE": str(project / "lock")}
    rules = subprocess.check_output([*user, *enter, "iptables-save"], text=True, env=environment)
    assert "-A ISTIO_OUTPUT" in rules
    (project / "test_it.py").write_text("def test_it(istio_namespace): pass")
    assert run_unprivileged(project, ids=RANGE).status == 0
    wait_until(lambda: not Path("/proc", enter[-1]).exists())


SKIPS = """
import pytest

def test_of_another_user(istio_pod):
    istio_pod.app.connecting_to(istio_pod.ipv4, 80).must_be_direct()

def test_of_the_kernel(istio_pod):
    pass

def test_that_somebody_else_skips():
    pytest.skip("for a reason of its own")
"""


def test_a_skip_of_the_kits_is_a_failure_where_that_is_asked_for(project: Path) -> None:
    (project / "test_it.py").write_text(SKIPS)
    lenient, strict = (run_unprivileged(project, *flags, ids="") for flags in ((), ("--istio-strict",)))
    assert "1 passed, 2 skipped" in lenient.output
    assert "1 failed, 1 passed, 1 skipped" in strict.output, strict.output
    assert (
        "skipped, which --istio-strict does not allow: user 1000, group 1000 cannot be had without root"
        in strict.output
    )
