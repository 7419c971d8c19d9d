"""verify of namespaces that somebody broke: which probe fails, what happened instead, and which rule is behind it."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from istio_init.netfilter.family import Family
from istio_init.testing.pods import HOSTS, Pod

from .proof import NOT_PROVED, Proof, apply, verify

INJECTED = "-b '*' -i '*' -d 15090,15021,15020"
TPROXY = f"-m TPROXY {INJECTED}"

DIRECTLY = "direct: it reached its destination"
NOBODY = "direct: no rule matches"
TIMED_OUT = "it timed out"
REFUSED = "refused: nothing listens where it arrived, or a rule rejects it"
LOOPS = ": it would loop"


class Case(NamedTuple):
    """What was done by hand, and of one probe that fails because of it: who, where, what happened, why."""

    done: tuple[str, ...]
    who: str
    where: str
    happened: str
    reason: str
    expect: str = INJECTED


CASES = {
    "a flushed ISTIO_OUTPUT": Case(
        ("iptables -t nat -F ISTIO_OUTPUT",), "an application", "192.0.2.253:80/tcp", DIRECTLY, NOBODY
    ),
    "a flushed ISTIO_IN_REDIRECT": Case(
        ("iptables -t nat -F ISTIO_IN_REDIRECT",), "a client", "10.77.0.2:28080/tcp", DIRECTLY, NOBODY
    ),
    "a removed jump to ISTIO_OUTPUT": Case(
        ("iptables -t nat -D OUTPUT -j ISTIO_OUTPUT",), "an application", "192.0.2.253:80/tcp", DIRECTLY, NOBODY
    ),
    "a removed jump to ISTIO_INBOUND": Case(
        ("iptables -t nat -D PREROUTING -p tcp -j ISTIO_INBOUND",),
        "a client",
        "10.77.0.2:28080/tcp",
        DIRECTLY,
        NOBODY,
    ),
    "a foreign RETURN ahead": Case(
        ("iptables -t nat -I OUTPUT -p tcp --dport 80 -j RETURN",),
        "an application",
        "192.0.2.253:80/tcp",
        DIRECTLY,
        "rule 1 of nat OUTPUT (-p tcp -m tcp --dport 80 -j RETURN): not one of Istio's rules",
    ),
    "a foreign ACCEPT ahead": Case(
        ("iptables -t nat -I PREROUTING -p tcp -j ACCEPT",),
        "a client",
        "10.77.0.2:28080/tcp",
        DIRECTLY,
        "rule 1 of nat PREROUTING (-p tcp -j ACCEPT): not one of Istio's rules",
    ),
    "a foreign DROP": Case(
        ("iptables -t mangle -I PREROUTING -i istio+ -p tcp -j DROP",),
        "a client",
        "10.77.0.2:28080/tcp",
        TIMED_OUT,
        "rule 1 of mangle PREROUTING (-i istio+ -p tcp -j DROP): not one of Istio's rules",
    ),
    "a filter that drops what was redirected": Case(
        ("iptables -A INPUT -p tcp --dport 15006 -j DROP",),
        "a client",
        "10.77.0.2:28080/tcp",
        TIMED_OUT,
        "rule 1 of filter INPUT (-p tcp -m tcp --dport 15006 -j DROP): not one of Istio's rules",
    ),
    "a filter that rejects": Case(
        ("iptables -A INPUT -p tcp --dport 15001 -j REJECT",),
        "an application",
        "192.0.2.253:80/tcp",
        REFUSED,
        "rejected: rule 1 of filter INPUT",
    ),
    "a chain that drops what nobody takes": Case(
        ("iptables -P OUTPUT DROP",),
        "the proxy's user",
        "192.0.2.253:80/tcp",
        TIMED_OUT,
        "dropped: no rule takes it, and the policy of filter OUTPUT is DROP",
    ),
    "a redirection to a port where nothing listens": Case(
        ("iptables -t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15999",),
        "an application",
        "192.0.2.253:80/tcp",
        REFUSED,
        "rule 1 of nat ISTIO_REDIRECT (-p tcp -j REDIRECT --to-ports 15999)",
    ),
    "a redirection to the other listener": Case(
        ("iptables -t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15006",),
        "an application",
        "192.0.2.253:80/tcp",
        "proxied to port 15006",
        "rule 1 of nat ISTIO_REDIRECT (-p tcp -j REDIRECT --to-ports 15006)",
    ),
    "a removed RETURN of the proxy's user": Case(
        ("iptables -t nat -D ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",),
        "the proxy's user",
        "192.0.2.253:80/tcp",
        f"proxied to port 15001{LOOPS}",
        "; it came there by rule 8 of nat ISTIO_OUTPUT (-j ISTIO_REDIRECT)",
    ),
    "a removed RETURN of the proxy's group": Case(
        ("iptables -t nat -D ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN",),
        "the proxy's group",
        "192.0.2.253:80/tcp",
        f"proxied to port 15001{LOOPS}",
        "rule 1 of nat ISTIO_REDIRECT",
    ),
    "a removed exception of a port": Case(
        ("iptables -t nat -D ISTIO_INBOUND -p tcp --dport 15021 -j RETURN",),
        "a client",
        "10.77.0.2:15021/tcp",
        "proxied to port 15006",
        "rule 1 of nat ISTIO_IN_REDIRECT",
    ),
    "a removed exception of the proxy's passing on": Case(
        ("iptables -t nat -D ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN",),
        "the proxy from 127.0.0.6",
        "10.77.0.2:28080/tcp",
        f"proxied to port 15006{LOOPS}",
        "rule 1 of nat ISTIO_IN_REDIRECT",
    ),
    "a removed redirection of the proxy to itself": Case(
        ("iptables -t nat -D ISTIO_OUTPUT 2",),
        "the proxy",
        "127.0.0.6:15002/tcp",
        DIRECTLY,
        "rule 3 of nat ISTIO_OUTPUT",
    ),
    "a removed redirection of DNS": Case(
        ("iptables -t nat -D ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053",),
        "an application",
        "192.0.2.253:53/udp",
        DIRECTLY,
        NOBODY,
        f"{INJECTED} --redirect-dns --capture-all-dns",
    ),
    "a flushed table of TPROXY": Case(
        ("ip route flush table 133",),
        "a client, by TPROXY's routing,",
        "203.0.113.77:28080/tcp",
        TIMED_OUT,
        "no ipv4 routing rule with a local route keeps what they mark in the pod",
        TPROXY,
    ),
    "a removed routing rule of TPROXY": Case(
        ("ip rule del fwmark 1337",),
        "a client, by TPROXY's routing,",
        "203.0.113.77:28080/tcp",
        TIMED_OUT,
        "no ipv4 routing rule with a local route keeps what they mark in the pod",
        TPROXY,
    ),
    "a flushed ISTIO_TPROXY": Case(
        ("iptables -t mangle -F ISTIO_TPROXY",), "a client", "10.77.0.2:28080/tcp", DIRECTLY, NOBODY, TPROXY
    ),
    "IPv6 that was flushed while IPv4 stayed": Case(
        ("ip6tables -t nat -F ISTIO_REDIRECT",),
        "an application",
        "2001:db8:fc00::1:80/tcp",
        DIRECTLY,
        NOBODY,
        f"{INJECTED} --dual-stack",
    ),
    "a passthrough address that is gone": Case(
        ("ip addr del ::6/128 dev lo",),
        "the proxy from ::6",
        "fd00:77::2:28080/tcp",
        "its source is no address of the namespace",
        "::6 is missing on lo",
        f"{INJECTED} --dual-stack",
    ),
    "a rule in the other backend": Case(
        ("iptables-legacy -t filter -A INPUT -p tcp --dport 15006 -j DROP",),
        "a client",
        "10.77.0.2:28080/tcp",
        TIMED_OUT,
        "dropped: rule 1 of filter (legacy) INPUT (-p tcp -m tcp --dport 15006 -j DROP): not one of Istio's rules",
    ),
    "a table of nftables' own": Case(
        (
            "nft add table inet guard",
            "nft add chain inet guard in { type filter hook input priority 0 ; }",
            "nft add rule inet guard in tcp dport 15006 drop",
        ),
        "a client",
        "10.77.0.2:28080/tcp",
        TIMED_OUT,
        "dropped: rule 1 of inet guard in (tcp dport 15006 drop): not one of Istio's rules",
    ),
}


NATIVE = "inet istio-proxy-nat"
NATIVE_CASES = {
    "a flushed chain": Case(
        (f"nft flush chain {NATIVE} istio-output",), "an application", "192.0.2.253:80/tcp", DIRECTLY, NOBODY
    ),
    "a return ahead": Case(
        (f"nft insert rule {NATIVE} prerouting ip protocol tcp return",),
        "a client",
        "10.77.0.2:28080/tcp",
        DIRECTLY,
        f"direct: rule 1 of {NATIVE} prerouting",
    ),
    "a table of nftables' own that accepts first": Case(
        (
            "nft add table ip guard",
            "nft add chain ip guard out { type nat hook output priority -110 ; }",
            "nft add rule ip guard out tcp dport 80 redirect to :15006",
        ),
        "an application",
        "192.0.2.253:80/tcp",
        "proxied to port 15006",
        "rule 1 of ip guard out",
    ),
    "a removed routing rule of TPROXY": CASES["a removed routing rule of TPROXY"],
    "a flushed chain of TPROXY": Case(
        ("nft flush chain inet istio-proxy-mangle istio-inbound",),
        "a client",
        "10.77.0.2:28080/tcp",
        DIRECTLY,
        NOBODY,
        TPROXY,
    ),
}


@pytest.mark.parametrize("name", NATIVE_CASES)
def test_native_nftables_that_somebody_broke_fails_in_the_same_way(pod: Pod, name: str) -> None:
    case = NATIVE_CASES[name]
    apply(pod, "--native-nftables", *case.expect.replace("'", "").split())
    assert_it_fails_as_said(pod, case)


def test_native_rules_that_are_missing_are_found_without_an_expectation(pod: Pod) -> None:
    apply(pod, "--native-nftables")
    pod.inside.run("nft", "flush", "chain", *NATIVE.split(), "istio-output")

    proof = verify(pod)

    assert proof.status == NOT_PROVED
    assert any("nat (native): ISTIO_OUTPUT has no rules" in each for each in proof.said["problems"])


def assert_it_fails_as_said(pod: Pod, case: Case) -> None:
    """Break the rules, and see the probe that a case is about fail for the reason that it gives."""
    for command in case.done:
        pod.inside.run(*command.split())

    proof = verify(pod, "--expect", case.expect)

    assert (proof.status, proof.said["proved"]) == (NOT_PROVED, False)
    probe = found(proof, case)
    assert probe["happened"] == case.happened
    assert case.reason in probe["reason"]


def found(proof: Proof, case: Case) -> dict[str, str]:
    """What is said of the probe that a case is about."""
    [probe] = [
        each
        for each in proof.failed
        if each["who"] == case.who
        and f"{each['packet']['dst']}:{each['packet']['dport']}/{each['packet']['proto']}" == case.where
    ]
    return probe


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("name", CASES)
def test_the_probe_that_fails_says_what_happened_and_which_rule_decided_it(pod: Pod, name: str) -> None:
    case = CASES[name]
    words = case.expect.replace("'", "").split()
    pod.inside.write_resolv_conf(HOSTS[Family.IPV4].peer)
    apply(pod, *words)
    assert_it_fails_as_said(pod, case)


def test_rules_that_are_missing_from_a_chain_are_found_without_an_expectation(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("iptables", "-t", "nat", "-F", "ISTIO_OUTPUT")

    proof = verify(pod)

    assert proof.status == NOT_PROVED
    assert "ipv4 nat (nft): ISTIO_OUTPUT has no rules" in proof.said["problems"]
    assert any("--expect" in note for note in proof.said["notes"])


def test_a_rule_for_an_interface_that_no_probe_passes_is_found_by_tracing(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("iptables", "-t", "nat", "-I", "OUTPUT", "-o", "eth0", "-j", "ACCEPT")

    proof = verify(pod)

    assert (proof.status, proof.failed) == (NOT_PROVED, [])
    [problem] = proof.said["problems"]
    assert "nat (nft): OUTPUT 1: -o eth0 -j ACCEPT  [0 packets]: direct, not proxied to port 15001" in problem
