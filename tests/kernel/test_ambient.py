"""Pods of an ambient mesh: what is written for them, where packets go, and what holds a namespace apart from others."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import pytest
from support.command import INJECTED, Result, drop_in, environment, istio_init
from support.rules import BACKENDS, Tables, everything, nft_generation, program, routing, tables

from istio_init.config.ambient import AmbientConfig
from istio_init.dialects.iptables.save import entry_text
from istio_init.mesh.policy import ambient
from istio_init.netfilter.family import Family
from istio_init.testing.entering import ROOT
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import HOSTS, Pod
from istio_init.testing.traffic import Endpoint, Listener, connect, talk

from .test_killed import kill_after

OUTBOUND, INBOUND, TUNNEL, DNS = 15001, 15006, 15008, 15053
ZTUNNEL = 0x539
"""The mark of what ztunnel sends."""

RULE = "from all fwmark 0x111/0xfff lookup 100"
SEED = 111
KILLS = int(os.environ.get("ISTIO_INIT_KILLS", "60")) // 10
"""In each store; twice each of the commands."""

SO_MARK = 36
TRANSPARENT = {Family.IPV4: (socket.SOL_IP, 19), Family.IPV6: (socket.IPPROTO_IPV6, 75)}
"""Linux's options that `socket` does not name: SO_MARK, and IP_TRANSPARENT of both families."""

NATIVE = "native"
STORES = (*BACKENDS, NATIVE)

State = tuple[dict[tuple[str, Family], Tables], str, str]


@pytest.fixture(params=STORES)
def anywhere(request: pytest.FixtureRequest, both_backends: None) -> str:
    """Each store of rules."""
    name: str = request.param
    return name


def store(name: str) -> list[str]:
    """The flags that name a store."""
    return ["--native-nftables"] if name == NATIVE else ["--force-iptables-binary", name]


def apply(pod: Pod, *flags: str, backend: str = "nft") -> Result:
    """Run ``istio-init apply --ambient``."""
    return istio_init("apply", "--ambient", "--netns", pod.name, *store(backend), *flags)


def state(pod: Pod) -> State:
    """All rules of both backends, the tables of native nftables, and the routing."""
    listed = [pod.inside.run("nft", "-s", "list", "table", "inet", name) for name in native_tables(pod)]
    return everything(pod.inside), "".join(listed), routing(pod.inside)


def native_tables(pod: Pod) -> list[str]:
    """The names of the tables that hold for both families."""
    lines = pod.inside.run("nft", "list", "tables").splitlines()
    return sorted(line.split()[2] for line in lines if line.startswith("table inet "))


def is_clear(pod: Pod) -> bool:
    """Whether nothing of an ambient pod's is left: no rule, no chain, no table, no routing rule, no route."""
    rules, native, routes = state(pod)
    return not any(rules.values()) and native == "" and "0x111" not in routes and "table 100" not in routes


def places(namespace: Namespace) -> list[str]:
    """The routing rules by mark of both families, each with its preference."""
    lines = [line for family in ("-4", "-6") for line in namespace.run("ip", family, "rule").splitlines()]
    return [" ".join(line.split()) for line in lines if "fwmark" in line]


class TestWriting:
    """What a namespace holds afterwards."""

    @pytest.mark.parametrize(
        ("flags", "config"),
        [
            ((), AmbientConfig()),
            (("--redirect-dns=false", "--ipv6=false"), AmbientConfig(redirect_dns=False, ipv6=False)),
            (("--bypass-inbound-capture",), AmbientConfig(bypass_inbound_capture=True)),
            (("--kube-virt-interfaces", "a,b+"), AmbientConfig(virtual_interfaces=("a", "b+"))),
        ],
    )
    def test_it_is_the_policy_to_the_letter(
        self, pod: Pod, backend: str, flags: tuple[str, ...], config: AmbientConfig
    ) -> None:
        apply(pod, *flags, backend=backend).ok()

        wanted = ambient.rules(config)
        for family in Family:
            stated = wanted[family].tables if family in wanted else {}
            assert tables(pod.inside, backend, family) == {
                table.value: {chain.name: tuple(map(entry_text, chain.entries)) for chain in chains.values()}
                for table, chains in stated.items()
            }
        assert places(pod.inside) == [f"32764: {RULE}"] * len(config.families)

    def test_the_address_that_probes_come_from_can_be_named(self, pod: Pod) -> None:
        apply(pod, "--host-probe-address", "192.0.2.1,2001:db8::1").ok()

        assert "-s 192.0.2.1/32" in str(tables(pod.inside, "nft", Family.IPV4))
        assert "-s 2001:db8::1/128" in str(tables(pod.inside, "nft", Family.IPV6))

    def test_where_ipv6_is_off_on_lo_its_rules_are_written_and_no_route(self, pod: Pod, backend: str) -> None:
        pod.inside.run("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")

        done = apply(pod, backend=backend).ok()

        assert "IPv6 is off on lo" in done.stderr
        assert tables(pod.inside, backend, Family.IPV6).keys() == {"raw", "mangle", "nat"}
        assert len(places(pod.inside)) == 2
        assert pod.inside.run("ip", "-4", "route", "show", "table", "100").startswith("local default dev lo")
        assert "default" not in pod.inside.run("ip", "-6", "route", "show", "table", "all", "type", "local")
        assert "as wanted already" in apply(pod, backend=backend).ok().stdout
        istio_init("clean", "--netns", pod.name).ok()
        assert is_clear(pod)

    def test_a_second_run_writes_nothing(self, pod: Pod, anywhere: str) -> None:
        apply(pod, backend=anywhere).ok()
        before, generation = state(pod), nft_generation(pod.inside)

        assert "as wanted already" in apply(pod, backend=anywhere).ok().stdout

        assert (state(pod), nft_generation(pod.inside)) == (before, generation)

    def test_a_dry_run_writes_nothing(self, pod: Pod, anywhere: str) -> None:
        before = state(pod)

        told = apply(pod, "--dry-run", backend=anywhere).ok().stdout

        assert "+ ipv4 fwmark 0x111/0xfff lookup 100, local default dev lo" in told
        assert "# ambient-inbound" in told
        assert state(pod) == before

    def test_one_configuration_replaces_another_in_whatever_store(self, pod: Pod) -> None:
        wanted = {}
        for name in STORES:
            apply(pod, backend=name).ok()
            wanted[name] = state(pod)
        for old, new in permutations(STORES, 2):
            apply(pod, "--redirect-dns=false", "--ipv6=false", backend=old).ok()
            apply(pod, backend=new).ok()
            assert state(pod) == wanted[new]

    def test_routing_that_stands_elsewhere_or_in_part_is_put_right(self, pod: Pod) -> None:
        apply(pod).ok()
        before = state(pod)
        for command in (
            "-4 rule del pref 32764",
            "-4 rule add pref 77 fwmark 0x111/0xfff lookup 100",
            "-6 route flush table 100",
            "-6 rule add pref 78 fwmark 0x111/0xfff lookup 100",
        ):
            pod.inside.run("ip", *command.split())

        apply(pod).ok()

        assert state(pod) == before

    @pytest.mark.parametrize("flags", [(), ("--ambient",)], ids=["whichever is there", "by name"])
    def test_clean_leaves_nothing(self, pod: Pod, anywhere: str, flags: tuple[str, ...]) -> None:
        before = routing(pod.inside)
        apply(pod, backend=anywhere).ok()

        istio_init("clean", "--netns", pod.name, *flags).ok()

        assert is_clear(pod)
        assert routing(pod.inside) == before

    def test_clean_removes_routing_that_lost_its_rules(self, pod: Pod) -> None:
        apply(pod).ok()
        pod.inside.run("nft", "flush", "ruleset")

        istio_init("clean", "--netns", pod.name).ok()

        assert is_clear(pod)

    def test_routing_of_others_stays(self, pod: Pod) -> None:
        others = ["77: from all fwmark 0x111/0xfff lookup 101", "78: from all fwmark 0x111 lookup 100"]
        for line in others:
            words = line.split()
            pod.inside.run("ip", "rule", "add", "pref", words[0].strip(":"), *words[3:])

        apply(pod).ok()
        istio_init("clean", "--netns", pod.name).ok()

        assert places(pod.inside) == others

    @pytest.mark.parametrize("first", [(), ("--redirect-dns=false",)], ids=["from nothing", "from another"])
    def test_what_was_committed_is_put_back_where_a_program_fails(
        self, pod: Pod, backend: str, tmp_path: Path, first: tuple[str, ...]
    ) -> None:
        if first:
            apply(pod, *first, backend=backend).ok()
        before = state(pod)
        script = tmp_path / program(backend, Family.IPV6, "restore")
        script.write_text("#!/bin/sh\necho it shall not be >&2\nexit 1\n")
        script.chmod(0o755)
        (tmp_path / "sitecustomize.py").write_text("from istio_init.stores import legacy\nlegacy.CHILD = 'no_such'\n")
        env = {"PATH": f"{tmp_path}:{environment()['PATH']}", "PYTHONPATH": str(tmp_path)}

        done = istio_init(
            *("apply", "--ambient", "--netns", pod.name, "--force-iptables-binary", backend, "--host-probe-address"),
            "192.0.2.1,2001:db8::1",
            env=env,
        )

        assert done.status == 1
        assert "it shall not be" in done.stderr
        assert state(pod) == before


Prepare = Callable[[Pod], object]


def linkerd(pod: Pod) -> None:
    """The rules of another mesh, in short."""
    lines = ("*nat", ":PROXY_INIT_REDIRECT - [0:0]", "-A PREROUTING -j PROXY_INIT_REDIRECT",
             "-A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-ports 4143", "COMMIT", "")  # fmt: skip
    pod.inside.run("iptables-nft-restore", "--noflush", stdin="\n".join(lines))


def consul(pod: Pod) -> None:
    """A table of nftables' own, of another mesh."""
    pod.inside.run("nft", "add table inet consul_tproxy")


def a_native_sidecar(pod: Pod) -> None:
    """The rules of a sidecar, as native nftables."""
    istio_init("apply", "--netns", pod.name, "--native-nftables").ok()


def a_native_ambient_pod(pod: Pod) -> None:
    """The rules of an ambient pod, as native nftables."""
    apply(pod, backend=NATIVE).ok()


def a_sidecar(pod: Pod) -> None:
    """The rules of a sidecar."""
    istio_init("apply", "--netns", pod.name, "--dual-stack", "--redirect-dns", "--capture-all-dns", "-m", "TPROXY").ok()


def an_ambient_pod(pod: Pod) -> None:
    """The rules of an ambient pod."""
    apply(pod).ok()


def both(pod: Pod) -> None:
    """The rules of a sidecar in one backend, those of an ambient pod in the other."""
    apply(pod).ok()
    saved = {family: pod.inside.run(program("nft", family, "save")) for family in Family}
    istio_init("clean", "--netns", pod.name).ok()
    istio_init("apply", "--netns", pod.name, "--force-iptables-binary", "legacy").ok()
    for family, text in saved.items():
        pod.inside.run(program("nft", family, "restore"), "--noflush", stdin=text)


class TestApart:
    """Sidecars, ambient pods and other meshes are kept apart."""

    @pytest.mark.parametrize(
        ("prepare", "command", "who"),
        [
            (an_ambient_pod, ("apply",), "ambient"),
            (an_ambient_pod, ("clean", "--sidecar"), "ambient"),
            (a_sidecar, ("apply", "--ambient"), "sidecar"),
            (a_sidecar, ("clean", "--ambient"), "sidecar"),
            (a_native_ambient_pod, ("apply",), "ambient"),
            (a_native_ambient_pod, ("clean", "--sidecar"), "ambient"),
            (a_native_ambient_pod, ("apply", "--native-nftables"), "ambient"),
            (a_native_sidecar, ("apply", "--ambient"), "sidecar"),
            (a_native_sidecar, ("apply", "--ambient", "--native-nftables"), "sidecar"),
            (linkerd, ("apply",), "linkerd"),
            (linkerd, ("apply", "--ambient"), "linkerd"),
            (linkerd, ("clean",), "linkerd"),
            (consul, ("apply",), "consul"),
            (both, ("apply",), "ambient"),
            (both, ("apply", "--ambient"), "sidecar"),
            (both, ("clean", "--ambient"), "sidecar"),
        ],
    )
    def test_a_namespace_of_somebody_else_is_refused_with_what_to_do_and_nothing_changes(
        self, pod: Pod, prepare: Prepare, command: tuple[str, ...], who: str
    ) -> None:
        prepare(pod)
        before = state(pod)

        done = istio_init(*command, "--netns", pod.name)

        assert done.status == 4
        assert " are here: " in done.stderr
        assert f"--replace-other {who}" in done.stderr
        assert state(pod) == before

    @pytest.mark.parametrize("backend", ["nft", "native"])
    def test_a_table_of_another_family_is_nobodys_whatever_its_name(self, pod: Pod, backend: str) -> None:
        for family, name in (("ip", "istio-proxy-nat"), ("ip6", "istio-proxy-mangle"), ("bridge", "istio-proxy-raw")):
            pod.inside.run("nft", f"add table {family} {name}; add chain {family} {name} istio-output")
        tables = pod.inside.run("nft", "-a", "list", "ruleset")

        apply(pod, backend=backend).ok()

        assert "as wanted already" in apply(pod, backend=backend).ok().stdout
        istio_init("clean", "--netns", pod.name).ok()
        for table in tables.split("table ")[1:]:
            assert table.strip() in pod.inside.run("nft", "-a", "list", "ruleset")

    def test_clean_asks_which_of_two_it_is_to_be(self, pod: Pod) -> None:
        both(pod)

        assert istio_init("clean", "--netns", pod.name).status == 4

        istio_init("clean", "--netns", pod.name, "--replace-other", "sidecar").ok()
        assert is_clear(pod)

    @pytest.mark.parametrize("flags", [("--reconcile",), ("--cleanup-only",)])
    def test_the_drop_in_refuses_an_ambient_pod_too_and_exits_1(self, pod: Pod, flags: tuple[str, ...]) -> None:
        apply(pod).ok()
        before = state(pod)

        assert drop_in(pod.inside, *INJECTED, *flags).status == 1

        assert state(pod) == before

    def test_the_drop_in_goes_on_beside_another_mesh_with_a_warning(self, pod: Pod) -> None:
        linkerd(pod)

        done = drop_in(pod.inside, *INJECTED).ok()

        assert "rules of Linkerd are here" in done.stderr
        found = tables(pod.inside, "nft", Family.IPV4)["nat"]
        assert {"PROXY_INIT_REDIRECT", "ISTIO_OUTPUT"} <= {*str(found).replace("'", " ").split()}

    def test_another_mesh_is_replaced_by_name_and_what_is_nobodys_stays(self, pod: Pod) -> None:
        linkerd(pod)
        pod.inside.run("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "99", "-j", "RETURN")

        apply(pod, "--replace-other", "linkerd").ok()

        found = tables(pod.inside, "nft", Family.IPV4)["nat"]
        assert "PROXY_INIT_" not in str(found)
        assert found["PREROUTING"] == ("-p tcp -m tcp --dport 99 -j RETURN", "-j ISTIO_PRERT")

    @pytest.mark.parametrize(("old", "new"), list(product(STORES, repeat=2)))
    def test_each_kind_replaces_the_other_by_name(self, pod: Pod, old: str, new: str) -> None:
        sidecar = ("apply", "--netns", pod.name, "--dual-stack", "-m", "TPROXY", "--replace-other", "ambient")
        istio_init(*sidecar, *store(new)).ok()
        wanted = state(pod)
        apply(pod, "--replace-other", "sidecar", backend=old).ok()
        ambient_pod = state(pod)
        assert "0x539" not in routing(pod.inside)

        istio_init(*sidecar, *store(new)).ok()

        assert state(pod) == wanted
        istio_init("clean", "--netns", pod.name).ok()
        apply(pod, backend=old).ok()
        assert state(pod) == ambient_pod


def marked(host: str) -> socket.socket:
    """A socket of ztunnel's, in the family of an address."""
    is_ipv6 = ":" in host
    made = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET)
    made.settimeout(5)
    made.setsockopt(socket.SOL_SOCKET, SO_MARK, ZTUNNEL)
    return made


def ztunnel_connects(pod: Pod, host: str, port: int) -> str:
    """Connect as ztunnel does; the address that it has then."""

    def connect_as_ztunnel() -> str:
        with marked(host) as client:
            client.connect((host, port))
            return str(client.getsockname()[0])

    return pod.inside.call(connect_as_ztunnel)


def ztunnel_hands_over(pod: Pod, client: str, port: int, family: Family) -> bytes:
    """Connect to the application under the address of a client, as ztunnel does; what the application answers."""
    host = HOSTS[family].pod

    def hand_over() -> bytes:
        with marked(host) as ztunnel, socket.create_server((host, port), family=ztunnel.family) as application:
            application.settimeout(5)
            level, option = TRANSPARENT[family]
            ztunnel.setsockopt(level, option, 1)
            ztunnel.bind((client, 0))
            ztunnel.connect((host, port))
            accepted, peer = application.accept()
            with accepted:
                accepted.sendall(str(peer[0]).encode())
                return ztunnel.recv(64)

    return pod.inside.call(hand_over)


class TestTraffic:
    """Where packets go."""

    @pytest.fixture
    def applied(self, pod: Pod, anywhere: str) -> Pod:
        """A pod under the rules."""
        apply(pod, backend=anywhere).ok()
        return pod

    def test_each_kind_of_traffic(self, applied: Pod, family: Family) -> None:
        hosts = HOSTS[family]
        applied.app.connecting_to(hosts.far, 80).must_reach_proxy(OUTBOUND)
        applied.app.connecting_to(hosts.far, 53).must_reach_proxy(DNS)
        applied.app.sending_to(hosts.far, 53).must_reach_proxy(DNS)
        applied.app.sending_to(hosts.far, 443).must_be_direct()
        applied.app.connecting_to(hosts.loopback, 8080).must_be_direct()
        applied.app.connecting_to(hosts.pod, 8080).must_be_direct()
        applied.outside.connecting_to(hosts.pod, 8080).must_reach_proxy(INBOUND)
        applied.outside.connecting_to(hosts.pod, TUNNEL).must_be_direct()

    def test_ztunnel_itself_is_not_captured(self, applied: Pod, family: Family) -> None:
        destination = Endpoint(HOSTS[family].far, 80)
        with Listener(applied.peer, family, 80) as server:
            assert ztunnel_connects(applied, *destination) == HOSTS[family].pod
            assert server.accept().local == destination

    def test_the_applications_answers_to_ztunnel_come_back_to_it_whatever_address_it_used(
        self, applied: Pod, family: Family
    ) -> None:
        client = HOSTS[family].far
        assert ztunnel_hands_over(applied, client, 8080, family) == client.encode()

    def test_probes_of_the_host_bypass_ztunnel(self, pod: Pod, anywhere: str, family: Family) -> None:
        apply(pod, "--host-probe-address", ",".join(HOSTS[each].peer for each in Family), backend=anywhere).ok()
        with Listener(pod.inside, family, 8080) as application:
            client = connect(pod.peer, ROOT, Endpoint(HOSTS[family].pod, 8080))
            talk(client, application.accept().connection)

    def test_what_a_virtual_machine_sends_is_outbound(self, pod: Pod, anywhere: str, family: Family) -> None:
        apply(pod, "--kube-virt-interfaces", "eth0", backend=anywhere).ok()
        pod.outside.connecting_to(HOSTS[family].pod, 8080).must_reach_proxy(OUTBOUND)

    def test_with_bypass_inbound_connections_are_left_to_the_pod(self, pod: Pod, anywhere: str, family: Family) -> None:
        apply(pod, "--bypass-inbound-capture", backend=anywhere).ok()
        pod.outside.connecting_to(HOSTS[family].pod, 8080).must_be_direct()
        pod.app.connecting_to(HOSTS[family].far, 80).must_reach_proxy(OUTBOUND)


@pytest.mark.parametrize("name", STORES)
def test_a_killed_switch_between_a_sidecar_and_an_ambient_pod_is_finished_by_the_next_run(
    pod: Pod, both_backends: None, name: str
) -> None:
    common = ("--netns", pod.name, *store(name))
    commands = (
        ("apply", *common, "--dual-stack", "-m", "TPROXY", "--replace-other", "ambient"),
        ("apply", *common, "--ambient", "--replace-other", "sidecar"),
        ("clean", "--netns", pod.name),
    )
    wanted = []
    for command in commands:
        istio_init(*command).ok()
        wanted.append(state(pod))
    durations = []
    for command in commands:
        began = time.monotonic()
        istio_init(*command).ok()
        durations.append(time.monotonic() - began)
    moments = random.Random(SEED)
    for number in range(KILLS):
        command, expected = commands[number % 3], wanted[number % 3]
        kill_after(moments.uniform(0.1, 1.0) * durations[number % 3], pod, True, *command)

        again = command if command[0] == "apply" else (*command, "--replace-other", "sidecar")
        istio_init(*again).ok()

        assert state(pod) == expected


def test_the_kit_makes_ambient_pods(istio_pod: Pod) -> None:
    istio_pod.redirect("-b '*' -i '*'")
    istio_pod.ambient("--redirect-dns=false")
    istio_pod.app.sending_to(HOSTS[Family.IPV4].far, 53).must_be_direct()
    istio_pod.app.connecting_to(HOSTS[Family.IPV4].far, 80).must_reach_proxy(OUTBOUND)
    istio_pod.ambient(native=True)
    istio_pod.app.connecting_to(HOSTS[Family.IPV4].far, 53).must_reach_proxy(DNS)
    assert native_tables(istio_pod) == ["istio-ambient-mangle", "istio-ambient-nat", "istio-ambient-raw"]
    istio_pod.redirect("-b '' -i ''", native=True)
    istio_pod.app.connecting_to(HOSTS[Family.IPV4].far, 80).must_be_direct()
    istio_pod.clean()
    assert is_clear(istio_pod)
