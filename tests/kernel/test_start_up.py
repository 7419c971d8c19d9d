"""What a pod's start costs: the programs that a run starts, the modules that it imports, and the image's short cut."""

from __future__ import annotations

import json
import marshal
import sys
from pathlib import Path

import pytest
from support.command import INJECTED, execute

from istio_init.cli.app import run
from istio_init.cli.dropin import run as drop_in
from istio_init.errors import ToolError
from istio_init.plan.native import holds, resembles
from istio_init.stores.nftables import Nftables
from istio_init.system import process
from istio_init.system.nft_outline import outlines
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod

REPOSITORY = Path(__file__).parents[2]
NATIVE = "--native-nftables"
NFT = ("--force-iptables-binary", "nft")
READS = ("nft", "-j", "list", "ruleset", "inet")

PROGRAMS = {
    "native, fresh": ((), (NATIVE,), [("nft", "-f", "-")]),
    "native, again": ((NATIVE,), (NATIVE,), [READS]),
    "native, changed": ((NATIVE,), (NATIVE, "-x", "10.0.0.0/8"), [READS, ("nft", "-f", "-")]),
    "iptables, fresh": ((), NFT, [("iptables-nft-restore", "--noflush"), ("iptables-nft-save",)]),
    "iptables, again": (NFT, NFT, [("iptables-nft-save",)]),
}
"""By name: the flags of a run before, if there was one, those of this run, and the programs that it starts."""

UNUSED = {
    "argparse", "click", "contextlib", "ctypes", "dataclasses", "inspect", "iptc", "json", "logging", "pathlib",
    "pyroute2", "re", "rich", "signal", "socket", "subprocess", "tempfile", "threading", "typing", "istio_init.cli.app",
    "istio_init.dialects.nft.lower", "istio_init.inspector", "istio_init.mesh.ownership", "istio_init.observe",
    "istio_init.prove", "istio_init.space", "istio_init.system.confined", "istio_init.trace", "istio_init.wording",
}  # fmt: skip
"""What a run in a fresh namespace has no use for."""

MODULES = {"native": ((NATIVE,), 88), "iptables": (NFT, 80), "tproxy": ((NATIVE, "-m", "TPROXY"), 89)}
"""Flags, and the number of our modules that suffice for them, packages included."""

CONFIGURATIONS = {
    "injected": (),
    "lists": ("-d", "1,5:7,6:9,65535", "-x", "10.0.0.0/9,10.128.0.0/9,1.2.3.4/32,255.255.255.0/24",
              "-c", "eth7,eth8,veth+", "-q", "80,443", "-u", "1,3", "-g", "4,6,0", "-k", "vm0,vm1"),
    "tproxy, dns": ("-m", "TPROXY", "--dual-stack", "--redirect-dns", "--capture-all-dns", "--drop-invalid",
                    "-b", "80,90", "-x", "fd00::/8,2001:db8::1/128,ff00::/8,0.0.0.0/8"),
    "ambient": ("--ambient", "--kube-virt-interfaces", "vm0,vm1"),
}  # fmt: skip

NAT = "inet istio-proxy-nat"
CHANGES = {
    "a rule more": f"add rule {NAT} istio-output counter accept",
    "a rule first": f"insert rule {NAT} istio-output counter accept",
    "no rules": f"flush chain {NAT} istio-output",
    "a chain more": f"add chain {NAT} other",
    "a base chain more": f"add chain {NAT} other {{ type nat hook output priority -101; }}",
    "a set more": f"add set {NAT} other {{ type ipv4_addr; }}",
    "a map more": f"add map {NAT} other {{ type ipv4_addr : verdict; }}",
    "an element more": f"add element {NAT} inbound-excluded-port {{ 22 }}",
    "an element less": f"delete element {NAT} inbound-excluded-port {{ 15090 }}",
    "an interface more": f"add element {NAT} excluded-interface-in-interfaces {{ eth9 }}",
    "no table": f"delete table {NAT}",
    "a table more": "add table inet istio-proxy-raw",
}
"""What others may do to our tables while we write."""


def started(pod: Pod, *flags: str) -> list[tuple[str, ...]]:
    """The programs that a run inside starts, in order."""

    def work() -> list[tuple[str, ...]]:
        noted: list[tuple[str, ...]] = []
        process_run = process.run

        def noting(argv: tuple[str, ...], **more: object) -> process.Completed:
            noted.append(tuple(argv))
            return process_run(argv, **more)  # type: ignore[arg-type]

        process.run = noting  # type: ignore[assignment]
        assert drop_in([*INJECTED, *flags, "--reconcile"]) == 0
        return noted

    return pod.inside.call(work)


@pytest.mark.parametrize("case", PROGRAMS)
def test_a_run_starts_no_program_that_it_can_do_without(pod: Pod, both_backends: None, case: str) -> None:
    before, flags, programs = PROGRAMS[case]
    if before:
        started(pod, *before)

    assert started(pod, *flags) == programs


def imported(namespace: Namespace, *argv: str) -> set[str]:
    """The modules that an interpreter imports by looking for them."""
    told = execute("ip", "netns", "exec", namespace.name, sys.executable, "-X", "importtime", *argv).ok().stderr
    return {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("store", MODULES)
def test_a_whole_run_imports_nothing_that_it_does_not_use(pod: Pod, both_backends: None, store: str) -> None:
    flags, most = MODULES[store]
    script = f"import sys; sys.path.append({str(REPOSITORY)!r}); from istio_init.cli.main import *; istio_iptables()"

    found = imported(pod.inside, "-IS", "-c", script, *INJECTED, *flags)

    assert found & UNUSED == set()
    ours = {name for name in found if name.startswith("istio_init")}
    assert len(ours) <= most, sorted(ours)


@pytest.mark.parametrize("store", ["native", "iptables"])
def test_in_the_image_a_run_looks_for_no_module(pod: Pod, both_backends: None, tmp_path: Path, store: str) -> None:
    (tmp_path / "istio_init").symlink_to(REPOSITORY / "istio_init")
    execute(sys.executable, "-IS", str(REPOSITORY / "scripts/image-bundle"), "", str(tmp_path)).ok()
    start = (REPOSITORY / "scripts/image-start").read_text().replace("/opt/istio-init", str(tmp_path))
    (tmp_path / "istio-iptables").write_text(start)
    bundle = marshal.loads((tmp_path / f"drop-in.{sys.implementation.cache_tag}").read_bytes())

    found = imported(pod.inside, "-IS", str(tmp_path / "istio-iptables"), *INJECTED, *MODULES[store][0])

    assert found & {"istio_init", *(name for name, *_ in bundle)} == set()
    assert "ISTIO_OUTPUT" in pod.inside.run("nft", "list", "ruleset").upper().replace("-", "_")


def test_the_image_starts_without_what_was_gathered_as_well(tmp_path: Path) -> None:
    start = (REPOSITORY / "scripts/image-start").read_text().replace("/opt/istio-init", str(REPOSITORY))
    (tmp_path / "istio-iptables").write_text(start)

    command = (sys.executable, "-IS", str(tmp_path / "istio-iptables"), "--help")
    assert "--native-nftables" in execute(*command).ok().stdout
    lost = execute("sh", "-c", 'exec "$@" >/dev/full', "sh", *command)
    assert lost.status == 1
    assert "No space left" in lost.stderr


def resembling() -> bool:
    """Whether the kernel's own outline is taken for what nft prints."""
    live = Nftables(1).read()
    return resembles(outlines([each.name for each in live]), live)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_kernels_outline_resembles_what_nft_prints(pod: Pod, name: str) -> None:
    assert run(["apply", "--netns", pod.name, NATIVE, *CONFIGURATIONS[name]]) == 0

    assert pod.inside.call(resembling)


def test_what_others_changed_is_not_taken_for_what_was_written(pod: Pod) -> None:
    def unnoticed() -> list[str]:
        found = []
        for name, change in CHANGES.items():
            assert drop_in([*flags, "--reconcile"]) == 0
            before = Nftables(1).read()
            assert resembles(Nftables(1).outline(), before), name
            done = process.run(["nft", change], timeout=30)
            assert done.status == 0, done.stderr
            if resembles(Nftables(1).outline(), before):
                found.append(name)
        return found

    flags = (*INJECTED, NATIVE, *CONFIGURATIONS["lists"], "-d", "15090,8000:8010", "--log_output_level=error")
    assert pod.inside.call(unnoticed) == []


def test_a_table_that_others_make_meanwhile_is_not_added_to(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> tuple[list[str], bool]:
        written: list[str] = []
        commit = Nftables.commit

        def late(store: Nftables, script: str) -> None:
            if not written:
                made = process.run(["nft", "-f", "-"], stdin=script.replace("15006", "15007"), timeout=30)
                assert made.status == 0, made.stderr
            written.append(script)
            commit(store, script)

        monkeypatch.setattr(Nftables, "commit", late)
        assert drop_in([*INJECTED, NATIVE, "--reconcile"]) == 0
        monkeypatch.undo()
        before = Nftables(1).read()
        assert drop_in([*INJECTED, NATIVE, "--force-apply", "--reconcile"]) == 0
        return written, holds(before, Nftables(1).read())

    written, as_written_alone = pod.inside.call(work)

    assert [script.split()[0] for script in written] == ["create", "flush"]
    assert as_written_alone


def test_a_table_of_others_that_is_made_while_ours_are_read_stays(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> str:
        process_run = process.run
        assert drop_in([*INJECTED, NATIVE, "--reconcile"]) == 0

        def late(argv: tuple[str, ...], **more: object) -> process.Completed:
            if tuple(argv) == READS:
                process_run(["nft", "add table inet late; add chain inet late mine"], timeout=30)
            return process_run(argv, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(process, "run", late)
        assert drop_in([*INJECTED, NATIVE, "-x", "10.0.0.0/8", "--reconcile"]) == 0
        monkeypatch.undo()
        return process.run(["nft", "list", "table", "inet", "late"], timeout=30).stdout

    assert "chain mine" in pod.inside.call(work)


def test_tables_of_which_nft_prints_but_some_are_not_read_as_all(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        assert drop_in([*INJECTED, NATIVE, "--drop-invalid", "--reconcile"]) == 0
        process_run = process.run

        def forgetful(argv: tuple[str, ...], **more: object) -> process.Completed:
            done = process_run(argv, **more)  # type: ignore[arg-type]
            kept = [each for each in json.loads(done.stdout)["nftables"] if "mangle" not in json.dumps(each)]
            return done.replace(stdout=json.dumps({"nftables": kept}))

        monkeypatch.setattr(process, "run", forgetful)
        with pytest.raises(ToolError, match="other tables of Istio's than the kernel holds"):
            Nftables(1).read()
        monkeypatch.undo()

    pod.inside.call(work)
