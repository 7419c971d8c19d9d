"""The pytest plugin: fixtures for tests that send real traffic through real redirection rules.

Every test run of an environment loads this, so that it imports what makes namespaces when a test asks for one.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from istio_init.testing.namespaces import Namespace
    from istio_init.testing.pods import Mesh, Pod

KEPT = "istio_kept"
"""The attribute of a report with what was kept; pytest-xdist carries it over."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say what the options are."""
    group = parser.getgroup("istio-init", "real network namespaces (istio-init)")
    group.addoption(
        "--istio-strict",
        action="store_true",
        help="fail tests that the kit would skip as this machine or user cannot have what they need",
    )
    group.addoption(
        "--istio-keep",
        action="store_true",
        help="keep the namespaces of failed tests until the next run, and print how to enter them",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that made an attempt and said nothing of it, as nothing was sent."""
    if judging := _imported("judging"):
        judging.take()
    result = yield
    if (judging := _imported("judging")) and (unjudged := judging.take()):
        end = "must_reach_proxy(port), must_be_direct(), must_be_refused() or must_be_dropped()"
        lines = [f"{each.line}: {each.words}: nothing was sent. End it with {end}." for each in unjudged]
        pytest.fail("\n".join(lines), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips of the kit into failures, and keep the namespaces of a failure, where that was asked for."""
    owners = _imported("owners")
    met = call.excinfo and call.excinfo.value  # Before pytest makes a skip of its own of it.
    report = yield
    if owners and isinstance(met, owners.Unavailable) and item.config.getoption("istio_strict"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which --istio-strict does not allow: {met}"
    if report.failed and report.when != "teardown" and item.config.getoption("istio_keep"):
        keeping = _imported("keeping")
        setattr(report, KEPT, keeping.keep_living() if keeping else [])
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how to enter what was kept."""
    failed = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    kept = {report.nodeid: getattr(report, KEPT) for report in failed if getattr(report, KEPT, [])}
    if not kept:
        return
    terminalreporter.section("kept until the next run that makes namespaces")
    for nodeid, lines in kept.items():
        terminalreporter.write_line(nodeid)
        for line in lines:
            terminalreporter.write_line(f"  {line}")


def _imported(name: str) -> Any:
    """A module of the kit, if a test has used it; any type, as importing it only to say so would cost each run."""
    return sys.modules.get(f"istio_init.testing.{name}")


def _namespace() -> Iterator[Namespace]:
    from istio_init.testing.namespaces import Namespace

    with Namespace.create() as made:
        yield made


def _mesh() -> Iterator[Mesh]:
    from istio_init.testing.pods import Mesh

    with Mesh.create() as made:
        yield made


@pytest.fixture
def istio_namespace() -> Iterator[Namespace]:
    """An empty network namespace in which lo is up."""
    yield from _namespace()


@pytest.fixture(scope="module")
def istio_module_namespace() -> Iterator[Namespace]:
    """The same, one for the tests of a module."""
    yield from _namespace()


@pytest.fixture(scope="session")
def istio_session_namespace() -> Iterator[Namespace]:
    """The same, one for all tests."""
    yield from _namespace()


@pytest.fixture
def istio_mesh() -> Iterator[Mesh]:
    """A mesh to which ``istio_mesh.pod("name")`` adds pods; they reach each other and the rest of the world."""
    yield from _mesh()


@pytest.fixture(scope="module")
def istio_module_mesh() -> Iterator[Mesh]:
    """The same, one for the tests of a module."""
    yield from _mesh()


@pytest.fixture(scope="session")
def istio_session_mesh() -> Iterator[Mesh]:
    """The same, one for all tests."""
    yield from _mesh()


@pytest.fixture
def istio_pod(istio_mesh: Mesh) -> Pod:
    """A pod with an IPv4 and an IPv6 address, to which no rules are applied; the first of ``istio_mesh``."""
    return istio_mesh.pod()


@pytest.fixture(scope="module")
def istio_module_pod(istio_module_mesh: Mesh) -> Pod:
    """The same, one for the tests of a module, in ``istio_module_mesh``; what one of them changes stays changed."""
    return istio_module_mesh.pod()


@pytest.fixture(scope="session")
def istio_session_pod(istio_session_mesh: Mesh) -> Pod:
    """The same, one for all tests, in ``istio_session_mesh``."""
    return istio_session_mesh.pod()
