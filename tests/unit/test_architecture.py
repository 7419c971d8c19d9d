"""The rules of the house that a reader relies on, checked on the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import istio_init

PACKAGE = Path(istio_init.__file__).parent

CORE = (
    "config/model.py",
    "config/parse.py",
    "config/values.py",
    "dialects",
    "errors.py",
    "inspector",
    "model",
    "options.py",
    "plan",
    "policy",
    "report",
    "roles",
    "trace",
    "verify",
)
IMPURE = {"os", "subprocess", "socket", "_socket", "click", "rich", "psutil", "pyroute2", "iptc", "ctypes", "fcntl"}

SPAWNING = {"posix_spawn", "posix_spawnp", "system", "popen", "fork", "forkpty", "startfile"}


def modules(*places: str) -> list[Path]:
    """Source files, by folder or by name; all of them if none is named."""
    found: list[Path] = []
    for place in places or ("",):
        path = PACKAGE / place
        assert path.exists(), f"{place} is gone: name what took its place"
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of the modules that are imported."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def at_runtime(module: ast.Module) -> Iterator[ast.AST]:
    """Every node but those that only type checkers see."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def attributes(module: ast.Module) -> set[str]:
    """What is taken from ``os``, as ``os.NAME`` or imported from it."""
    used = {
        node.attr
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "posix")
    }
    return used | {name.rpartition(".")[2] for name in imported(ast.walk(module)) if name.startswith(("os.", "posix."))}


@pytest.mark.parametrize("path", modules(*CORE), ids=name_of)
def test_the_pure_core_imports_nothing_that_touches_the_machine(path: Path) -> None:
    may_use = {"rich"} if name_of(path).startswith("report/") else set()

    assert {name.partition(".")[0] for name in imported(ast.walk(tree(path)))} & IMPURE <= may_use


@pytest.mark.parametrize("path", modules(*CORE), ids=name_of)
def test_the_pure_core_runs_without_the_rooms_that_touch_the_machine(path: Path) -> None:
    rooms = {".".join(name.split(".")[:2]) for name in imported(at_runtime(tree(path)))}

    assert (
        rooms & {f"istio_init.{room}" for room in ("kernel", "backends", "cli", "programmer", "surroundings")} == set()
    )


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_one_module_starts_programs_and_one_forks(path: Path) -> None:
    used = attributes(tree(path))
    modules_used = {name.partition(".")[0] for name in imported(ast.walk(tree(path)))}
    starting = {name for name in used if name in SPAWNING or name.startswith(("exec", "spawn"))}
    allowed = {
        "kernel/process.py": {"posix_spawn"},
        "kernel/workers.py": {"fork"},
    }.get(name_of(path), set())

    kit = {"subprocess", "multiprocessing"} if name_of(path) == "testing/processes.py" else set()

    assert starting <= allowed
    assert modules_used & {"subprocess", "multiprocessing", "pty", "concurrent"} <= kit


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_one_module_enters_namespaces(path: Path) -> None:
    named = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    allowed = {
        "kernel/namespaces.py": {"setns", "unshare"},
        "testing/entering.py": {"setns", "unshare"},
    }.get(name_of(path), set())

    assert named & {"setns", "unshare"} <= allowed


@pytest.mark.parametrize("path", [path for path in modules() if not name_of(path).startswith("cli/")], ids=name_of)
def test_only_commands_print_and_exit(path: Path) -> None:
    if name_of(path) in ("backends/iptc_child.py", "__main__.py"):
        return  # Programs of their own.
    called = {
        node.func.id for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }

    assert called & {"print", "exit", "quit", "input"} == set()
    assert "_exit" not in attributes(tree(path)) or name_of(path) == "kernel/workers.py"


def loaded_by(module: str) -> set[str]:
    """The modules that importing one adds to those of a bare interpreter."""
    script = f"import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_the_drop_in_starts_without_anything_that_its_path_does_not_need() -> None:
    heavy = {"click", "rich", "psutil", "pyroute2", "iptc", "dataclasses", "subprocess", "logging", "argparse", "json"}

    assert loaded_by("istio_init.cli.dropin") & heavy == set()


def test_the_console_scripts_start_without_the_commands_that_are_not_called() -> None:
    assert (
        loaded_by("istio_init.cli.main") & {"click", "rich", "pyroute2", "istio_init.cli.app", "istio_init.cli.dropin"}
        == set()
    )


def test_the_command_group_loads_no_command_before_it_is_called() -> None:
    loaded = loaded_by("istio_init.cli.app")

    assert "click" in loaded
    assert loaded & {"rich", "psutil", "pyroute2", "iptc", "istio_init.cli.apply", "istio_init.programmer"} == set()


def test_the_pytest_plugin_costs_test_runs_without_namespaces_next_to_nothing() -> None:
    of_ours = {name for name in loaded_by("istio_init.testing.plugin") if name.startswith("istio_init.")}

    assert of_ours == {"istio_init.testing", "istio_init.testing.plugin"}


def test_only_the_pytest_plugin_needs_pytest() -> None:
    needing = [
        name_of(path)
        for path in modules()
        if {name.partition(".")[0] for name in imported(ast.walk(tree(path)))} & {"pytest", "_pytest"}
    ]

    assert needing == ["testing/plugin.py"]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree(path))
