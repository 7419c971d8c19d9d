"""Pods under native nftables, and in an ambient mesh: the same sentences, and what is said where one does not hold."""

from __future__ import annotations

import pytest

from istio_init.testing import CommandError, Family, Pod

TEMPLATE = "-b '*' -i '*' -d 15090,15021,15020 --dual-stack"
WORLD = {Family.IPV4: "203.0.113.7", Family.IPV6: "2001:db8::7"}


@pytest.fixture(params=[False, True], ids=["iptables", "native"])
def native(request: pytest.FixtureRequest) -> bool:
    """Whether rules are nftables."""
    found: bool = request.param
    return found


def tables(pod: Pod) -> set[str]:
    """The nftables tables of a pod, Istio's own among them."""
    return {line.split()[-1] for line in pod.inside.run("nft", "list", "tables").splitlines()}


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_a_native_sidecar_captures_what_the_other_does(istio_pod: Pod, mode: str) -> None:
    printed = istio_pod.redirect(f"{TEMPLATE} -m {mode} --redirect-dns --capture-all-dns", native=True)

    assert "native" in printed
    assert {"istio-proxy-nat", "istio-proxy-raw"} <= tables(istio_pod)
    for family, address in WORLD.items():
        istio_pod.app.connecting_to(address, 443).must_reach_proxy(15001)
        istio_pod.app.sending_to(address, 53).must_reach_proxy(15053)
        istio_pod.proxy.connecting_to(address, 443).must_be_direct()
        istio_pod.outside.connecting_to(istio_pod.hosts[family].pod, 8080).must_reach_proxy(15006)
        istio_pod.outside.connecting_to(istio_pod.hosts[family].pod, 15021).must_be_direct()


def test_an_ambient_pod_has_ztunnel_for_its_proxy(istio_pod: Pod, native: bool) -> None:
    istio_pod.ambient(native=native)

    assert ("istio-ambient-nat" in tables(istio_pod)) is native
    for family, address in WORLD.items():
        own = istio_pod.hosts[family].pod
        istio_pod.app.connecting_to(address, 443).must_reach_proxy(15001)
        istio_pod.app.sending_to(address, 53).must_reach_proxy(15053)
        istio_pod.app.connecting_to(own, 8080).must_be_direct()
        istio_pod.ztunnel.connecting_to(address, 443).must_be_direct()
        istio_pod.ztunnel.sending_to(address, 53).must_be_direct()
        istio_pod.outside.connecting_to(own, 8080).must_reach_proxy(15006)
        istio_pod.outside.connecting_to(own, 15008).must_be_direct()


def test_arguments_of_ambient_pods_count(istio_pod: Pod, native: bool) -> None:
    istio_pod.ambient("--bypass-inbound-capture --redirect-dns=false", native=native)

    istio_pod.outside.connecting_to(istio_pod.ipv4, 8080).must_be_direct()
    istio_pod.app.sending_to(WORLD[Family.IPV4], 53).must_be_direct()
    with pytest.raises(CommandError, match="--proxy-uid"):
        istio_pod.ambient("--proxy-uid 5")


def test_each_kind_and_store_replaces_what_was_there(istio_pod: Pod) -> None:
    address = WORLD[Family.IPV4]
    istio_pod.redirect(TEMPLATE)
    istio_pod.ztunnel.connecting_to(address, 443).must_reach_proxy(15001)
    istio_pod.ambient(native=True)
    istio_pod.proxy.connecting_to(address, 443).must_reach_proxy(15001)
    istio_pod.redirect(TEMPLATE, native=True)
    istio_pod.ztunnel.connecting_to(address, 443).must_reach_proxy(15001)
    istio_pod.clean()
    istio_pod.app.connecting_to(address, 443).must_be_direct()
    assert not {each for each in tables(istio_pod) if each.startswith("istio-")}


def test_what_does_not_hold_of_ztunnel_is_explained_with_its_mark(istio_pod: Pod, native: bool) -> None:
    istio_pod.ambient(native=native)

    with pytest.raises(AssertionError) as caught:
        istio_pod.ztunnel.connecting_to("203.0.113.7", 443).must_reach_proxy(15001)

    said = str(caught.value).splitlines()
    words = (
        "user 0, group 0 of pod, connecting to 203.0.113.7:443, marking it 0x539, must reach the proxy at port 15001"
    )
    assert said[0] == words
    assert said[1].startswith("but it was direct: it reached its destination, port 443 of peer")
    assert any("mark 0x539" in line for line in said[2:])


def test_a_native_rule_that_decided_is_named(istio_pod: Pod) -> None:
    istio_pod.redirect(f"{TEMPLATE} -x 10.96.0.0/12", native=True)

    with pytest.raises(AssertionError, match="inet istio-proxy-nat istio-output") as caught:
        istio_pod.app.connecting_to("10.96.0.5", 5432).must_reach_proxy(15001)

    assert "Traffic to this range bypasses the proxy" in str(caught.value)
