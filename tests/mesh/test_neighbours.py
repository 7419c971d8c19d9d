"""Rules of others, told by the names that their makers give."""

from __future__ import annotations

import pytest

from istio_init.mesh.neighbours import (
    AZURE_IDENTITY,
    CILIUM,
    CONSUL,
    DOCKER,
    DOCKER_DNS,
    FIREWALLD,
    KUBE_PROXY,
    KUBE_ROUTER,
    KUBEVIRT,
    KUMA,
    LINKERD,
    LOCAL_DNS,
    METADATA,
    TAILSCALE,
    Home,
    Neighbour,
    neighbour_of,
    neighbours,
)
from istio_init.netfilter.chains import Chain, Table
from istio_init.netfilter.rules import Origin, Rule, Store


def origin(chain: str, text: str = "", table: str = "nat", family: str = "ip") -> Origin:
    return Origin(Store.NFT, family, table, chain, 1, text)


@pytest.mark.parametrize(
    ("rule", "neighbour"),
    [
        (origin("PROXY_INIT_REDIRECT", "-p tcp -j REDIRECT --to-ports 4143"), LINKERD),
        (origin("OUTPUT", "-m comment --comment x -j PROXY_INIT_OUTPUT"), LINKERD),
        (origin("CONSUL_PROXY_OUTPUT"), CONSUL),
        (origin("CONSUL_NAT_OUTPUT", table="consul_tproxy", family="inet"), CONSUL),
        (origin("KUMA_MESH_INBOUND"), KUMA),
        (origin("AZWI_PROXY_OUTPUT", "-d 169.254.169.254/32 -p tcp -j AZWI_PROXY_REDIRECT"), AZURE_IDENTITY),
        (origin("OUTPUT", "-d 127.0.0.11/32 -j DOCKER_OUTPUT"), DOCKER_DNS),
        (origin("PREROUTING", "-m addrtype --dst-type LOCAL -j DOCKER"), DOCKER),
        (origin("DOCKER-USER", "-j RETURN", table="filter"), DOCKER),
        (origin("KUBE-SVC-AAAA"), KUBE_PROXY),
        (origin("services", "ip daddr . meta l4proto vmap @x", table="kube-proxy"), KUBE_PROXY),
        (origin("KUBE-ROUTER-INPUT", table="filter"), KUBE_ROUTER),
        (origin("prerouting", 'iifname "eth0" counter packets 0 bytes 0 jump KUBEVIRT_PREINBOUND'), KUBEVIRT),
        (origin("ts-input", table="filter"), TAILSCALE),
        (origin("filter_INPUT", table="firewalld", family="inet"), FIREWALLD),
        (origin("INPUT", "-j INPUT_direct", table="filter"), FIREWALLD),
        (origin("IN_public_allow", table="filter"), FIREWALLD),
        (origin("OLD_CILIUM_PRE_mangle", table="mangle"), CILIUM),
        (
            origin("PREROUTING", "-d 169.254.169.254/32 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8181"),
            METADATA,
        ),
        (
            origin("OUTPUT", '-s 169.254.20.10/32 -m comment --comment "NodeLocal DNS Cache: skip" -j NOTRACK', "raw"),
            LOCAL_DNS,
        ),
    ],
    ids=lambda value: value.chain if isinstance(value, Origin) else value.name,
)
def test_a_rule_is_its_makers(rule: Origin, neighbour: Neighbour) -> None:
    assert neighbour_of(rule) is neighbour


@pytest.mark.parametrize(
    "rule",
    [
        origin("ISTIO_OUTPUT", "-j ISTIO_REDIRECT"),
        origin("istio-output", "jump istio-redirect", table="istio-proxy-nat", family="inet"),
        origin("PREROUTING", "-p tcp -j ISTIO_INBOUND"),
        origin("INPUT", "-p tcp -m tcp --dport 22 -j DROP", table="filter"),
        origin("OUTPUT", "-d 169.254.169.254/32 -j DROP", table="filter"),
        origin("OUTPUT", "-d 169.254.169.25/32 -j DNAT --to-destination 10.0.0.1"),
        origin("OUTPUT", '-m comment --comment "not -j DOCKER_OUTPUT" -j ACCEPT'),
        origin("INPUT", table="filter"),
        origin("POSTROUTING", "-j MASQUERADE"),
    ],
    ids=lambda rule: f"{rule.chain} {rule.text}",
)
def test_a_rule_of_the_mesh_or_of_nobody_that_is_known_has_no_maker(rule: Origin) -> None:
    assert neighbour_of(rule) is None


def test_makers_are_told_with_all_their_rules() -> None:
    rules = [
        origin("OUTPUT", "-j PROXY_INIT_OUTPUT"),
        origin("OUTPUT", "-p tcp -j ACCEPT"),
        origin("PROXY_INIT_OUTPUT", "-m owner --uid-owner 2102 -j RETURN"),
        origin("OUTPUT", "-d 127.0.0.11/32 -j DOCKER_OUTPUT"),
    ]
    chains = {
        name: Chain(name, tuple(Rule((), each) for each in rules if each.chain == name))
        for name in ("OUTPUT", "PROXY_INIT_OUTPUT")
    }

    found = neighbours([Table(Store.LEGACY, "ip", "nat", chains)])

    assert found == {LINKERD: (rules[0], rules[2]), DOCKER_DNS: (rules[3],)}


def test_only_another_mesh_competes_with_ours() -> None:
    assert LINKERD.is_mesh and LINKERD.home is Home.POD
    assert not any(each.is_mesh for each in (KUBE_PROXY, DOCKER_DNS, KUBEVIRT))
