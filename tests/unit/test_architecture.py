"""The rules of the house that a reader relies on, checked on the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import istio_init

PACKAGE = Path(istio_init.__file__).parent

ORDER = (
    "base",
    "netfilter",
    "dialects",
    "trace",
    "space",
    "options",
    "config",
    "mesh",
    "plan",
    "wording",
    "system",
    "stores",
    "observe",
    "inspector",
    "prove",
    "report",
    "cli",
    "api",
    "testing",
)
"""The rooms. A module imports only from its own or from those before it."""

BASE = {"__init__", "errors", "value", "visible"}
"""The modules of the first room, which lie beside the others."""

CORE = (
    "config/asked.py",
    "config/downward.py",
    "config/model.py",
    "config/parse.py",
    "config/values.py",
    "dialects",
    "errors.py",
    "inspector",
    "mesh",
    "netfilter",
    "observe/formats.py",
    "observe/manifest.py",
    "observe/netfilter.py",
    "observe/snapshot.py",
    "observe/unread.py",
    "options.py",
    "plan",
    "prove",
    "report",
    "space",
    "system/processes.py",
    "system/spots.py",
    "trace",
    "value.py",
    "visible.py",
    "wording",
)
AT_THE_EDGE = {"prove/live_trace.py", "prove/validation.py"}
"""Modules in the pure rooms that touch the machine."""

IMPURE = {"os", "subprocess", "socket", "_socket", "click", "rich", "pyroute2", "iptc", "ctypes", "fcntl"}

TOUCHING = tuple(f"istio_init.{place}." for place in ("system", "stores", "observe", "prove.validation", "cli"))
"""How names in the places that touch the machine begin."""

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


def core() -> list[Path]:
    """The modules that are pure."""
    assert {name_of(path) for path in modules(*AT_THE_EDGE)} == AT_THE_EDGE
    return [path for path in modules(*CORE) if name_of(path) not in AT_THE_EDGE]


def room_of(part: str) -> str:
    """The room of what lies directly in the package, by its name without a suffix."""
    return "base" if part in BASE else "cli" if part == "__main__" else part


def rooms_imported(path: Path) -> set[str]:
    """The rooms that a module imports from, whenever it does and be it for types alone."""
    found: set[str] = set()
    for name in imported(ast.walk(tree(path))):
        package, *parts = name.split(".")
        if package == "istio_init" and parts:
            there = (PACKAGE / parts[0]).is_dir() or (PACKAGE / f"{parts[0]}.py").exists()
            found.add(room_of(parts[0]) if there else "base")
    return found


def of_each(paths: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Hold a test to each of these modules, and name all that fail: one each would cost more than what it does."""

    def for_all(test: Callable[[Path], None]) -> Callable[[], None]:
        def test_all() -> None:
            wrong = {}
            for path in paths:
                try:
                    test(path)
                except AssertionError as error:
                    wrong[name_of(path)] = str(error)
            assert wrong == {}

        return test_all

    return for_all


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of the modules that are imported."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and not node.level, "an import is written in full"
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


@of_each(core())
def test_the_pure_core_imports_nothing_that_touches_the_machine(path: Path) -> None:
    may_use = {"rich"} if name_of(path).startswith("report/") else set()

    assert {name.partition(".")[0] for name in imported(ast.walk(tree(path)))} & IMPURE <= may_use


@of_each(core())
def test_the_pure_core_runs_without_the_rooms_that_touch_the_machine(path: Path) -> None:
    pure = {f"istio_init.{name_of(each).removesuffix('.py').replace('/', '.')}" for each in core()}
    names = imported(at_runtime(tree(path)))
    of_rooms = {name for name in names if name.startswith(TOUCHING)}

    assert {name for name in of_rooms if name not in pure and name.rpartition(".")[0] not in pure} == set()


def test_a_module_is_in_a_room_that_has_its_place_in_the_order() -> None:
    assert {room_of(Path(name_of(path)).parts[0].removesuffix(".py")) for path in modules()} == set(ORDER)


def test_a_module_imports_only_from_its_own_room_or_from_earlier_ones() -> None:
    late: dict[str, set[str]] = {}
    for path in modules():
        own = ORDER.index(room_of(Path(name_of(path)).parts[0].removesuffix(".py")))
        if later := rooms_imported(path) & set(ORDER[own + 1 :]):
            late[name_of(path)] = later

    assert late == {}


@of_each(modules())
def test_two_modules_start_programs_and_one_more_forks(path: Path) -> None:
    used = attributes(tree(path))
    modules_used = {name.partition(".")[0] for name in imported(ast.walk(tree(path)))}
    starting = {name for name in used if name in SPAWNING or name.startswith(("exec", "spawn"))}
    allowed = {
        "system/process.py": {"posix_spawn"},
        "system/workers.py": {"fork"},
        "system/confined.py": {"fork", "execve"},
    }.get(name_of(path), set())

    kit = {"subprocess", "multiprocessing"} if name_of(path) == "testing/processes.py" else set()

    assert starting <= allowed
    assert modules_used & {"subprocess", "multiprocessing", "pty", "concurrent"} <= kit


@of_each(modules())
def test_one_module_enters_namespaces(path: Path) -> None:
    named = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    allowed = {
        "system/namespaces.py": {"setns", "unshare"},
        "testing/entering.py": {"setns", "unshare"},
    }.get(name_of(path), set())

    assert named & {"setns", "unshare"} <= allowed


@of_each([path for path in modules() if not name_of(path).startswith("cli/")])
def test_only_commands_print_and_exit(path: Path) -> None:
    if name_of(path) in ("stores/iptc_child.py", "__main__.py"):
        return  # Programs of their own.
    called = {
        node.func.id for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }

    assert called & {"print", "exit", "quit", "input"} == set()
    assert "_exit" not in attributes(tree(path)) or name_of(path) in ("system/workers.py", "system/confined.py")


def loaded_by(module: str) -> set[str]:
    """The modules that importing one adds to those of a bare interpreter."""
    script = f"import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_the_drop_in_starts_without_anything_that_its_path_does_not_need() -> None:
    heavy = {"click", "rich", "pyroute2", "iptc", "dataclasses", "subprocess", "logging", "argparse", "json"}

    assert loaded_by("istio_init.cli.dropin") & heavy == set()


def test_the_console_scripts_start_without_the_commands_that_are_not_called() -> None:
    assert (
        loaded_by("istio_init.cli.main") & {"click", "rich", "pyroute2", "istio_init.cli.app", "istio_init.cli.dropin"}
        == set()
    )


def test_the_command_group_loads_no_command_before_it_is_called() -> None:
    loaded = loaded_by("istio_init.cli.app")

    assert "click" in loaded
    assert loaded & {"rich", "pyroute2", "iptc", "istio_init.cli.apply", "istio_init.stores.programmer"} == set()


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


@of_each(modules())
def test_every_module_says_what_it_is_for(path: Path) -> None:
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree(path))
