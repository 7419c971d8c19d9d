"""What docs/stores.md shows is what the commands print, in pods whose rules are in the stores that it speaks of."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.command import istio_init

from istio_init.config.ambient import AmbientConfig
from istio_init.testing.pods import Pod

from . import natives
from .sidecar import Sidecar
from .test_documented import assert_shown, shown
from .test_stores import SERVER, V4, V6, bare, load, route, write_ambient, ztunnel

PAGE = "stores.md"
WITHOUT_DNS = AmbientConfig(ipv6=False, redirect_dns=False)
WITH_A_MACHINE = AmbientConfig(ipv6=False, virtual_interfaces=("vm0",))


def test_a_sidecar_in_native_nftables(real_kernel: None) -> None:
    with bare(V4, V6) as made:
        load(made.inside, natives.SIDECAR)
        made.inside.run("ip", "addr", "add", "::6/128", "dev", "lo")
        made.connect()
        assert_shown(PAGE, made, "A sidecar in native", "TPROXY in native")


def test_tproxy_in_native_nftables(real_kernel: None) -> None:
    with bare(V4, servers=(SERVER,)) as made:
        load(made.inside, natives.TPROXY_WITH_DNS)
        route(made.inside, "0x539", 133)
        made.connect()
        assert_shown(PAGE, made, "TPROXY in native", "A pod of an ambient mesh")


@pytest.fixture
def ambient(real_kernel: None) -> Iterator[Pod]:
    """A pod with the routing and the sockets of an ambient one, and without rules."""
    with Pod.create(families=(V4,)) as made:
        route(made.inside, "0x111/0xfff", 100)
        with ztunnel(made.inside):
            yield made


def test_a_pod_of_an_ambient_mesh(ambient: Pod) -> None:
    load(ambient.inside, natives.AMBIENT)
    assert_shown(PAGE, ambient, "A pod of an ambient mesh", "An ambient pod in iptables-nft")


def test_ambient_pods_in_the_stores_of_iptables(ambient: Pod, both_backends: None) -> None:
    write_ambient(ambient.inside, "nft", WITHOUT_DNS)
    assert_shown(PAGE, ambient, "An ambient pod in iptables-nft", "An ambient pod in iptables-legacy")
    ambient.inside.run("nft", "flush", "ruleset")
    write_ambient(ambient.inside, "legacy", WITH_A_MACHINE)
    assert_shown(PAGE, ambient, "An ambient pod in iptables-legacy", "In a list of pods")


def test_a_list_of_pods(ambient: Pod, both_backends: None) -> None:
    load(ambient.inside, natives.AMBIENT)
    namespace = f"shop-{secrets.token_hex(4)}"
    (command, lines), *_ = shown(PAGE, "In a list of pods", "Neighbours")
    with ExitStack() as stack:
        sidecar = stack.enter_context(Sidecar.create("-m", "TPROXY", backend="legacy", families=(V4,)))
        for name, inside in (("cart-5d8b", sidecar.inside), ("payment-7f9c", ambient.inside)):
            inside.spawn("sleep", "300", env={"POD_NAME": name, "POD_NAMESPACE": namespace})
        found = istio_init(*command.split()[1:-1], namespace).ok().stdout.replace(namespace, "shop")

    pid = re.compile(r"(?<= )\d+(?= )")
    assert [pid.sub("N", line).split() for line in found.splitlines()] == [pid.sub("N", line).split() for line in lines]


def test_neighbours(real_kernel: None, both_backends: None) -> None:
    with Sidecar.create(families=(V4,)) as made:
        made.iptables("-t", "nat", "-N", "DOCKER_POSTROUTING")
        made.iptables("-t", "nat", "-A", "DOCKER_POSTROUTING", "-j", "RETURN")
        made.iptables("-N", "KUBE-FIREWALL", backend="legacy")
        made.iptables("-A", "INPUT", "-j", "KUBE-FIREWALL", backend="legacy")
        assert_shown(PAGE, made, "Neighbours", "The launcher")


def test_the_launcher_of_a_virtual_machine(real_kernel: None, both_backends: None) -> None:
    with Sidecar.create(backend="legacy", families=(V4,)) as made:
        load(made.inside, natives.KUBEVIRT)
        assert_shown(PAGE, made, "The launcher", "Two at once")


def test_two_at_once(real_kernel: None, tmp_path: Path) -> None:
    with Sidecar.create(families=(V4,)) as made:
        load(made.inside, natives.SIDECAR)
        assert_shown(PAGE, made, "Two at once", "Formats")
        saved = istio_init("explain", "--format", "save", made.inside.name).stdout

    (tmp_path / "saved").write_text(saved)
    read = istio_init("explain", "--format", "json", "--file", str(tmp_path / "saved")).stdout
    assert {"both-backends"} <= {each["code"] for each in json.loads(read)["findings"]}
    *_, title, line = saved.rstrip("\n").split("\n")
    assert title == "# native (nft -j list ruleset)"
    with Pod.create(families=(V4,)) as other:
        other.inside.run("nft", "-j", "-f", "-", stdin=line)
        assert "tcp dport 15090" in other.inside.run("nft", "list", "table", "inet", "istio-proxy-nat")
