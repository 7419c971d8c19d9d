"""verify of bypasses that no probe meets: the rules are compared as a whole, so that none is proved away."""

from __future__ import annotations

import pytest

from istio_init.testing.pods import Pod

from .proof import NOT_PROVED, apply, verify

BYPASSES = {
    "one port of the application": ((), "iptables -t nat -I PREROUTING -p tcp --dport 8080 -j ACCEPT", "inbound tcp"),
    "one range of destinations": ((), "iptables -t nat -I OUTPUT -d 34.0.0.0/8 -j RETURN", "outbound tcp 34."),
    "one user": ((), "iptables -t nat -I OUTPUT -m owner --uid-owner 4711 -j ACCEPT", "--uid 4711"),
    "one client": ((), "iptables -t nat -I PREROUTING -s 203.0.113.7 -j ACCEPT", "--src 203.0.113.7"),
    "one DSCP, which any program may choose": (
        (),
        "iptables -t nat -I OUTPUT -p tcp -m dscp --dscp 10 -j ACCEPT",
        "--dscp 10",
    ),
    "one TOS of clients": ((), "iptables -t nat -I PREROUTING -p tcp -m tos --tos 0x10/0x1c -j ACCEPT", "--dscp 4"),
    "connections with ECN": (
        (),
        "iptables -t nat -I OUTPUT -p tcp -m ecn --ecn-tcp-cwr -j ACCEPT",
        "--tcp-flags SYN,ECE,CWR",
    ),
    "one priority, which any program may choose, before connections are tracked": (
        (),
        "nft add table inet other && nft 'add chain inet other out { type filter hook output priority -300; }' &&"
        " nft add rule inet other out tcp dport 443 meta priority 5 notrack",
        ":443 --src 10.77.0.2:40000 --interface eth0 --uid 1000 --gid 1000 --priority 5",
    ),
    "a chain of Istio's": ((), "iptables -t nat -I ISTIO_OUTPUT -d 34.0.0.0/8 -j ACCEPT", "outbound tcp 34."),
    "a native chain of Istio's": (
        ("--native-nftables",),
        "nft insert rule inet istio-proxy-nat istio-output ip daddr 34.0.0.0/8 accept",
        "outbound tcp 34.",
    ),
}


@pytest.mark.parametrize(("flags", "done", "shown"), BYPASSES.values(), ids=BYPASSES)
def test_a_bypass_that_no_probe_meets_is_told_by_the_rules(
    pod: Pod, flags: tuple[str, ...], done: str, shown: str
) -> None:
    apply(pod, *flags)
    pod.inside.run("sh", "-c", done)

    proof = verify(pod)

    assert (proof.failed, proof.status, proof.said["proved"]) == ([], NOT_PROVED, False)
    [problem] = proof.said["problems"]
    assert "direct, not proxied to port 1500" in problem
    assert shown in problem


def test_an_accept_of_another_nat_chain_takes_nothing_away(pod: Pod) -> None:
    apply(pod)
    for what in ("table ip agent", "chain ip agent out { type nat hook output priority -110 ; }"):
        pod.inside.run("nft", f"add {what}")
    pod.inside.run("nft", "add rule ip agent out ip daddr 34.0.0.0/8 accept")

    verify(pod).ok()


def test_rules_that_exempt_more_than_expected_are_told_where_no_probe_meets_them(pod: Pod) -> None:
    apply(pod, "-x", "34.0.0.0/8")

    assert verify(pod).ok()
    proof = verify(pod, "--expect", "-b '*' -i '*' -d 15090,15021,15020")

    assert (proof.failed, proof.status) == ([], NOT_PROVED)
    assert "outbound tcp 34." in proof.said["problems"][0]


def test_what_is_undecidable_beside_the_probes_is_a_note_and_no_failure(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("iptables", "-t", "nat", "-I", "OUTPUT", "-d", "34.0.0.0/8", "-m", "statistic", "--mode", "random",
                   "--probability", "0.5", "-j", "ACCEPT")  # fmt: skip

    proof = verify(pod).ok()

    assert any("undecidable" in note for note in proof.said["notes"])
