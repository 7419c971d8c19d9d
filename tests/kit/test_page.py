"""The kit's page: its example runs in a project that is not ours, from a wheel, with root and without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.built import Built

from istio_init import testing

from .project import PAGE, example, run_pytest
from .unprivileged import RANGE, run_unprivileged

TESTS = example().count("\ndef test_")
SENTENCES = """
def test_of_no_rules(istio_mesh):
    client, server = istio_mesh.pod("client"), istio_mesh.pod("server")
    client.user(0, 0).connecting_to(server.ipv6, 80).must_be_direct()

def test_of_another_user(istio_pod):
    istio_pod.app.connecting_to(istio_pod.ipv4, 80).must_be_direct()

def test_of_rules(istio_pod):
    istio_pod.redirect()
"""


def test_the_example_runs_from_a_wheel_in_an_environment_of_its_own(project: Path, built: Built) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(project / "venv")], check=True, timeout=60)
    python = project / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--no-compile", str(built.wheel), "pytest"], check=True, timeout=240)

    tests = project / "tests"
    tests.mkdir()
    (tests / "test_mesh.py").write_text(example())
    done = run_pytest(tests, python=str(python))
    assert done.status == 0, done.output
    assert f"{TESTS} passed" in done.output


def test_everything_public_is_named() -> None:
    words = set(re.findall(r"\w+", PAGE.read_text()))
    assert [each for each in testing.__all__ if each not in words] == []


def test_nothing_is_installed_by_a_name_that_no_index_has() -> None:
    installed = re.findall(r"pip install ([^`\n]+)", PAGE.read_text())
    assert len(installed) == 2
    for each in installed:
        assert each.split() == ["./istio-init", "pytest"]


def test_the_example_runs_without_root(project: Path) -> None:
    (project / "test_mesh.py").write_text(example())
    done = run_unprivileged(project, ids=RANGE)
    assert done.status == 0, done.output
    assert f"{TESTS} passed" in done.output


def test_without_a_range_of_ids_tests_that_need_another_user_are_skipped_with_the_reason(project: Path) -> None:
    (project / "test_ids.py").write_text(SENTENCES)
    done = run_unprivileged(project, ids="")
    assert done.status == 0, done.output
    assert "1 passed, 2 skipped" in done.output
    for user in ("user 1000, group 1000", "user 1337, group 1337"):
        reason = f"{user} cannot be had without root: install newuidmap (package uidmap) and give nobody a range in"
        assert reason in done.output


PROXIES = """
import pytest
from istio_init.testing import CommandError

def test_of_wrong_arguments(istio_pod):
    with pytest.raises(CommandError, match="-x"):
        istio_pod.redirect("-x 'is not mapped in the user namespace'")

def test_of_a_user_that_exists(istio_pod):
    istio_pod.redirect("-u 0 -g 0")

def test_of_users_that_do_not(istio_pod):
    istio_pod.redirect("--wait 5s -u 0,5 -g 6")

def test_of_users_that_a_variable_names(istio_pod):
    istio_pod.redirect(env={"PROXY_UID": "7", "PROXY_GID": "8"})
"""


def test_rules_are_skipped_for_the_users_that_they_name_and_not_for_the_words_of_an_error(project: Path) -> None:
    (project / "test_proxies.py").write_text(PROXIES)
    done = run_unprivileged(project, ids="")
    assert done.status == 0, done.output
    assert "2 passed, 2 skipped" in done.output
    for user in ("user 5, group 6", "user 7, group 8"):
        assert f"{user} cannot be had without root" in done.output


def test_where_user_namespaces_are_not_allowed_tests_are_skipped_with_the_reason(project: Path) -> None:
    (project / "conftest.py").write_text(NO_USER_NAMESPACES)
    (project / "test_mesh.py").write_text(example())
    done = run_unprivileged(project, ids=RANGE)
    assert done.status == 0, done.output
    assert f"{TESTS} skipped" in done.output
    assert "no namespaces for user 65534 here: unshare: Operation not permitted" in done.output


NO_USER_NAMESPACES = '''
"""What a container's runtime does: a seccomp filter that lets unshare(2) fail with EPERM."""
import ctypes, platform, struct

NUMBER = {"x86_64": 272, "aarch64": 97}[platform.machine()]
LOAD, EQUAL, RETURN, ALLOW, REFUSE = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050001
code = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, NUMBER), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
packed = b"".join(struct.pack("HBBI", *each) for each in code)
buffer = ctypes.create_string_buffer(packed)

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

program = Program(len(code), ctypes.cast(buffer, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program)) == 0
'''
