"""explain --expect and diff on live rules of sidecars and ambient pods, in each store."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.command import PROGRAM, execute, istio_init

from istio_init.testing.pods import Pod

from .test_stores import ztunnel

STORES = {
    "nft": ("--force-iptables-binary", "nft"),
    "legacy": ("--force-iptables-binary", "legacy"),
    "native": ("--native-nftables",),
}
INJECTED = "-b '*' -i '*' -d 15090,15021,15020"

EQUAL: dict[str, Any] = {"equal": True, "note": None, "changes": [], "command": None}

Told = set[tuple[str, str, str]]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, both_backends: None) -> tuple[str, ...]:
    """The flags that name each store."""
    return STORES[request.param]


def explained(pod: Pod, expect: str) -> tuple[int, dict[str, Any]]:
    """The exit status of ``explain --check``, and the drift that it tells."""
    done = istio_init("explain", "--netns", pod.name, "--expect", expect, "--check", "--format", "json")
    return done.status, json.loads(done.stdout)["drift"]


def rules(drift: dict[str, Any]) -> Told:
    """What is missing, extra or moved, the chain, and the rule."""
    return {(each["change"], each["chain"], each["text"]) for each in drift["changes"]}


def test_an_ambient_pod_is_as_expected_and_otherwise_the_rules_are_named(pod: Pod, store: tuple[str, ...]) -> None:
    istio_init("apply", "--ambient", "--netns", pod.name, *store).ok()

    with ztunnel(pod.inside):
        assert explained(pod, "--ambient") == (0, EQUAL)
        assert explained(pod, "istio-init apply --ambient --native-nftables --ipv6=true")[0] == 0
    status, drift = explained(pod, "--ambient --bypass-inbound-capture --ipv6=false")
    assert (status, drift["equal"]) == (3, False)
    assert {kind for kind, *_ in rules(drift)} == {"extra"}
    inbound = [text for _, chain, text in rules(drift) if chain == "ISTIO_PRERT" and "--to-ports 15006" in text]
    assert len(inbound) == 2
    four = [each["chain"] for each in drift["changes"] if each["family"] == "ipv4"]
    assert four == ["ISTIO_PRERT", "ISTIO_PRERT"]


def test_a_rule_that_was_deleted_is_missing(pod: Pod, store: tuple[str, ...]) -> None:
    istio_init("apply", "--ambient", "--netns", pod.name, *store, "--ipv6=false").ok()
    if store == STORES["native"]:
        pod.inside.run("nft", "flush", "chain", "inet", "istio-ambient-mangle", "istio-output")
    else:
        pod.inside.run(f"iptables-{store[-1]}", "-t", "mangle", "-F", "ISTIO_OUTPUT")

    status, drift = explained(pod, "--ambient --ipv6=false")

    assert status == 3
    [(kind, chain, text)] = rules(drift)
    assert (kind, chain) == ("missing", "ISTIO_OUTPUT")
    assert "0x111/0xfff" in text


def test_a_native_sidecar_is_as_expected_and_otherwise_the_rules_are_named(pod: Pod) -> None:
    flags = ("--dual-stack", "-x", "10.1.0.0/16,10.2.0.0/16", "-o", "99,100")
    istio_init("apply", "--native-nftables", "--netns", pod.name, *flags).ok()

    line = f"{INJECTED} --dual-stack -x 10.2.0.0/16,10.1.0.0/16 -o 100,99"
    assert explained(pod, line)[1] == EQUAL
    _, drift = explained(pod, f"{line} -c eth7")
    assert not drift["equal"]
    assert {(kind, chain) for kind, chain, _ in rules(drift)} == {("missing", "PREROUTING"), ("missing", "OUTPUT")}


@pytest.mark.parametrize(
    ("live", "expect", "note"),
    [
        (("--ambient",), INJECTED, "the rules are those of an ambient pod, and not of a sidecar"),
        (("--ambient", "--native-nftables"), INJECTED, "the rules are those of an ambient pod, and not of a sidecar"),
        ((), "--ambient", "the rules are those of a sidecar, and not of an ambient pod"),
        (("--native-nftables",), "--ambient", "the rules are those of a sidecar, and not of an ambient pod"),
    ],
)
def test_the_other_kind_of_pod_is_said_to_be_that(pod: Pod, live: tuple[str, ...], expect: str, note: str) -> None:
    istio_init("apply", "--netns", pod.name, *live).ok()

    status, drift = explained(pod, expect)

    assert (status, drift["equal"], drift["note"]) == (3, False, note)


def test_without_any_rules_all_are_missing(pod: Pod) -> None:
    status, drift = explained(pod, "--ambient")

    assert (status, drift["note"]) == (3, None)
    assert {kind for kind, *_ in rules(drift)} == {"missing"}


def test_diff_takes_the_arguments_of_ambient_pods_too(pod: Pod, store: tuple[str, ...]) -> None:
    istio_init("apply", "--ambient", "--netns", pod.name, *store, "--kube-virt-interfaces", "vm0").ok()

    equal = istio_init("diff", pod.name, "--ambient --kube-virt-interfaces vm0").ok()
    differs = istio_init("diff", pod.name, "--ambient --kube-virt-interfaces vm0 --bypass-inbound-capture")

    assert equal.stdout == "equal: every new connection has the same outcome\n"
    assert differs.status == 3
    assert "inbound, ipv4: proxied to port 15006 in A, direct in B" in differs.stdout
    assert "outbound" not in differs.stdout


def test_trace_and_map_take_them(pod: Pod) -> None:
    traced = istio_init("trace", "--expect", "--ambient", "outbound", "tcp", "192.0.2.1:80").ok()
    mapped = istio_init("map", "--expect", "--ambient --redirect-dns=false", "--only", "redirect").ok()

    assert "15001" in traced.stdout
    assert "15006" in mapped.stdout


@pytest.mark.parametrize(
    ("kind", "expect"), [((), INJECTED), (("--ambient",), "--ambient")], ids=["sidecar", "ambient"]
)
def test_native_rules_are_the_same_where_nft_knows_no_protocol_by_name(
    pod: Pod, kind: tuple[str, ...], expect: str
) -> None:
    istio_init("apply", "--native-nftables", "--netns", pod.name, *kind).ok()
    as_slim_images = 'mount --bind /dev/null /etc/protocols && exec "$@"'
    slim = ("unshare", "--mount", "sh", "-c", as_slim_images, "sh")
    target = ("--netns", pod.name)

    told = execute(*slim, *PROGRAM, "explain", *target, "--expect", expect, "--format", "json").ok()
    again = execute(*slim, *PROGRAM, "apply", "--native-nftables", *target, "--no-reconcile", *kind).ok()
    diff = execute(*slim, *PROGRAM, "diff", pod.name, expect).ok()

    said = json.loads(told.stdout)
    assert (said["exact"], said["drift"]) == (True, EQUAL)
    assert "as wanted already" in again.stdout
    assert diff.stdout == "equal: every new connection has the same outcome\n"
