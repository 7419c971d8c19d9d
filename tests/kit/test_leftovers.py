"""Where a run without root notes that it lives: in a directory that nobody else can have had a hand in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from istio_init.testing import Unavailable, leftovers


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everybody may make files, for an ordinary user without a directory of their own."""
    monkeypatch.setattr(leftovers, "is_root", lambda: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path


@pytest.fixture
def place(temporary: Path) -> Path:
    """The directory that such a user's run makes there."""
    return temporary / f"{leftovers.PREFIX}-{os.geteuid()}"


def make_token() -> str:
    """What a process's first namespace does."""
    return leftovers.token.__wrapped__()


def test_the_directory_is_the_users_alone(place: Path) -> None:
    token = make_token()
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in place.iterdir()} == {"all", token}


def test_a_directory_of_the_users_own_is_preferred(
    temporary: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = temporary / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert leftovers.directory() == runtime / leftovers.PREFIX
    assert not place.exists()


@pytest.mark.parametrize("runtime", ["", "relative", "/nonexistent", "/proc/self/exe", "/usr"])
def test_what_is_no_such_directory_is_not_used(place: Path, monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert leftovers.directory() == place


def link(place: Path, victim: Path) -> None:
    victim.mkdir(mode=0o700)
    place.symlink_to(victim)


def let_everybody_write(place: Path, victim: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def give_away(place: Path, victim: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)


def make_a_file(place: Path, victim: Path) -> None:
    place.touch()


@pytest.mark.parametrize("prepare", [link, let_everybody_write, give_away, make_a_file])
def test_what_somebody_else_put_there_is_not_used(
    temporary: Path, place: Path, prepare: Callable[[Path, Path], None]
) -> None:
    victim = temporary / "victim"
    prepare(place, victim)
    with pytest.raises(Unavailable, match="is not a directory of user"):
        make_token()
    assert not victim.exists() or not list(victim.iterdir())


def test_no_link_is_followed_and_no_file_emptied(temporary: Path, place: Path) -> None:
    victim = temporary / "victim"
    victim.write_text("dear")
    place.mkdir(mode=0o700)
    (place / "all").symlink_to(victim)
    (place / "another").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        make_token()
    (place / "all").unlink()
    make_token()
    assert victim.read_text() == "dear"


def test_what_a_dead_run_had_below_etc_is_removed(place: Path) -> None:
    living = make_token()
    for token in ("dead", living):
        (place / f"{leftovers.PREFIX}-{token}-1-pod").mkdir()
    make_token()
    assert [path.name for path in place.iterdir() if path.is_dir()] == [f"{leftovers.PREFIX}-{living}-1-pod"]
