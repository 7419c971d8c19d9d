"""What ps lists of a node."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.command import PROGRAM, execute, istio_init

from istio_init.inspector.explain import explain
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.observe.unread import Part, Unread
from istio_init.report.ps_row import ps_row
from istio_init.system.pods import PodNamespace, parse_cgroup
from istio_init.system.processes import Process
from istio_init.testing.namespaces import Namespace

from .sidecar import Sidecar
from .test_inference import ambient, explained

V4, V6 = Family
UNIQUE = f"shop-{secrets.token_hex(4)}"
ID = "".join(f"{number:02x}" for number in range(32))
OTHER = ID[:12] + "f" * 52

TAKES = r"entering or reading \d+ network namespaces?, which takes SYS_ADMIN and NET_ADMIN, is denied"


def rows() -> dict[int, dict[str, Any]]:
    """What ps says, by the inode of the namespace."""
    said = json.loads(istio_init("ps", "--format", "json").ok().stdout)
    return {row["inode"]: row for row in said["namespaces"]}


def inode(namespace: Namespace) -> int:
    return namespace.path.stat().st_ino


@pytest.fixture(scope="module")
def node(both_backends: None) -> Iterator[dict[str, Sidecar | Namespace]]:
    """Namespaces in every state."""
    with ExitStack() as stack:
        captured = stack.enter_context(Sidecar.create("--dual-stack"))
        legacy = stack.enter_context(Sidecar.create("-m", "TPROXY", backend="legacy", families=(V4,)))
        broken = stack.enter_context(Sidecar.create(families=(V4,)))
        broken.proxy.kill()
        bare = stack.enter_context(Namespace.create("bare"))
        bare.spawn("sleep", "300")
        empty = stack.enter_context(Namespace.create("empty"))
        yield {"captured": captured, "legacy": legacy, "broken": broken, "bare": bare, "empty": empty}


@pytest.fixture(scope="module")
def pods(node: dict[str, Sidecar | Namespace]) -> Iterator[dict[str, int]]:
    """Processes that say which pods they are of, two of which say the same."""
    broken = node["broken"]
    assert isinstance(broken, Sidecar)
    with ExitStack() as stack:
        one, two = (stack.enter_context(Namespace.create(label)) for label in ("one", "two"))
        said = ("payment", broken.inside, "payment-7f9c"), ("twin", one, "twin"), ("other", two, "twin")
        yield {
            key: place.spawn("sleep", "300", env={"POD_NAME": name, "POD_NAMESPACE": UNIQUE}).pid
            for key, place, name in said
        }


class TestList:
    """A line for each network namespace in which a process lives."""

    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("captured", (["10.77.0.2", "fd00:77::2"], "redirect", "nft", "captured", 0)),
            ("legacy", (["10.77.0.2"], "tproxy", "legacy", "captured", 0)),
            ("broken", (["10.77.0.2"], "redirect", "nft", "broken", 1)),
            ("bare", ([], "-", "-", "not captured", 0)),
        ],
    )
    def test_each_namespace_is_told_with_its_state(
        self, node: dict[str, Sidecar | Namespace], name: str, wanted: tuple[object, ...]
    ) -> None:
        place = node[name]

        row = rows()[inode(place.inside if isinstance(place, Sidecar) else place)]

        assert tuple(row[key] for key in ("addresses", "mode", "backend", "state", "findings")) == wanted
        assert row["container"] is None
        assert row["error"] is None
        if isinstance(place, Sidecar):
            oldest = place.app if name == "broken" else place.proxy
            assert (row["pid"], row["process"]) == (oldest.pid, "app" if name == "broken" else "envoy")

    def test_a_namespace_without_a_process_is_not_listed(self, node: dict[str, Sidecar | Namespace]) -> None:
        empty = node["empty"]
        assert isinstance(empty, Namespace)

        assert inode(empty) not in rows()

    def test_the_own_namespace_is_listed(self, real_kernel: None) -> None:
        assert os.stat("/proc/self/ns/net").st_ino in rows()

    def test_the_text_has_one_line_for_each(self, node: dict[str, Sidecar | Namespace]) -> None:
        captured, broken = node["captured"], node["broken"]
        assert isinstance(captured, Sidecar) and isinstance(broken, Sidecar)

        shown = istio_init("ps").ok().stdout

        heading, *lines = shown.rstrip("\n").split("\n")
        assert heading.split() == [
            "NAMESPACE",
            "POD",
            "PID",
            "STATE",
            "MODE",
            "STORE",
            "OUTBOUND",
            "INBOUND",
            "FINDING",
        ]
        by_pid = {line.split()[2]: line.split() for line in lines}
        pid = str(captured.proxy.pid)
        assert by_pid[pid] == ["-", "(envoy)", pid, "captured", "redirect", "nft", "proxied", "proxied", "-"]
        refused = by_pid[str(broken.app.pid)]
        assert refused[3:] == ["broken", "redirect", "nft", "refused", "refused", "no-listener"]
        assert lines.index(next(each for each in lines if " broken " in each)) == 0
        assert [line for line in (heading, *lines) if line != line.rstrip() or "\x1b" in line] == []

    def test_what_may_not_be_read_is_told_as_such(self, real_kernel: None) -> None:
        done = execute("setpriv", "--bounding-set=-all", "--inh-caps=-all", *PROGRAM, "ps", "--format", "json")

        assert done.status == 5
        assert re.search(TAKES, done.stderr)
        assert "which takes SYS_PTRACE" in done.stderr
        [row] = [each for each in json.loads(done.stdout)["namespaces"]
                 if each["inode"] == os.stat("/proc/self/ns/net").st_ino]  # fmt: skip
        assert row["state"] == "unknown"
        assert "nft rules: the kernel's nf_tables cannot be read: permission denied" in row["error"]

    def test_a_pod_of_an_ambient_mesh_is_captured(self) -> None:
        pod = PodNamespace(1, (Process(7, "app", 1000, 1000),), ID)

        row = ps_row(pod, explained(ambient(V4)))

        assert (row.mode, row.backend, row.state, row.container) == ("ambient", "nft", "captured", ID)

    def test_rules_that_could_not_be_read_leave_the_state_open(self) -> None:
        snapshot = Snapshot("x", {}, unread=(Unread(Part.RULES_NFT, "refused"),), partial=frozenset(Family))

        row = ps_row(PodNamespace(1, (Process(7, "app", 1000, 1000),), None), explain(snapshot))

        assert (row.state, row.error) == ("unknown", "nft rules: refused")


class TestNames:
    """Pods by name, what they are filtered by, and an exit status for a check."""

    def test_names_are_listed_and_one_of_two_is_marked(self, pods: dict[str, int]) -> None:
        done = istio_init("ps", "--namespace", UNIQUE).ok()

        assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
            [UNIQUE, "payment-7f9c"],
            [UNIQUE, "twin"],
            [UNIQUE, "twin"],
        ]
        assert done.stdout.count("twin (?)") == 2
        pids = ", ".join(str(pods[name]) for name in ("twin", "other"))
        assert f"{UNIQUE}/twin: claimed in several network namespaces, so no name for one: pid {pids}" in done.stderr

    @pytest.mark.parametrize(
        ("words", "names", "status"),
        [
            (["--state", "broken"], ["payment-7f9c"], 0),
            (["--state", "broken", "--check"], ["payment-7f9c"], 3),
            (["--code", "no-listener"], ["payment-7f9c"], 0),
            (["--code", "half-applied", "--check"], [], 0),
            (["--state", "not-captured", "--state", "unknown", "--check"], ["twin", "twin"], 0),
        ],
    )
    def test_filters_and_the_check(self, pods: dict[str, int], words: list[str], names: list[str], status: int) -> None:
        done = istio_init("ps", "--namespace", UNIQUE, "--output", "json", *words)

        said = json.loads(done.stdout)["namespaces"]
        assert [row["pod"] for row in said] == names
        assert done.status == status

    def test_a_code_that_there_is_not_is_refused(self) -> None:
        done = istio_init("ps", "--code", "no-listner")

        assert (done.status, done.stdout) == (2, "")
        assert "did you mean no-listener?" in done.stderr

    def test_results_go_to_a_file(self, pods: dict[str, int], tmp_path: Path) -> None:
        path = tmp_path / "rows.json"
        done = istio_init("ps", "--namespace", UNIQUE, "-ojson", "--output-file", str(path)).ok()
        denied = istio_init("ps", "--output-file", str(tmp_path / "no" / "such"))

        assert done.stdout == ""
        assert len(json.loads(path.read_text())["namespaces"]) == 3
        assert denied.status == 2
        assert "it cannot be written: No such file or directory" in denied.stderr

    def test_a_file_of_rules_that_are_no_text_is_written_byte_by_byte(self, tmp_path: Path) -> None:
        save, path = tmp_path / "rules.save", tmp_path / "again.save"
        save.write_bytes(b'*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment "\xff" -j DROP\nCOMMIT\n')
        istio_init("explain", str(save), "--format", "save", "--output-file", str(path)).ok()

        assert b"\xff" in path.read_bytes()


class TestVanishing:
    """Namespaces come and go while they are listed."""

    def test_the_next_process_stands_in_for_one_that_ended(self, real_kernel: None) -> None:
        from istio_init.cli.node import _enterable

        with Namespace.create("two") as namespace:
            here = namespace.spawn("sleep", "300").pid
            gone, elsewhere = Process(2**22 - 1, "gone", 0, 0), Process(os.getpid(), "elsewhere", 0, 0)
            processes = (gone, elsewhere, Process(here, "sleep", 0, 0))

            place = _enterable(PodNamespace(inode(namespace), processes, None))
            assert place is not None
            place.close()
            assert place.label == f"pid {here}"
            assert _enterable(PodNamespace(inode(namespace), (gone, elsewhere), None)) is None


CGROUPS = [
    ("0::/\n", None),
    ("", None),
    ("0::/user.slice/user-0.slice/session-1.scope\n", None),
    (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", ID),
    (f"0::/kubepods/besteffort/pod8c7e/{ID}\n", ID),
    (f"0::/system.slice/docker-{ID}.scope\n", ID),
    (f"0::/machine.slice/libpod-{ID}.scope/container\n", ID),
    (f"12:memory:/kubepods/pod1/{ID}\n11:cpu,cpuacct:/kubepods/pod1/{ID}\n1:name=systemd:/kubepods/pod1/{ID}\n", ID),
    (f"1:name=systemd:/kubepods/pod1/{ID}\n0::/\n", ID),
    (f"4:memory:/docker/{OTHER}/kubepods/pod1/{ID}\n", ID),
    (f"4:memory:/kubepods/pod1/{ID}/{OTHER}\n", ID),
    (f"0::/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{ID}.scope/kubepods/{OTHER}\n", ID),
    (f"2:cpu:/{OTHER}\n1:memory:/kubepods/pod1/{ID}\n0::/{OTHER}\n", ID),
    (f"0::/docker/{OTHER}/docker/{ID}\n", ID),
    (f"0::/kubepods/crio-{ID}.scope/crio-conmon\n", ID),
    (f"0::/kubepods/{ID[:40]}\n", None),
    (f"0::/kubepods/{ID.upper()}\n", None),
]


@pytest.mark.parametrize(("text", "wanted"), CGROUPS, ids=lambda value: str(value).strip()[:40] or "empty")
def test_the_container_is_the_first_of_the_kubelets_else_the_innermost_that_the_cgroups_name(
    text: str, wanted: str | None
) -> None:
    assert parse_cgroup(text) == wanted


def _cgroup_root() -> Path | None:
    """Where control groups of version 2 can be made."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(",") and os.access(where, os.W_OK):
            return Path(where)
    return None


ROOT = _cgroup_root()

if ROOT is not None:

    class TestRealContainer:
        """A process in a control group that is named as a container runtime names them."""

        @pytest.fixture
        def join(self) -> Iterator[Callable[[int], str]]:
            """Puts a process into a container of its own, and tells its id."""
            made: list[Path] = []

            def join(pid: int) -> str:
                container = secrets.token_hex(32)
                made.append(Path(str(ROOT), f"cri-containerd-{container}.scope"))
                made[-1].mkdir()
                (made[-1] / "cgroup.procs").write_text(str(pid))
                return container

            yield join
            for path in made:
                for pid in (path / "cgroup.procs").read_text().split():
                    Path(str(ROOT), "cgroup.procs").write_text(pid)
                path.rmdir()

        def test_it_is_listed_and_found_by_its_container(self, real_kernel: None, join: Callable[[int], str]) -> None:
            with Sidecar.create("--dual-stack") as pod:
                container, _ = join(pod.proxy.pid), join(pod.app.pid)

                row = rows()[inode(pod.inside)]
                shown = istio_init("ps", "-o", "wide").ok().stdout
                for target in (container, container[:12]):
                    done = istio_init("explain", target, "--format", "json").ok()
                    assert json.loads(done.stdout)["target"] == f"pid {pod.proxy.pid}"
                    assert json.loads(done.stdout)["mode"] == "REDIRECT"

            assert row["container"] == container
            assert row["pid"] == pod.proxy.pid
            assert f" {container} " in shown
