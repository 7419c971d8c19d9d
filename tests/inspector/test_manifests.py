"""A pod by its manifest: found on this node, looked at, compared with what it asks for, and proved."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import istio_init
from support.injected import TRAFFIC, arguments, by_init_container
from support.privileges import need_sight_of_all

from istio_init.netfilter.family import Family
from istio_init.testing.namespaces import Namespace

from .sidecar import Sidecar

ADDRESS = f"10.214.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""Other pods of tests have the usual one."""

TRACED = ("outbound", "tcp", "198.51.100.1:3306")
LET_PAST = {f"{TRAFFIC}excludeOutboundPorts": "3306"}


@pytest.fixture(scope="module")
def sidecar(real_kernel: None) -> Iterator[Sidecar]:
    """A pod that excludes nothing outbound."""
    with Sidecar.create(*arguments({}), families=(Family.IPV4,)) as made:
        made.inside.run("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo")
        yield made


@pytest.fixture
def asked(tmp_path: Path) -> str:
    """The manifest of the pod as it was programmed."""
    return written(tmp_path / "pod.json", by_init_container({}, {}))


def written(path: Path, made: dict[str, Any], address: str = ADDRESS) -> str:
    """A manifest of a pod with this address, in a file."""
    made["status"]["podIP"], made["status"]["podIPs"] = address, [{"ip": address}]
    path.write_text(json.dumps(made))
    return str(path)


def other(path: Path) -> str:
    """The manifest of the same pod, with an exclusion that its rules have not."""
    return written(path / "other.json", by_init_container(LET_PAST, {"-o": "3306"}))


def test_it_is_found_and_traced_and_mapped(sidecar: Sidecar, asked: str) -> None:
    where = f"pid {sidecar.proxy.pid}"
    traced = istio_init("trace", *TRACED, "--pod", asked).ok().stdout
    mapped = istio_init("map", "--pod", asked).ok().stdout

    assert traced.startswith(f"{where}: outbound tcp") and "=> proxied to port 15001" in traced
    assert mapped.startswith(where)


@pytest.mark.kernel
def test_a_pod_that_has_what_names_another_is_not_taken_for_it(sidecar: Sidecar, tmp_path: Path) -> None:
    """Nor by what of the other is gone by now, as a container that has ended."""
    second = ADDRESS.replace("10.214", "10.215")
    path = Path(written(tmp_path / "pod.json", by_init_container({}, {})))
    made = json.loads(path.read_text())
    made["status"]["podIPs"].append({"ip": second})
    path.write_text(json.dumps(made))
    with Namespace.create("claims") as namespace:
        claims = namespace.spawn("sleep", "300").pid
        for address in (ADDRESS, second):
            namespace.run("ip", "addr", "add", f"{address}/32", "dev", "lo")

        done = istio_init("explain", "--pod", str(path))

    assert done.status == 4 and "could be several things" in done.stderr
    for pid in (claims, sidecar.proxy.pid):
        assert f"--pid {pid}: a namespace with this address" in done.stderr


def test_it_is_compared_with_what_it_asks_for(sidecar: Sidecar, asked: str, tmp_path: Path) -> None:
    same = istio_init("diff", "--pod", asked)
    differs = istio_init("diff", "--pod", other(tmp_path))
    named = istio_init("diff", "--pod", other(tmp_path), sidecar.inside.name)
    planned = istio_init("diff", "--pod", other(tmp_path), shlex.join(arguments({"-o": "3306"})))

    assert (same.status, same.stdout) == (0, "equal: every new connection has the same outcome\n")
    assert "outbound, ipv4: direct in A, proxied to port 15001 in B\n" in differs.stdout
    assert "port 3306" in differs.stdout and differs.status == named.status == 3
    assert planned.status == 0


def test_it_is_held_to_what_it_asks_for(sidecar: Sidecar, asked: str, tmp_path: Path) -> None:
    proved = istio_init("verify", "--pod", asked)
    failed = istio_init("verify", "--pod", other(tmp_path), "--format", "json")

    assert proved.status == 0 and "compared with what is expected:" in proved.stdout
    assert failed.status == 126
    said = json.loads(failed.stdout)
    assert "-o" in said["held_to"]["argv"]
    assert [each["packet"]["dport"] for each in said["probes"] if not each["passed"]] == [3306]


def test_a_pod_that_asks_for_nothing_has_nothing_to_prove(sidecar: Sidecar, tmp_path: Path) -> None:
    mode = "sidecar.istio.io/interceptionMode"
    made = by_init_container({mode: "NONE"}, {})
    made["spec"]["initContainers"] = []
    manifest = written(tmp_path / "none.json", made)

    refused = istio_init("verify", "--pod", manifest)
    sidecar.inside.run("nft", "flush", "ruleset")
    try:
        nothing = istio_init("verify", "--pod", manifest)
    finally:
        sidecar.apply("--force-iptables-binary", "nft", *arguments({}))

    assert refused.status == 126 and "the pod asked for no redirection" in refused.stderr
    assert nothing.status == 0 and "nothing to prove" in nothing.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("trace", *TRACED, "--netns", "shop"),
        ("map", "shop"),
        ("trace", *TRACED, "--expect", "-i '*'"),
        ("verify", "--expect", "-i '*'"),
        ("diff", "shop", "shop"),
    ],
)
def test_it_is_one_thing_that_is_looked_at(asked: str, words: tuple[str, ...]) -> None:
    need_sight_of_all()
    done = istio_init(*words, "--pod", asked)

    assert done.status == 2 and "--pod" in done.stderr


def test_of_a_pod_elsewhere_the_rules_that_it_asks_for_can_be_asked(tmp_path: Path) -> None:
    need_sight_of_all()
    manifest = written(tmp_path / "pod.json", by_init_container({}, {}), "10.215.0.1")

    done = istio_init("trace", *TRACED, "--pod", manifest)

    assert done.status == 4
    assert f'--expect "$(istio-init render --pod {manifest} --format args)"' in " ".join(done.stderr.split())
    line = istio_init("render", "--pod", manifest, "--format", "args").ok().stdout.strip()
    assert "proxied to port 15001" in istio_init("trace", *TRACED, "--expect", line).ok().stdout


def test_a_file_cannot_be_proved_and_the_answer_says_what_can_be_done_with_it() -> None:
    done = istio_init("verify", "--file", "pod.tar")

    assert done.status == 2
    assert "istio-init explain --file pod.tar" in done.stderr
