"""verify of pods in an ambient mesh, in each store of rules: of healthy ones, and of some that somebody broke."""

from __future__ import annotations

import contextlib
import subprocess
from itertools import product
from typing import NamedTuple
from unittest.mock import patch

import pytest
from support.command import istio_init

from istio_init.config.ambient import AmbientConfig
from istio_init.netfilter.family import Family
from istio_init.observe.namespace import observe
from istio_init.prove.ambient import CHECKED
from istio_init.prove.intent import expected
from istio_init.prove.model import Report
from istio_init.prove.validation import validate
from istio_init.system import places
from istio_init.system.probing import Run
from istio_init.system.spots import Seen
from istio_init.testing.owners import Owner
from istio_init.testing.pods import Pod
from istio_init.testing.traffic import Listener

from .proof import NOT_PROVED, Proof, apply, verify

STORES = {"nft": ("--force-iptables-binary", "nft"), "legacy": ("--force-iptables-binary", "legacy"),
          "native": ("--native-nftables",)}  # fmt: skip

DIRECTLY = "direct: it reached its destination"
TIMED_OUT = "it timed out"
PROBE, PROBE_V6 = "169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"

CAPTURED = (
    ("outbound", "ipv4", "an application to 192.0.2.253:80/tcp: 15001"),
    ("outbound", "ipv4", "ztunnel to 192.0.2.253:80/tcp: direct"),
    ("outbound", "ipv4", f"an application to {PROBE}:80/tcp: direct"),
    ("dns", "ipv4", "an application to 192.0.2.253:53/udp: 15053"),
    ("dns", "ipv4", "an application to 192.0.2.253:53/tcp: 15053"),
    ("dns", "ipv4", "ztunnel to 192.0.2.253:53/udp: direct"),
    ("dns", "ipv4", "ztunnel to 192.0.2.253:53/tcp: direct"),
    ("inside", "ipv4", "an application to 127.0.0.1:28080/tcp: direct"),
    ("inside", "ipv4", "an application to 10.77.0.2:28080/tcp: direct"),
    ("inside", "ipv4", "ztunnel as the client 203.0.113.77 to 10.77.0.2:28080/tcp: direct"),
    ("inbound", "ipv4", "a client to 10.77.0.2:28080/tcp: 15006"),
    ("inbound", "ipv4", "a client to 10.77.0.2:15008/tcp: direct"),
    ("inbound", "ipv4", f"the host's probe from {PROBE} to 10.77.0.2:38080/tcp: direct"),
)
CAPTURED_V6 = (
    ("outbound", "ipv6", "an application to 2001:db8:fc00::1:80/tcp: 15001"),
    ("outbound", "ipv6", "ztunnel to 2001:db8:fc00::1:80/tcp: direct"),
    ("outbound", "ipv6", f"an application to {PROBE_V6}:80/tcp: direct"),
    ("dns", "ipv6", "an application to 2001:db8:fc00::1:53/udp: 15053"),
    ("dns", "ipv6", "an application to 2001:db8:fc00::1:53/tcp: 15053"),
    ("dns", "ipv6", "ztunnel to 2001:db8:fc00::1:53/udp: direct"),
    ("dns", "ipv6", "ztunnel to 2001:db8:fc00::1:53/tcp: direct"),
    ("inside", "ipv6", "an application to ::1:28080/tcp: direct"),
    ("inside", "ipv6", "an application to fd00:77::2:28080/tcp: direct"),
    ("inside", "ipv6", "ztunnel as the client 2001:db8:ffff::77 to fd00:77::2:28080/tcp: direct"),
    ("inbound", "ipv6", "a client to fd00:77::2:28080/tcp: 15006"),
    ("inbound", "ipv6", "a client to fd00:77::2:15008/tcp: direct"),
    ("inbound", "ipv6", f"the host's probe from {PROBE_V6} to fd00:77::2:38080/tcp: direct"),
)


class Case(NamedTuple):
    """A configuration, and of its probes some, or all: group, family, probe."""

    flags: tuple[str, ...]
    among: tuple[tuple[str, str, str], ...]
    is_all: bool = False
    env: dict[str, str] | None = None
    """What says the same as the flags where they cannot be told apart from Istio's variables."""


CASES = {
    "as Istio has it": Case((), (*CAPTURED, *CAPTURED_V6), is_all=True),
    "IPv4 alone": Case(("--ipv6=false",), CAPTURED, is_all=True),
    "without DNS": Case(
        ("--redirect-dns=false",),
        (
            ("dns", "ipv4", "an application to 192.0.2.253:53/udp: direct"),
            ("dns", "ipv4", "an application to 192.0.2.253:53/tcp: 15001"),
        ),
    ),
    "with inbound connections left to the pod": Case(
        ("--bypass-inbound-capture",),
        (
            ("inbound", "ipv4", "a client to 10.77.0.2:28080/tcp: direct"),
            ("inbound", "ipv6", f"the host's probe from {PROBE_V6} to fd00:77::2:38080/tcp: direct"),
        ),
    ),
    "with an address of one's own for probes": Case(
        ("--host-probe-address", "192.0.2.1"),
        (("inbound", "ipv4", "the host's probe from 192.0.2.1 to 10.77.0.2:38080/tcp: direct"),),
        env={"HOST_PROBE_SNAT_IP": "192.0.2.1"},
    ),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, both_backends: None) -> tuple[str, ...]:
    """The flags that name each store."""
    return STORES[request.param]


def ambient(pod: Pod, *flags: str) -> None:
    """Program an ambient pod."""
    apply(pod, "--ambient", *flags)


def probes(proof: Proof) -> set[tuple[str, str, str]]:
    """Every probe: group, family, and what it is."""
    groups = ("outbound", "dns", "inside", "inbound")
    return {
        (group, family, each) for group in groups for family in ("ipv4", "ipv6") for each in proof.probes(group, family)
    }


WHERE = [
    (name, store)
    for number, name in enumerate(CASES)
    for store in (STORES if not number else [list(STORES)[number % 3]])
]
"""Istio's defaults in each store, the others in one."""


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize(("name", "where"), WHERE)
def test_everything_comes_out_where_the_live_rules_configuration_has_it(pod: Pod, name: str, where: str) -> None:
    case, store = CASES[name], STORES[where]
    ambient(pod, *store, *case.flags)

    proof = verify(pod).ok()

    argv = ["--ambient", *(() if case.env else case.flags)]
    assert proof.said["held_to"] == {"source": "live", "argv": argv, "env": case.env or {}}
    assert proof.notes == []
    assert probes(proof) >= set(case.among)
    assert not case.is_all or probes(proof) == set(case.among)


class Broken(NamedTuple):
    """What was done by hand, in each store, and of one probe that fails for it: who, where, what happened, why."""

    done: str
    native: str
    who: str
    where: str
    happened: str
    reason: str


NAT, MANGLE = "inet istio-ambient-nat", "inet istio-ambient-mangle"
CLIENT = "ztunnel as the client 203.0.113.77"
NO_RULE = "direct: no rule matches"

BROKEN = {
    "capture of what leaves that was flushed": Broken(
        "iptables -t nat -F ISTIO_OUTPUT",
        f"nft flush chain {NAT} istio-output",
        "an application",
        "192.0.2.253:80/tcp",
        DIRECTLY,
        NO_RULE,
    ),
    "capture of what enters that was flushed": Broken(
        "iptables -t nat -F ISTIO_PRERT",
        f"nft flush chain {NAT} istio-prerouting",
        "a client",
        "10.77.0.2:28080/tcp",
        DIRECTLY,
        NO_RULE,
    ),
    "a RETURN ahead": Broken(
        "iptables -t nat -I OUTPUT -p tcp -j RETURN",
        f"nft insert rule {NAT} output ip protocol tcp return",
        "an application",
        "192.0.2.253:53/tcp",
        DIRECTLY,
        "direct: rule 1 of ",
    ),
    "a removed routing rule": Broken(
        "ip rule del fwmark 0x111/0xfff",
        "ip rule del fwmark 0x111/0xfff",
        CLIENT,
        "10.77.0.2:28080/tcp",
        TIMED_OUT,
        "no ipv4 routing rule with a local route leads them to this machine",
    ),
    "connections of ztunnel that get no mark": Broken(
        "iptables -t mangle -F ISTIO_PRERT",
        f"nft flush chain {MANGLE} istio-prerouting",
        CLIENT,
        "10.77.0.2:28080/tcp",
        TIMED_OUT,
        "no rule marks the connection 0x111",
    ),
    "answers to ztunnel that get no mark": Broken(
        "iptables -t mangle -F ISTIO_OUTPUT",
        f"nft flush chain {MANGLE} istio-output",
        CLIENT,
        "10.77.0.2:28080/tcp",
        TIMED_OUT,
        "its connection is marked 0x111, but no rule gives answers that mark",
    ),
    "a redirection of all DNS ahead": Broken(
        "iptables -t nat -I OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 15053",
        f"nft insert rule {NAT} output ip protocol udp udp dport 53 redirect to :15053",
        "ztunnel",
        "192.0.2.253:53/udp",
        "proxied to port 15053: it would loop",
        "proxied to port 15053: rule 1 of ",
    ),
    "the host's probes captured": Broken(
        "iptables -t nat -I PREROUTING -p tcp --dport 38080 -j REDIRECT --to-ports 15006",
        f"nft insert rule {NAT} prerouting ip protocol tcp tcp dport 38080 redirect to :15006",
        f"the host's probe from {PROBE}",
        "10.77.0.2:38080/tcp",
        TIMED_OUT,
        "proxied to port 15006: rule 1 of ",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_probe_that_fails_says_what_happened_and_what_decided_it(
    pod: Pod, request: pytest.FixtureRequest, both_backends: None, name: str
) -> None:
    case = BROKEN[name]
    stores = list(STORES)
    # Each breach in one store, each store with several: what is said comes from one model of all of them.
    store = stores[list(BROKEN).index(name) % len(stores)]
    ambient(pod, *STORES[store])
    command = case.native if store == "native" else case.done.replace("iptables", f"iptables-{store}")
    pod.inside.run(*command.split())

    proof = verify(pod, "--expect", "--ambient")

    assert (proof.status, proof.said["proved"]) == (NOT_PROVED, False)
    [probe] = [
        each
        for each in proof.failed
        if each["who"] == case.who
        and f"{each['packet']['dst']}:{each['packet']['dport']}/{each['packet']['proto']}" == case.where
    ]
    assert probe["happened"] == case.happened
    assert case.reason in probe["reason"]


def test_a_rule_that_is_missing_is_found_without_an_expectation(pod: Pod, store: tuple[str, ...]) -> None:
    ambient(pod, *store)
    chain = {"nft": "iptables-nft -t raw -F ISTIO_OUTPUT", "legacy": "iptables-legacy -t raw -F ISTIO_OUTPUT"}
    command = chain.get(store[-1], "nft flush chain inet istio-ambient-raw istio-output")
    pod.inside.run(*command.split())

    proof = verify(pod)

    assert (proof.status, proof.failed) == (NOT_PROVED, [])
    assert any("missing: -A ISTIO_OUTPUT -p udp" in problem for problem in proof.said["problems"])
    assert any("--expect" in note for note in proof.said["notes"])


def test_a_rule_for_an_interface_that_no_probe_passes_is_found_by_tracing(pod: Pod) -> None:
    ambient(pod)
    pod.inside.run("iptables", "-t", "nat", "-I", "PREROUTING", "-i", "eth0", "-j", "ACCEPT")

    proof = verify(pod)

    assert (proof.status, proof.failed) == (NOT_PROVED, [])
    assert any("PREROUTING 1: -i eth0 -j ACCEPT" in each for each in proof.said["problems"])


def test_what_enters_by_virtual_interfaces_is_listed_as_not_probed_and_traced(pod: Pod) -> None:
    pod.inside.run("ip", "link", "add", "vm0", "type", "veth", "peer", "name", "vm1")
    pod.inside.run("ip", "link", "set", "vm0", "up")
    pod.inside.run("ip", "link", "set", "vm1", "up")
    ambient(pod, "--kube-virt-interfaces", "vm0")

    assert "what enters via vm0" in [each["what"] for each in verify(pod).ok().said["not_probed"]]
    pod.inside.run("iptables", "-t", "nat", "-D", "ISTIO_PRERT", "1")

    proof = verify(pod, "--expect", "--ambient --kube-virt-interfaces vm0")
    assert (proof.status, proof.failed) == (NOT_PROVED, [])
    assert any(each.startswith("inbound via vm0: direct: ") for each in proof.said["problems"])


def test_what_is_expected_counts_and_a_sidecar_is_no_ambient_pod(pod: Pod) -> None:
    ambient(pod, "--redirect-dns=false")

    assert verify(pod, "--expect", "istio-init apply --ambient --redirect-dns=false").ok().said["held_to"] == {
        "source": "expect",
        "argv": ["--ambient", "--redirect-dns=false"],
        "env": {},
    }
    failed = {(each["who"], each["packet"]["proto"]) for each in verify(pod, "--expect", "--ambient").failed}
    assert ("an application", "udp") in failed
    assert verify(pod, "--expect", "-b '*' -i '*'").status == NOT_PROVED


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--ambient --proxy-uid 5", "unknown flag: --proxy-uid"),
        ("--ambient --host-probe-address here", "'here'"),
        ("--bypass-inbound-capture", "unknown flag: --bypass-inbound-capture"),
    ],
)
def test_an_expectation_that_makes_no_sense_is_refused(pod: Pod, line: str, said: str) -> None:
    done = istio_init("verify", "--netns", pod.name, "--expect", line)

    assert done.status == 2
    assert said in done.stderr


def test_ztunnel_is_not_disturbed_where_it_listens_already(pod: Pod) -> None:
    ambient(pod)
    with contextlib.ExitStack() as stack:
        for family, port in product(Family, (15001, 15006, 15008)):
            stack.enter_context(Listener(pod.inside, family, port))

        proof = verify(pod)

    assert (proof.status, proof.failed) == (0, [])
    notes = [each["note"] for each in proof.said["probes"] if each["group"] == "inbound" and each["who"] == "a client"]
    assert len(notes) == 4
    assert all("that a connection arrived there is seen" in each for each in notes)


def test_a_pod_with_a_user_namespace_of_its_own_is_proved_too() -> None:
    with Pod.create(owner=Owner("0 100000 65536")) as pod:
        ambient(pod)

        verify(pod).ok()


def test_a_pod_without_ipv6_addresses_is_proved_in_both_families() -> None:
    with Pod.create(families=(Family.IPV4,)) as pod:
        ambient(pod)

        proof = verify(pod).ok()

    assert ("inbound", "ipv6", "a client to 2001:db8:fc00::2:28080/tcp: 15006") in probes(proof)
    assert {"what": f"the host's probe address {PROBE_V6}", "why": "no route leads there from the namespace",
            "family": "ipv6"} in proof.said["not_probed"]  # fmt: skip


def test_the_address_of_the_hosts_probes_keeps_its_route(pod: Pod) -> None:
    ambient(pod)
    addresses = (PROBE, PROBE_V6)
    before = [pod.inside.run("ip", "route", "get", each) for each in addresses]
    probe = Run.probe

    def work() -> tuple[Report, list[str]]:
        during: list[str] = []

        def look(run: Run, timeout: float) -> list[Seen]:
            during.extend(subprocess.check_output(["ip", "route", "get", each], text=True) for each in addresses)
            return probe(run, timeout)

        with patch.object(Run, "probe", look):
            snapshot = observe(places.HERE, (), versions=False)
            intent = expected(AmbientConfig(), snapshot)
            return validate(intent.subject, intent.around, snapshot, timeout=5, announce=lambda text: None), during

    report, during = pod.inside.call(work)

    assert report.is_proved
    assert [_way(each) for each in during] == [_way(each) for each in before]


def _way(line: str) -> str:
    """Where a route leads, of what ``ip route get`` prints."""
    words = line.split()
    return " ".join(words[words.index("via") : words.index("dev") + 2])


def test_strict_reverse_path_filtering_is_a_reason_not_to_probe_and_no_failure(pod: Pod) -> None:
    pod.inside.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    ambient(pod)

    proof = verify(pod).ok()

    assert CHECKED in [each["why"] for each in proof.said["not_probed"]]
