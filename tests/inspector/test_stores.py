"""Every store and mode is explained as what it is, and nothing is wrong with a pod because of where its rules are."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.command import istio_init
from support.rules import program

from istio_init.config.ambient import AmbientConfig
from istio_init.dialects.iptables.save import render_save, with_texts
from istio_init.inspector.findings import catalogue
from istio_init.mesh.policy import ambient
from istio_init.netfilter.family import Family
from istio_init.testing.entering import ROOT
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod
from istio_init.testing.traffic import ADDRESS_FAMILIES, Endpoint

from . import natives
from .proof import proves
from .sidecar import ANY, Sidecar

V4, V6 = Family
ZTUNNEL = (15001, 15006, 15008, 15053)
SERVER = "10.77.0.1"

INJECTED = "-b * -d 15090,15021,15020 -i * -u 1337 -g 1337 --dual-stack".split()
IPV4_AMBIENT = ["--ambient", "--ipv6=false"]


@contextmanager
def bare(*families: Family, servers: tuple[str, ...] = ()) -> Iterator[Sidecar]:
    """A pod with a proxy and without rules."""
    with Pod.create(families=families) as pod:
        if servers:
            pod.inside.write_resolv_conf(*servers)
        made = Sidecar(pod, families)
        yield made
        made.proxy.kill()
        made.app.kill()


def load(namespace: Namespace, text: str) -> None:
    namespace.run("nft", "-f", "-", stdin=text)


def route(namespace: Namespace, mark: str, table: int) -> None:
    """The routing that rules with marks need."""
    namespace.run("ip", "rule", "add", "fwmark", mark, "lookup", str(table))
    namespace.run("ip", "route", "add", "local", "default", "dev", "lo", "table", str(table))


def write_ambient(namespace: Namespace, store: str, config: AmbientConfig) -> None:
    """The rules of an ambient pod in one of iptables' stores."""
    for family, rules in ambient.rules(config).items():
        namespace.run(program(store, family, "restore"), stdin=render_save(with_texts(rules)))


@contextmanager
def ztunnel(namespace: Namespace) -> Iterator[None]:
    """Its sockets: of a process that lives elsewhere."""
    with ExitStack() as stack:
        for family in Family:
            for port in ZTUNNEL:
                for kind in (socket.SOCK_STREAM, *([socket.SOCK_DGRAM] if port == 15053 else [])):
                    made = namespace.open_socket(ADDRESS_FAMILIES[family], kind, ROOT)
                    stack.callback(made.close)
                    if family is V6:
                        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    made.bind(Endpoint(ANY[family], port))
                    if kind == socket.SOCK_STREAM:
                        made.listen()
        yield


@pytest.fixture
def pod(real_kernel: None) -> Iterator[Namespace]:
    """A namespace with an address, for a pod of an ambient mesh."""
    with Pod.create(families=(V4,)) as made:
        yield made.inside


def said(sidecar: Sidecar) -> tuple[object, ...]:
    told = sidecar.explain()
    return told["mode"], told["backend"], told["exact"], told["argv"], told["findings"]


class TestSidecar:
    """Istio's native rules."""

    def test_native_rules_are_a_sidecars(self, real_kernel: None) -> None:
        with bare(V4, V6) as made:
            load(made.inside, natives.SIDECAR)
            made.inside.run("ip", "addr", "add", "::6/128", "dev", "lo")
            made.connect()

            assert said(made) == ("REDIRECT", "native", True, INJECTED, [])

    def test_native_rules_with_tproxy_and_dns_capture_are_a_sidecars(self, real_kernel: None) -> None:
        with bare(V4, servers=(SERVER,)) as made:
            load(made.inside, natives.TPROXY_WITH_DNS)
            route(made.inside, "0x539", 133)
            made.connect()

            mode, backend, exact, argv, findings = said(made)

        assert (mode, backend, exact, findings) == ("TPROXY", "native", True, [])
        assert isinstance(argv, list) and {"TPROXY", "--redirect-dns"} <= set(argv)

    def test_ipv6_is_captured_by_native_rules_that_nobody_made_for_it(self, real_kernel: None) -> None:
        with bare(V4, V6) as made:
            load(made.inside, "".join(line for line in natives.SIDECAR.splitlines(True) if "ip6" not in line))
            made.connect()

            assert said(made) == ("REDIRECT", "native", True, INJECTED[:-1], [])

    def test_a_row_is_as_nft_prints_it_and_stands_where_nft_has_it(self, real_kernel: None) -> None:
        with bare(V4, V6) as made:
            load(made.inside, natives.SIDECAR)
            made.connect()
            rows = made.explain()["rules"]

        by_place = {(row["family"], row["table"], row["chain"], row["index"]): row for row in rows}
        row = by_place["inet", "istio-proxy-nat", "istio-inbound", 5]
        assert (row["backend"], row["text"]) == ("native", "meta l4proto tcp counter jump istio-in-redirect")
        assert (row["role"], row["whose"], row["foreign"]) == ("inbound-capture", "istio sidecar", False)
        assert row["packets"] > 0
        assert len(rows) == natives.SIDECAR.count("counter")

    def test_there_is_drift_where_another_configuration_is_expected_and_else_none(self, real_kernel: None) -> None:
        with bare(V4, V6) as made:
            load(made.inside, natives.SIDECAR)
            same = made.explain("--expect", f"{' '.join(INJECTED)}")["drift"]
            other = made.explain("--expect", f"{' '.join(INJECTED)} -x 192.0.2.0/24")["drift"]

        assert same["equal"]
        assert not other["equal"]
        assert {each["change"] for each in other["changes"]} == {"missing"}

    def test_a_lost_rule_is_told_by_the_native_one(self, real_kernel: None) -> None:
        with bare(V4, V6) as made:
            load(made.inside, natives.SIDECAR.replace("    tcp dport 15090 counter return\n", ""))
            load(made.inside, "flush chain inet istio-proxy-nat istio-redirect")

            assert "half-applied" in made.findings()


class TestAmbient:
    """A pod of an ambient mesh, in each store."""

    @pytest.mark.parametrize("has_ztunnel", [True, False], ids=["with ztunnel", "without ztunnel"])
    @pytest.mark.parametrize("store", ["nft", "legacy", "native"])
    def test_it_is_told_with_its_arguments(self, pod: Namespace, store: str, has_ztunnel: bool) -> None:
        if store == "native":
            load(pod, natives.AMBIENT)
        else:
            write_ambient(pod, store, AmbientConfig(ipv6=False))
        route(pod, "0x111/0xfff", 100)
        with ztunnel(pod) if has_ztunnel else ExitStack():
            told = explain(pod)

        assert (told["mode"], told["backend"], told["argv"]) == ("ambient", store, IPV4_AMBIENT)
        assert told["exact"]
        assert [each["code"] for each in told["findings"]] == ([] if has_ztunnel else ["no-listener"])
        assert {row["whose"] for row in told["rules"]} == {"istio ambient"}

    def test_each_switch_is_told(self, pod: Namespace) -> None:
        switches = AmbientConfig(redirect_dns=False, bypass_inbound_capture=True, virtual_interfaces=("vm0", "vm1"))
        write_ambient(pod, "legacy", switches)
        route(pod, "0x111/0xfff", 100)

        with ztunnel(pod):
            told = explain(pod)

        flags = "--ambient --redirect-dns=false --bypass-inbound-capture --kube-virt-interfaces vm0,vm1"
        assert (told["argv"], told["exact"], told["findings"]) == (flags.split(), True, [])


@pytest.mark.parametrize(
    "text", [natives.AMBIENT, natives.KUBEVIRT, natives.TPROXY_WITH_DNS], ids=["ambient", "kubevirt", "tproxy"]
)
def test_what_is_saved_is_explained_as_the_namespace_is(pod: Namespace, tmp_path: Path, text: str) -> None:
    load(pod, text)
    pod.run("iptables-nft", "-A", "INPUT", "-j", "ACCEPT")
    file = tmp_path / "save"
    file.write_text(istio_init("explain", "--netns", pod.name, "--format", "save").ok().stdout)

    again = json.loads(istio_init("explain", "--file", str(file), "--format", "json").ok().stdout)

    live = explain(pod)
    for key in ("mode", "backend", "families", "argv", "env", "exact", "release", "stores"):
        assert again[key] == live[key]
    counters = {"packets": None, "bytes": None}
    assert [row | counters for row in again["rules"]] == [row | counters for row in live["rules"]]


def test_tables_of_iptables_that_nft_alone_printed_are_not_taken_for_none(real_kernel: None, tmp_path: Path) -> None:
    with Sidecar.create(families=(V4,)) as made:
        file = tmp_path / "ruleset"
        file.write_text(made.inside.run("nft", "-j", "list", "ruleset"))

    told = json.loads(istio_init("explain", "--file", str(file), "--format", "json").ok().stdout)

    why = f"{file}: the table ip nat is one of iptables: give iptables-save's text as well"
    assert (told["unread"], [finding["code"] for finding in told["findings"]]) == ([why], ["unfaithful-reader"])


@pytest.mark.parametrize("form", ["text", "html", "list"])
def test_every_format_names_native_chains_as_nft_does(pod: Namespace, form: str) -> None:
    load(pod, natives.AMBIENT)

    shown = istio_init("explain", "--netns", pod.name, "--rules", "--format", form).ok().stdout

    assert "inet istio-ambient-nat istio-output" in shown
    assert "ISTIO_" not in shown


class TestNeighbours:
    """Rules of others, in whatever store, are named and no fault."""

    def test_rules_of_neighbours_in_both_stores(self, real_kernel: None) -> None:
        with Sidecar.create(families=(V4,)) as made:
            made.iptables("-t", "nat", "-N", "DOCKER_POSTROUTING")
            made.iptables("-t", "nat", "-A", "DOCKER_POSTROUTING", "-j", "RETURN")
            made.iptables("-N", "KUBE-FIREWALL", backend="legacy")
            made.iptables("-A", "INPUT", "-j", "KUBE-FIREWALL", backend="legacy")
            told = made.explain()

        assert told["findings"] == []
        assert [
            (held["store"], [(each["table"], each["whose"]) for each in held["tables"]]) for held in told["stores"]
        ][-1] == ("legacy", [("filter", {"kube-proxy": 1})])
        assert {row["whose"] for row in told["rules"]} == {"istio sidecar", "Docker's DNS", "kube-proxy"}

    def test_native_tables_of_a_virtual_machine(self, real_kernel: None) -> None:
        with Sidecar.create(backend="legacy", families=(V4,)) as made:
            load(made.inside, natives.KUBEVIRT)
            told = made.explain()

        assert (told["mode"], told["backend"], told["findings"], told["unread"]) == ("REDIRECT", "legacy", [], [])
        kubevirt = [row for row in told["rules"] if row["whose"] == "KubeVirt"]
        assert {(row["backend"], row["family"], row["chain"]) for row in kubevirt} >= {
            ("native", "ip", "prerouting"),
            ("native", "ip", "KUBEVIRT_PREINBOUND"),
        }


class TestTwoOfThem:
    """Rules of Istio's in two stores, or of two modes."""

    @pytest.mark.parametrize("store", ["nft", "legacy"])
    def test_a_sidecar_in_native_tables_as_well(self, real_kernel: None, store: str) -> None:
        with Sidecar.create(backend=store, families=(V4,)) as made:
            load(made.inside, natives.SIDECAR)
            found = made.findings()

        assert [line.partition(":")[0] for line in found["both-backends"]] == [store, "native"]

    @proves(catalogue.BOTH_MODES)
    def test_a_sidecar_in_an_ambient_pod(self, real_kernel: None) -> None:
        with Sidecar.create(families=(V4,)) as made:
            load(made.inside, natives.AMBIENT)
            found = made.findings()

        assert found["both-modes"] == ["sidecar: nft, ipv4", "ambient: native, ipv4"]
        assert "both-backends" not in found


def explain(namespace: Namespace) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(istio_init("explain", "--netns", namespace.name, "--format", "json").ok().stdout)
    return told
