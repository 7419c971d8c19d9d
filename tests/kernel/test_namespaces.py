"""Which namespace is entered, how, with which privileges, and which are refused."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.command import DROP_IN, INJECTED, PROGRAM, Result, execute, istio_init
from support.rules import everything, has_rules_of_ours, tables

from istio_init.netfilter.family import Family
from istio_init.system import namespaces
from istio_init.testing.entering import User
from istio_init.testing.owners import Owner
from istio_init.testing.pods import APP, HOSTS, PROXY, Pod
from istio_init.testing.processes import run
from istio_init.testing.traffic import Endpoint, Listener, connect, talk

ONLY_NETWORK = ("setpriv", "--inh-caps=-all,+net_admin,+net_raw", "--bounding-set=-all,+net_admin,+net_raw")
"""What the injection template leaves to root in the initContainer."""

WITHOUT_ANY = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")

FIRST_ID = 100_000
"""Outside, of the ids of a pod's user namespace."""


def sleeping_pid(pod: Pod) -> int:
    """A process in a pod."""
    return pod.inside.spawn("sleep", "infinity").pid


def run_inside(pod: Pod, *argv: str) -> Result:
    """Run a program as something in the pod does, which names no target."""
    return execute("ip", "netns", "exec", pod.name, *argv)


class TestTargets:
    """How a namespace is named."""

    def test_a_pod_is_named_by_the_pid_of_one_of_its_processes(self, pod: Pod, backend: str) -> None:
        pid = sleeping_pid(pod)
        done = istio_init("apply", "--pid", str(pid), "--force-iptables-binary", backend).ok()
        assert f"pid {pid}: applied" in done.stdout
        assert has_rules_of_ours(pod.inside, backend)

    def test_a_pod_is_named_by_the_name_of_its_namespace(self, pod: Pod, backend: str) -> None:
        done = istio_init("apply", "--netns", pod.name, "--force-iptables-binary", backend).ok()
        assert f"netns {pod.name}: applied" in done.stdout
        assert has_rules_of_ours(pod.inside, backend)

    def test_a_pod_is_named_by_a_path_to_its_namespace(self, pod: Pod, backend: str) -> None:
        path = f"/proc/{sleeping_pid(pod)}/ns/net"
        istio_init("apply", "--netns", path, "--force-iptables-binary", backend).ok()
        assert has_rules_of_ours(pod.inside, backend)

    def test_without_a_target_the_namespace_that_it_runs_in_is_programmed(self, pod: Pod, backend: str) -> None:
        run_inside(pod, *PROGRAM, "apply", "--force-iptables-binary", backend).ok()
        assert has_rules_of_ours(pod.inside, backend)

    def test_the_drop_in_enters_a_namespace_by_its_path(self, pod: Pod, backend: str) -> None:
        path = str(pod.inside.path)
        execute(*DROP_IN, *INJECTED, "--network-namespace", path, "--force-iptables-binary", backend).ok()
        assert has_rules_of_ours(pod.inside, backend)

    def test_one_target_that_fails_does_not_stop_the_rest(self) -> None:
        with Pod.create() as first, Pod.create() as second:
            done = istio_init("apply", "--pid", str(sleeping_pid(first)), "--netns", "no-such", "--netns", second.name)
            assert done.status == 1
            assert len(done.stdout.splitlines()) == 2
            assert "netns no-such: failed: " in done.stderr
            for pod in (first, second):
                assert has_rules_of_ours(pod.inside, "nft")

    def test_each_of_many_targets_has_its_result_in_json(self) -> None:
        with ExitStack() as stack:
            pods = [stack.enter_context(Pod.create(families=(Family.IPV4,))) for _ in range(10)]
            names = [*(pod.name for pod in pods[:5]), "no-such", *(pod.name for pod in pods[5:])]
            done = istio_init("apply", "--format", "json", *(word for name in names for word in ("--netns", name)))
            assert done.status == 1
            results = json.loads(done.stdout)["results"]
            assert [result["target"] for result in results] == [f"netns {name}" for name in names]
            for pod in pods:
                assert has_rules_of_ours(pod.inside, "nft")

    def test_a_process_that_has_ended_is_not_there(self, pod: Pod) -> None:
        child = pod.inside.spawn("sleep", "infinity")
        child.kill()
        child.wait()
        done = istio_init("apply", "--pid", str(child.pid))
        assert done.status == 4
        assert f"pid {child.pid}" in done.stderr

    @pytest.mark.parametrize("target", ["no-such", "/run/netns/no-such", "/proc/self/ns/uts", "/etc/passwd", "/"])
    def test_what_is_no_network_namespace_is_not_there(self, target: str) -> None:
        done = istio_init("apply", "--netns", target)
        assert done.status == 4
        assert target in done.stderr


class TestHost:
    """The machine's own namespace, which is refused before anything is read of it."""

    @pytest.fixture(autouse=True)
    def _on_the_host(self) -> None:
        if not namespaces.is_host():
            pytest.skip("the tests run in a network namespace that is not the machine's own")
        dry = istio_init("apply", "--dry-run")
        assert dry.status == 4, "it would program this very machine"

    @staticmethod
    def ruleset() -> str:
        """All rules of the machine, and which legacy tables it has."""
        legacy = [Path("/proc/self/net", name) for name in ("ip_tables_names", "ip6_tables_names")]
        return run("nft", "-s", "list", "ruleset") + "".join(path.read_text() for path in legacy if path.exists())

    @pytest.mark.parametrize("command", ["apply", "clean"])
    @pytest.mark.parametrize("target", [(), ("--pid", str(os.getpid())), ("--netns", "/proc/self/ns/net")])
    def test_it_is_refused_however_it_is_named(self, command: str, target: tuple[str, ...]) -> None:
        before = self.ruleset()
        done = istio_init(command, *target)
        assert done.status == 4
        assert "--allow-host-network" in done.stderr
        assert self.ruleset() == before

    def test_the_drop_in_refuses_it_with_its_own_status(self) -> None:
        before = self.ruleset()
        done = execute(*DROP_IN, *INJECTED)
        assert done.status == 1
        assert "ISTIO_INIT_ALLOW_HOST_NETWORK" in done.stderr
        assert self.ruleset() == before


class TestPrivileges:
    """What root may still do, in an initContainer and with nothing left."""

    @pytest.mark.parametrize("program", [(*DROP_IN, *INJECTED), (*PROGRAM, "apply")], ids=["drop-in", "apply"])
    def test_the_capabilities_of_the_init_container_suffice(
        self, pod: Pod, backend: str, program: tuple[str, ...]
    ) -> None:
        for mode in ("REDIRECT", "TPROXY"):
            flags = ("--force-iptables-binary", backend, "--dual-stack", "-m", mode, "--redirect-dns",
                     "--capture-all-dns", "--reconcile")  # fmt: skip
            run_inside(pod, *ONLY_NETWORK, *program, *flags).ok()
            assert has_rules_of_ours(pod.inside, backend)

    def test_without_capabilities_it_says_which_it_needs(self, pod: Pod, backend: str) -> None:
        for program, status in (((*PROGRAM, "apply"), 5), ((*DROP_IN, *INJECTED), 1)):
            done = run_inside(pod, *WITHOUT_ANY, *program, "--force-iptables-binary", backend)
            assert done.status == status
            assert "NET_ADMIN" in done.stderr
        assert not has_rules_of_ours(pod.inside, backend)

    def test_without_capabilities_no_other_namespace_is_entered(self, pod: Pod) -> None:
        for target in (("--netns", pod.name), ("--pid", str(sleeping_pid(pod)))):
            done = execute(*WITHOUT_ANY, *PROGRAM, "apply", *target)
            assert done.status == 5
            assert "SYS_ADMIN" in done.stderr
        assert not has_rules_of_ours(pod.inside, "nft")


class TestUserNamespace:
    """Pods with a user namespace of their own, from which alone the kernel takes owner matches."""

    @pytest.mark.parametrize("mapped_first", [True, False], ids=["mapped first", "made at once"])
    def test_its_pod_is_programmed(self, backend: str, mapped_first: bool) -> None:
        with Pod.create(owner=Owner(f"0 {FIRST_ID} 65536", mapped_first)) as pod:
            target = ("--pid", str(pod.inside.holder), "--force-iptables-binary", backend)
            istio_init("apply", *target, "--dual-stack").ok()
            for family in Family:
                rules = tables(pod.inside, backend, family)["nat"]["ISTIO_OUTPUT"]
                assert any("--uid-owner" in rule for rule in rules)
                self.check_traffic(pod, family)
            assert "as wanted" in istio_init("apply", *target, "--dual-stack").ok().stdout
            istio_init("apply", *target, "--dual-stack", "-m", "TPROXY").ok()
            istio_init("clean", *target).ok()
            assert not has_rules_of_ours(pod.inside, backend)

    @staticmethod
    def check_traffic(pod: Pod, family: Family) -> None:
        """The application is captured and the proxy is not, by the ids that both have outside."""
        destination = Endpoint(HOSTS[family].far, 80)
        with Listener(pod.inside, family, 15001) as captured, Listener(pod.peer, family, 80) as direct:
            for user, listener in ((APP, captured), (PROXY, direct)):
                outside = User(FIRST_ID + user.uid, FIRST_ID + user.gid)
                client = connect(pod.inside, outside, destination)
                talk(client, listener.accept().connection)

    def test_a_proxy_whom_it_does_not_map_is_named(self, backend: str) -> None:
        with Pod.create(owner=Owner(f"0 {FIRST_ID} 1000")) as pod:
            done = istio_init("apply", "--pid", str(pod.inside.holder), "--force-iptables-binary", backend)
            assert done.status == 1
            assert "1337" in done.stderr
            assert not has_rules_of_ours(pod.inside, backend)

    def test_a_mapped_proxy_can_be_named_instead(self, backend: str) -> None:
        with Pod.create(owner=Owner(f"0 {FIRST_ID} 1000")) as pod:
            target = ("--pid", str(pod.inside.holder), "--force-iptables-binary", backend)
            istio_init("apply", *target, "--proxy-uid", "999").ok()
            assert has_rules_of_ours(pod.inside, backend)


class TestFiles:
    """Whose resolv.conf and passwd count."""

    SERVER = "192.0.2.53"

    def servers(self, pod: Pod) -> str:
        """The rules that name servers."""
        return " ".join(tables(pod.inside, "nft", Family.IPV4)["nat"]["ISTIO_OUTPUT_DNS"])

    def test_with_a_pid_those_of_the_process_count(self, pod: Pod) -> None:
        pod.inside.write_resolv_conf(self.SERVER)
        pod.inside.write_etc("passwd", "root:x:0:0::/:/bin/sh\nistio-proxy:x:4321:4321::/:/bin/false\n")
        done = istio_init("apply", "--pid", str(sleeping_pid(pod)), "--redirect-dns").ok()
        assert f"-d {self.SERVER}/32" in self.servers(pod)
        assert "--uid-owner 4321" in str(tables(pod.inside, "nft", Family.IPV4)["nat"]["ISTIO_OUTPUT"])
        assert done.stderr == ""

    def test_with_a_named_namespace_that_of_its_name_counts(self, pod: Pod) -> None:
        pod.inside.write_resolv_conf(self.SERVER)
        done = istio_init("apply", "--netns", pod.name, "--redirect-dns").ok()
        assert f"-d {self.SERVER}/32" in self.servers(pod)
        assert done.stderr == ""

    def test_with_a_bare_namespace_our_own_counts_with_a_warning(self, pod: Pod) -> None:
        done = istio_init("apply", "--netns", pod.name, "--redirect-dns").ok()
        assert "/etc/resolv.conf" in done.stderr

    def test_with_a_pid_of_a_process_without_servers_dns_capture_is_off(self, pod: Pod) -> None:
        pod.inside.write_etc("resolv.conf", "search example.com\n")
        done = istio_init("apply", "--pid", str(sleeping_pid(pod)), "--redirect-dns").ok()
        assert "DNS capture is off" in done.stderr
        assert "ISTIO_OUTPUT_DNS" not in str(everything(pod.inside))
