"""What lives around the rules is judged by what it is, not by a name or a number alone."""

from __future__ import annotations

import socket
import sys

import pytest
from support.command import istio_init

from istio_init.inspector.findings import catalogue
from istio_init.netfilter.family import Family
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import APP, HOSTS, PROXY, Pod
from istio_init.testing.traffic import Endpoint

from .proof import proves
from .sidecar import INBOUND, OUTBOUND, Inhabitant, Sidecar, Socket

NATIVE = """
table inet istio-proxy-nat {
  chain prerouting { type nat hook prerouting priority dstnat; meta l4proto tcp counter jump istio-inbound; }
  chain output { type nat hook output priority -100; counter jump istio-output; }
  chain istio-inbound { meta l4proto tcp counter redirect to :15006; }
  chain istio-output { meta skuid 1337 counter return; meta l4proto tcp counter redirect to :15001; }
}
"""


@pytest.fixture
def bare(real_kernel: None, healthy: Sidecar) -> Sidecar:
    """A pod with a proxy and without redirection."""
    istio_init("clean", "--netns", healthy.inside.name).ok()
    return healthy


def test_redirection_in_native_tables_is_no_bypass(bare: Sidecar) -> None:
    bare.inside.run("nft", NATIVE)

    assert "mesh-bypassed" not in bare.findings()


@pytest.mark.parametrize(("name", "found"), [("pbs_server", []), ("envoy", ["mesh-bypassed"])])
def test_a_stranger_on_one_port_of_the_proxy_is_no_proxy(bare: Sidecar, name: str, found: list[str]) -> None:
    bare.proxy.kill()
    bare.start(APP, Endpoint("0.0.0.0", OUTBOUND), name=name)

    assert list(bare.findings()) == found


@proves(catalogue.LOOPBACK_DOWN)
def test_a_loopback_interface_that_is_down_is_told(healthy: Sidecar) -> None:
    healthy.inside.run("ip", "link", "set", "lo", "down")

    assert healthy.findings()["loopback-down"] == ["lo is down"]


@pytest.mark.parametrize(
    ("address", "missing"),
    [("127.0.0.1", INBOUND), (HOSTS[Family.IPV4].pod, OUTBOUND), ("0.0.0.0", None)],
)
def test_a_listener_hears_what_comes_to_its_address(real_kernel: None, address: str, missing: int | None) -> None:
    """Outbound connections are redirected to the loopback address, inbound ones to that of the interface."""
    with Sidecar.create(families=(Family.IPV4,)) as pod:
        pod.proxy.kill()
        sockets = [Socket(Endpoint(address, port)) for port in (OUTBOUND, INBOUND)]
        Inhabitant(pod.inside, PROXY, *sockets, name="envoy")
        found = pod.findings()

    assert [line.partition(" where ")[0] for line in found.get("no-listener", [])] == (
        [] if missing is None else [f"nothing listens on tcp {missing}"]
    )


def test_datagrams_are_no_connections(healthy: Sidecar) -> None:
    istio_init("clean", "--netns", healthy.inside.name).ok()
    healthy.proxy.kill()
    healthy.app.kill()
    with healthy.inside.open_socket(socket.AF_INET, socket.SOCK_DGRAM, APP) as made:
        healthy.inside.run("ss", "-K", check=False)
        made.connect((HOSTS[Family.IPV4].far, 8125))
        healthy.apply("--dual-stack")

        assert "zero-counters" not in healthy.findings()


def test_the_name_servers_of_a_namespace_without_files_are_not_known(real_kernel: None, pod: Pod) -> None:
    """Named by its path its resolv.conf is the machine's, which says nothing of the pod."""
    pod.inside.write_resolv_conf("10.77.0.1")
    istio_init("apply", "--netns", pod.name, "--redirect-dns").ok()

    done = istio_init("explain", "--netns", f"/run/netns/{pod.name}")

    assert "[dns-servers-differ]" not in done.stdout


def test_findings_are_not_ruled_out_where_processes_cannot_be_looked_into(healthy: Sidecar) -> None:
    few = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"]

    said = healthy.inside.run(*few, sys.executable, "-m", "istio_init", "explain")

    said = " ".join(said.split())
    assert "none, in what could be read" in said
    assert "listening sockets, which takes the capability SYS_PTRACE" in said


def test_everything_is_seen_with_all_capabilities(healthy: Sidecar) -> None:
    with Namespace.create() as another:
        another.spawn("sleep", "60")

        assert healthy.explain()["unread"] == []
