"""What the tests need of the machine. In CI everything is installed, and a skipped test is a failure."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Generator, Iterator

import pytest
from support.built import Built, built_in
from support.rules import BACKENDS, program

from istio_init.cli.main import SELDOM
from istio_init.netfilter.family import Family
from istio_init.testing import namespaces
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod
from istio_init.testing.processes import CommandError

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in what a shell starts in the background: what the tests interrupt would never hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROGRAMS = ("ip", "nft", "setpriv", "ss", "sysctl", "unshare")

NEEDS = {
    "real_kernel": "kernel",
    "as_root": "kernel",
    "istio_namespace": "kernel",
    "istio_mesh": "kernel",
    "backend": "x_tables",
    "both_backends": "x_tables",
    "envoy": "envoy",
}
"""What a test needs of the machine, by a fixture that it uses, itself or through another."""

FIGURES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, as their fixtures tell it."""
    for item in items:
        for name in NEEDS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(NEEDS[name])
        if item.get_closest_marker("x_tables") or item.get_closest_marker("envoy"):
            item.add_marker("kernel")


def pytest_collection_finish() -> None:
    """Collect garbage as seldom as the program does, and never look through what is there for the whole run."""
    gc.set_threshold(*SELDOM)
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """The same of a test whose fixtures, those of its module among them, make one."""
    before = namespaces.made()
    yield
    _check_its_mark(item, before)


@pytest.fixture(autouse=True)
def says_what_it_needs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that makes a namespace and is not marked so: ``scripts/test --fast`` would try it without root."""
    before = namespaces.made()
    yield
    _check_its_mark(request.node, before)


def _check_its_mark(item: pytest.Item, before: int) -> None:
    if namespaces.made() != before and item.get_closest_marker("kernel") is None:
        pytest.fail("this makes a network namespace: use a fixture that does, or pytest.mark.kernel", pytrace=False)


@pytest.fixture(scope="session")
def real_kernel() -> None:
    """Skip where namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("tests against the kernel need root")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"tests against the kernel need {', '.join(missing)}")
    try:
        with Namespace.create("probe"):
            pass
    except CommandError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")


def need(backend: str) -> None:
    """Skip where a backend does not work."""
    with Namespace.create("probe") as namespace:
        for family in Family:
            try:
                namespace.run(program(backend, family), "-w", "-t", "nat", "-L", "-n")
            except CommandError as error:
                pytest.skip(f"{backend} does not work here: {error}")


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest, real_kernel: None) -> str:
    """Each backend that works here."""
    name: str = request.param
    need(name)
    return name


@pytest.fixture(scope="session")
def both_backends(real_kernel: None) -> None:
    """Skip where one of the two does not work."""
    for name in BACKENDS:
        need(name)


@pytest.fixture
def pod(real_kernel: None) -> Iterator[Pod]:
    """A dual-stack pod that nothing was applied to."""
    with Pod.create() as made:
        yield made


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """What is handed out, made once in all processes."""
    own = tmp_path_factory.getbasetemp()
    return built_in(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines for the end of the run."""
    return request.config.stash.setdefault(FIGURES, [])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the figures of one of several processes over to the one that prints."""
    handed: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if handed is not None:
        handed["figures"] = session.config.stash.get(FIGURES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take them over."""
    handed = getattr(node, "workeroutput", {}).get("figures", [])
    node.config.stash.setdefault(FIGURES, []).extend(handed)  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures."""
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        for line in sorted(lines):
            terminalreporter.write_line(line)
