"""What explain looks at: namespaces however they are named, files, and what may not be read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.command import PROGRAM, environment, execute, istio_init
from support.rules import program

from istio_init.inspector.explain import explain
from istio_init.netfilter.family import Family
from istio_init.observe.namespace import observe
from istio_init.observe.unread import Part
from istio_init.system import places
from istio_init.testing.entering import User
from istio_init.testing.pods import APP, HOSTS
from istio_init.testing.traffic import Endpoint, connect

from .explained import explain_json
from .sidecar import Sidecar

V4, V6 = Family


@pytest.fixture
def pod(untouched: Sidecar) -> Sidecar:
    """A healthy pod that no test changes."""
    return untouched


class TestFiles:
    """Rules of a support bundle, in which nothing else is known."""

    @pytest.fixture
    def saves(self, pod: Sidecar, tmp_path: Path) -> dict[tuple[Family, bool], str]:
        """Paths of the pod's saves, by family and whether they have counters."""
        found = {}
        for family in Family:
            for counted in (True, False):
                path = tmp_path / f"{family.value}-{counted}"
                path.write_text(pod.inside.run(program("nft", family, "save"), *(["-c"] if counted else [])))
                found[family, counted] = str(path)
        return found

    @pytest.mark.parametrize("counted", [True, False], ids=["with counters", "without counters"])
    def test_both_families_are_read(self, pod: Sidecar, saves: dict[tuple[Family, bool], str], counted: bool) -> None:
        said = explain_json("--file", saves[V4, counted], "--file6", saves[V6, counted])

        assert said["argv"] == pod.explain()["argv"]
        assert said["exact"]
        assert said["findings"] == []
        assert all((rule["packets"] is not None) is counted for rule in said["rules"])
        assert len(said["rules"]) == len(pod.explain()["rules"])

    def test_one_family_alone_is_no_half(self, saves: dict[tuple[Family, bool], str]) -> None:
        for flag, family in (("--file", V4), ("--file6", V6)):
            said = explain_json(flag, saves[family, True])
            assert said["families"] == [family.value]
            assert said["findings"] == []

    def test_standard_input_is_read(self, saves: dict[tuple[Family, bool], str]) -> None:
        text = "".join(Path(saves[family, True]).read_text() for family in Family)
        argv = [*PROGRAM, "explain", "--format", "json", "--file", "-"]

        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True, env=environment())

        said = json.loads(done.stdout)
        assert said["target"] == "standard input"
        assert said["families"] == ["ipv4", "ipv6"]

    def test_standard_input_need_not_be_of_the_locale(self) -> None:
        text = b'*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -m comment --comment "\xff\xfe" -j ACCEPT\nCOMMIT\n'
        argv = [*PROGRAM, "explain", "--file", "-"]
        env = environment({"PYTHONIOENCODING": "utf-8:strict"})

        done = subprocess.run(argv, input=text, capture_output=True, check=False, env=env)

        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize(
        ("argv", "status", "words"),
        [
            (["--file", "/nowhere/save"], 2, "/nowhere/save: it cannot be read: No such file"),
            (["--file", os.devnull, "--netns", "x"], 2, "give one of"),
            (["--file", "-", "--file6", "-"], 2, "only one of --file and --file6"),
            (["--expect-file", "/nowhere/expected", "--file", os.devnull], 2, "/nowhere/expected: it cannot be read"),
            (["--pid", "2147483646"], 4, "there is no such process"),
            (["--netns", "nowhere-at-all"], 4, "/run/netns/nowhere-at-all does not exist"),
            (["--format", "xml"], 2, "'xml' is not one of"),
            (["--file", os.devnull, "--watch", "1"], 2, "not with --file"),
        ],
    )
    def test_what_cannot_be_looked_at_is_told(self, argv: list[str], status: int, words: str) -> None:
        done = istio_init("explain", *argv)

        assert (done.status, done.stdout) == (status, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr

    def test_what_is_no_save_is_told_with_its_line(self, tmp_path: Path) -> None:
        file = tmp_path / "save"
        file.write_text("*nat\n:OUTPUT ACCEPT [0:0]\nsomething else\nCOMMIT\n")

        done = istio_init("explain", "--file", str(file))

        assert done.status == 2
        assert "line 3: not a line of iptables-save: 'something else'" in done.stderr


class TestPrivilege:
    """What may not be read is said, and the rest still comes."""

    def test_without_capabilities_the_rest_is_explained(self, pod: Sidecar) -> None:
        bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        inside = ("ip", "netns", "exec", pod.inside.name)

        done = execute(*inside, *bare, *PROGRAM, "explain", "--format", "json").ok()

        said = json.loads(done.stdout)
        assert said["mode"] == "none"
        assert any(line.startswith("nft rules: ") for line in said["unread"])
        assert any(line.startswith("native nftables: ") for line in said["unread"])
        assert said["findings"] == []  # Not that the proxy is bypassed: nobody can tell.
        text = execute(*inside, *bare, *PROGRAM, "explain").ok().stdout
        assert "no redirection, as far as the rules could be read" in text
        assert "not read: nft rules: the kernel's nf_tables cannot be read: permission denied" in text

    def test_an_ordinary_user_is_told_what_was_not_read(self, pod: Sidecar) -> None:
        said = pod.inside.call(lambda: explain(observe(places.HERE)), User(65534, 65534))

        assert {each.part for each in said.snapshot.unread} >= {Part.RULES_NFT, Part.NATIVE}
        assert set(map(str, said.snapshot.addresses)) >= {HOSTS[V4].pod, HOSTS[V6].pod}
        assert {15001, 15006} <= {each.port for each in said.snapshot.listeners}
        assert said.findings == ()

    def test_another_namespace_may_not_be_entered(self, pod: Sidecar) -> None:
        bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")

        done = execute(*bare, *PROGRAM, "explain", "--netns", pod.inside.name)

        assert (done.status, done.stdout) == (5, "")
        assert "it cannot be entered: permission denied" in done.stderr


class TestTargets:
    """The same namespace by process, by name, by path and from inside."""

    def test_every_way_leads_to_the_same(self, pod: Sidecar) -> None:
        by_name = pod.explain()

        for argv in (["--pid", str(pod.proxy.pid)], ["--netns", str(pod.inside.path)]):
            found = explain_json(*argv)
            assert (found["rules"], found["argv"]) == (by_name["rules"], by_name["argv"])
        inside = execute("ip", "netns", "exec", pod.inside.name, *PROGRAM, "explain", "--format", "json").ok()
        found = json.loads(inside.stdout)
        assert (found["target"], found["rules"]) == ("this namespace", by_name["rules"])

    def test_connections_are_those_of_the_namespace(self, healthy: Sidecar) -> None:
        place = places.of_netns(healthy.inside.name)
        before = healthy.inside.call(lambda: observe(place)).connections

        connect(healthy.inside, APP, Endpoint(HOSTS[V4].far, 80))

        assert healthy.inside.call(lambda: observe(place)).connections == before + 2
        place.close()
