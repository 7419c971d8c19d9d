"""The wheel, the sdist and the zipapp: what is in them, and that they work where nothing else is installed."""

from __future__ import annotations

import datetime
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator

import pytest
from support.built import EPOCH, ROOT, Built
from support.command import INJECTED, Result, environment

from istio_init import __version__
from istio_init.testing import Pod

SYSTEM_ONLY = (sys.executable, "-I", "-S")
"""An interpreter that finds what it brings itself, and nothing that was installed for it."""
EPOCHS_DATE = datetime.datetime.fromtimestamp(EPOCH, datetime.UTC).timetuple()[:6]


def run(*argv: object) -> Result:
    words = list(map(str, argv))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment(), check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def tracked() -> list[str]:
    """The files of the project; what has been unpacked from an archive cannot tell."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout of git")
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def pod() -> Iterator[Pod]:
    with Pod.create() as made:
        yield made


@pytest.mark.kernel
class TestZipapp:
    """One file for a node that has nothing but Python."""

    def test_it_says_its_version(self, built: Built) -> None:
        assert run(*SYSTEM_ONLY, built.pyz, "--version").ok().stdout == f"istio-init {__version__}\n"

    def test_it_programs_explains_proves_and_cleans_a_namespace(self, built: Built, pod: Pod) -> None:
        def ours(verb: str, *words: str) -> str:
            return run(*SYSTEM_ONLY, built.pyz, verb, "--netns", pod.name, *words).ok().stdout

        assert "applied (nft" in ours("apply")
        assert "refused, as nothing listens on port 15001" in ours("explain")
        assert "\nproved: " in ours("verify")
        assert "cleaned (nft" in ours("clean")

    def test_routing_changes_from_within_it(self, built: Built, pod: Pod) -> None:
        argv = (*SYSTEM_ONLY, built.pyz, "apply", "--netns", pod.name, "-m", "TPROXY")
        run(*argv).ok()
        assert "fwmark 0x539" in pod.inside.run("ip", "rule")

    def test_without_python_iptables_the_legacy_programs_write(self, built: Built, pod: Pod) -> None:
        argv = (*SYSTEM_ONLY, built.pyz, "apply", "--netns", pod.name, "--force-iptables-binary", "legacy", "-v")
        assert "iptables-legacy-restore (python-iptables is not installed)" in run(*argv).ok().stdout
        assert "ISTIO_REDIRECT" in pod.inside.run("iptables-legacy-save", "-t", "nat")

    def test_it_is_the_drop_in_too(self, built: Built, pod: Pod) -> None:
        enter = ("ip", "netns", "exec", pod.name)
        assert "applied (nft" in run(*enter, *SYSTEM_ONLY, built.pyz, "istio-iptables", *INJECTED).ok().stderr

    def test_an_older_python_is_told_what_is_needed(self, built: Built) -> None:
        old = (
            f"import runpy, sys; sys.version_info = (3, 9, 2); runpy.run_path({str(built.pyz)!r}, run_name='__main__')"
        )
        done = run(*SYSTEM_ONLY, "-c", old)
        assert (done.status, done.stderr) == (1, "istio-init needs Python 3.11 or later; this is 3.9\n")


class TestContents:
    """Complete, and the same whoever builds it and when."""

    def test_the_sdist_has_every_file_of_the_project(self, built: Built) -> None:
        listed = tracked()
        with tarfile.open(built.sdist) as archive:
            inside = {name.partition("/")[2] for name in archive.getnames()}
        assert set(listed) - inside - {".gitignore"} == set()

    def test_the_wheel_has_every_file_of_the_package(self, built: Built) -> None:
        with zipfile.ZipFile(built.wheel) as wheel:
            assert {each for each in tracked() if each.startswith("istio_init/")} - {*wheel.namelist()} == set()

    def test_a_wheel_of_the_sdist_is_the_wheel(self, built: Built) -> None:
        with tarfile.open(built.sdist) as archive, zipfile.ZipFile(built.wheel) as wheel:
            inside = {name.partition("/")[2] for name in archive.getnames()}
            modules = {name for name in wheel.namelist() if name.startswith("istio_init/")}
        assert modules <= inside

    def test_everything_in_them_is_of_one_time_and_one_owner(self, built: Built) -> None:
        for path in (built.wheel, built.pyz):
            with zipfile.ZipFile(path) as archive:
                assert {each.date_time for each in archive.infolist()} == {EPOCHS_DATE}
        with zipfile.ZipFile(built.pyz) as pyz:
            assert not any(name.endswith("/RECORD") for name in pyz.namelist()), "it says where it was built"
        with tarfile.open(built.sdist) as sdist:
            assert {(each.mtime, each.uid, each.uname) for each in sdist.getmembers()} == {(EPOCH, 0, "root")}

    def test_what_is_needed_is_pure_python(self, built: Built) -> None:
        with zipfile.ZipFile(built.wheel) as wheel:
            [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            text = wheel.read(metadata).decode()
        needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", text, re.MULTILINE)
        assert sorted(needed) == ["PyYAML", "click", "pyroute2", "rich"]  # PyYAML without its compiled part, too.
        assert 'Requires-Dist: python-iptables>=1.2; extra == "legacy"' in text

    def test_the_wheel_brings_the_manual_pages(self, built: Built) -> None:
        with zipfile.ZipFile(built.wheel) as wheel:
            pages = {name.rpartition("/")[2] for name in wheel.namelist() if "/share/man/man1/" in name}
        assert pages == {"istio-init.1", "istio-iptables.1"}


def test_links_and_pictures_lead_somewhere_on_an_index_page() -> None:
    build = runpy.run_path(str(ROOT / "scripts" / "build"))
    home = "https://git.example.com/mesh/istio-init"
    page = build["at_home"]((ROOT / "README.md").read_text(encoding="utf-8"), home, "1.2.3")

    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert len(targets) > 15
    assert all(target.startswith(("https://", "#")) for target in targets)
    assert f"]({home}/raw/v1.2.3/docs/explain.svg)" in page
    assert f"]({home}/blob/v1.2.3/docs/kubernetes.md)" in page
    for kind in re.findall(rf"{home}/(?:raw|blob)/v1.2.3/([^)#]+)", page):
        assert (ROOT / kind).exists()
    assert f"url = {home}\n" in build["with_urls"]((ROOT / "setup.cfg").read_text(), home)
