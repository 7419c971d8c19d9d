"""verify of namespaces with which nothing is wrong: what it connects, and that all of it comes out where it has to."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from support.command import istio_init

from istio_init.netfilter.family import Family
from istio_init.testing.owners import Owner
from istio_init.testing.pods import HOSTS, Pod

from .proof import NOT_PROVED, apply, verify


class Case(NamedTuple):
    """A configuration, and of its probes some that must be among them: group, family, probe."""

    flags: tuple[str, ...]
    among: tuple[tuple[str, str, str], ...] = ()
    env: dict[str, str] | None = None


CASES = {
    "an injected pod": Case(
        (),
        (
            ("outbound", "ipv4", "an application to 192.0.2.253:80/tcp: 15001"),
            ("outbound", "ipv4", "the proxy's user to 192.0.2.253:80/tcp: direct"),
            ("outbound", "ipv4", "the proxy's group to 192.0.2.253:80/tcp: direct"),
            ("inside", "ipv4", "the proxy to 127.0.0.6:15002/tcp: 15006"),
            ("inside", "ipv4", "the proxy's user to 10.77.0.2:28080/tcp: 15006"),
            ("inside", "ipv4", "the proxy from 127.0.0.6 to 10.77.0.2:28080/tcp: direct"),
            ("inside", "ipv4", "an application to 10.77.0.2:28080/tcp: direct"),
            ("inbound", "ipv4", "a client to 10.77.0.2:28080/tcp: 15006"),
            ("inbound", "ipv4", "a client to 10.77.0.2:15021/tcp: direct"),
            ("inbound", "ipv4", "a client to 10.77.0.2:15008/tcp: direct"),
        ),
    ),
    "both families": Case(
        ("--dual-stack",),
        (
            ("outbound", "ipv6", "an application to 2001:db8:fc00::1:80/tcp: 15001"),
            ("inside", "ipv6", "the proxy to ::6:15002/tcp: 15006"),
            ("inside", "ipv6", "the proxy from ::6 to fd00:77::2:28080/tcp: direct"),
            ("inbound", "ipv6", "a client to fd00:77::2:28080/tcp: 15006"),
        ),
    ),
    "TPROXY": Case(
        ("-m", "TPROXY", "--dual-stack"),
        (
            ("inbound", "ipv4", "a client to 10.77.0.2:28080/tcp: 15006"),
            ("inbound", "ipv4", "a client, by TPROXY's routing, to 203.0.113.77:28080/tcp: 15006"),
            ("inbound", "ipv6", "a client, by TPROXY's routing, to 2001:db8:ffff::77:28080/tcp: 15006"),
        ),
    ),
    "TPROXY with a list, a mark and a table": Case(
        ("-m", "TPROXY", "-b", "9000,9001", "-t", "77", "-r", "177"),
        (
            ("inbound", "ipv4", "a client to 10.77.0.2:9001/tcp: 15006"),
            ("inbound", "ipv4", "a client to 10.77.0.2:28080/tcp: direct"),
        ),
    ),
    "DNS to the named servers": Case(
        ("--redirect-dns", "--dual-stack"),
        (
            ("dns", "ipv4", "an application to 10.77.0.1:53/udp: 15053"),
            ("dns", "ipv4", "an application to 10.77.0.1:53/tcp: 15053"),
            ("dns", "ipv6", "an application to fd00:77::1:53/udp: 15053"),
        ),
    ),
    "DNS to any server": Case(
        ("--redirect-dns", "--capture-all-dns"),
        (
            ("dns", "ipv4", "an application to 192.0.2.253:53/udp: 15053"),
            ("dns", "ipv4", "the proxy's user to 192.0.2.253:53/udp: direct"),
        ),
    ),
    "lists instead of everything": Case(
        ("-i", "10.64.0.0/10,1.2.3.4/32", "-x", "10.96.0.0/16", "-o", "9000", "-q", "443", "-b", "7000", "-d", ""),
        (
            ("outbound", "ipv4", "an application to 10.103.141.79:80/tcp: 15001"),
            ("outbound", "ipv4", "an application to 1.2.3.4:80/tcp: 15001"),
            ("outbound", "ipv4", "an application to 10.96.158.53:80/tcp: direct"),
            ("outbound", "ipv4", "an application to 192.0.2.253:443/tcp: 15001"),
            ("outbound", "ipv4", "an application to 192.0.2.253:80/tcp: direct"),
            ("outbound", "ipv4", "an application to 192.0.2.253:9000/tcp: direct"),
            ("inbound", "ipv4", "a client to 10.77.0.2:7000/tcp: 15006"),
            ("inbound", "ipv4", "a client to 10.77.0.2:28080/tcp: direct"),
        ),
    ),
    "a loopback range": Case(
        ("-i", "127.0.0.0/8"), (("outbound", "ipv4", "an application to 127.158.53.63:28080/tcp: 15001"),)
    ),
    "ports and a user of one's own": Case(
        ("-p", "5001", "-z", "5006", "-e", "5008", "-u", "4000", "-g", "5000"),
        (
            ("outbound", "ipv4", "an application to 192.0.2.253:80/tcp: 5001"),
            ("inbound", "ipv4", "a client to 10.77.0.2:28080/tcp: 5006"),
        ),
    ),
    "groups that bypass the proxy": Case(
        (),
        (("outbound", "ipv4", "group 888 to 192.0.2.253:80/tcp: direct"),),
        {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "888"},
    ),
    "groups that do not": Case(
        (),
        (("outbound", "ipv4", "an application to 192.0.2.253:80/tcp: 15001"),),
        {"ISTIO_OUTBOUND_OWNER_GROUPS": "202,203"},
    ),
    "interfaces that a name would fall under": Case(
        ("-c", "istio+,verify0"), (("inbound", "ipv4", "a client to 10.77.0.2:28080/tcp: 15006"),)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_everything_comes_out_where_the_live_rules_configuration_has_it(pod: Pod, name: str) -> None:
    case = CASES[name]
    pod.inside.write_resolv_conf(HOSTS[Family.IPV4].peer, HOSTS[Family.IPV6].peer)
    apply(pod, *case.flags, env=case.env)

    proof = verify(pod).ok()

    assert proof.said["held_to"]["source"] == "live"
    for group, family, probe in case.among:
        assert probe in proof.probes(group, family)


@pytest.mark.usefixtures("both_backends")
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
@pytest.mark.parametrize("store", [("--force-iptables-binary", "legacy"), ("--native-nftables",)], ids=" ".join)
def test_the_same_holds_of_legacy_iptables_and_native_nftables(pod: Pod, store: tuple[str, ...], mode: str) -> None:
    pod.inside.write_resolv_conf(HOSTS[Family.IPV4].peer)
    apply(pod, "-m", mode, "--dual-stack", "--redirect-dns", *store)

    proof = verify(pod).ok()

    assert (proof.said["held_to"]["source"], proof.notes) == ("live", [])
    assert "an application to 10.77.0.1:53/udp: 15053" in proof.probes("dns")
    assert "a client to fd00:77::2:28080/tcp: 15006" in proof.probes("inbound", "ipv6")


def test_what_is_expected_counts_instead_of_what_is_live(pod: Pod) -> None:
    apply(pod, "-x", "10.9.0.0/16")

    assert (
        verify(pod, "--expect", "-b '*' -i '*' -x 10.9.0.0/16 -d 15090,15021,15020").ok().said["held_to"]["source"]
        == "expect"
    )
    proof = verify(pod, "--expect", "-b '*' -i 10.9.0.0/16")
    assert proof.status == NOT_PROVED
    assert {(each["who"], each["happened"]) for each in proof.failed} >= {
        ("an application", "direct: it reached its destination"),
        ("an application", "proxied to port 15001"),
    }


def test_a_pod_with_a_user_namespace_of_its_own_is_proved_too() -> None:
    with Pod.create(owner=Owner("0 100000 65536")) as pod:
        apply(pod, "--dual-stack")

        verify(pod).ok()


def test_a_captured_range_without_a_route_is_not_probeable_and_no_failure() -> None:
    with Pod.create(families=(Family.IPV4,)) as pod:
        pod.inside.run("ip", "route", "del", "default")
        apply(pod, "-i", "10.9.0.0/16")

        proof = verify(pod, "--allow-unprobed").ok()

    assert {
        "what": "captured range 10.9.0.0/16",
        "why": "not probeable: no route leads there from the namespace",
        "family": None,
    } in proof.said["not_probed"]


def test_what_is_added_for_a_while_is_said_before(pod: Pod) -> None:
    apply(pod, "-x", "10.9.0.0/16")

    said = verify(pod).ok().stderr

    assert "interface istio-verify0 with 192.0.2.254/30, with routes to 10.9.158.53" in said


def test_addresses_in_use_are_left_alone(pod: Pod) -> None:
    pod.inside.run("ip", "addr", "add", "192.0.2.9/24", "dev", "eth0")
    apply(pod)

    assert "198.51.100.254/30" in verify(pod).ok().stderr


def test_people_read_a_line_a_probe_that_fits_80_columns(pod: Pod) -> None:
    apply(pod, "--redirect-dns", "--capture-all-dns", "--dual-stack")

    done = istio_init("verify", "--netns", pod.name).ok()

    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("  ok ") for line in lines) == 36
    first = lines[lines.index("Outbound") + 1]
    assert first.startswith("  ok ")
    assert first.endswith(" ms  ipv4  an application to 192.0.2.253:80: proxied to port 15001")
    assert lines[-1] == "proved: 36 probes passed"


def test_without_redirection_nothing_says_what_to_prove(pod: Pod) -> None:
    done = istio_init("verify", "--netns", pod.name)

    assert done.status == NOT_PROVED
    assert "no redirection of Istio's is there" in done.stderr
    assert "--expect" in done.stderr


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (("--timeout", "soon"), 2, "not a duration"),
        (("--timeout", "0s"), 2, "no time at all"),
        (("--pid", "1", "--netns", "x"), 2, "give one of"),
        (("--netns", "no-such-namespace"), 4, "does not exist"),
        (("--netns", "x", "--expect", "-b no-such-service"), 2, "not a port"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_touched(argv: tuple[str, ...], status: int, said: str) -> None:
    done = istio_init("verify", *argv)

    assert done.status == status
    assert said in done.stderr


def test_a_rule_that_is_undecidable_is_no_failure_but_told(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("iptables-nft", *"-A INPUT -i eth0 -p tcp -m limit --limit 1000/s -j DROP".split())

    proof = verify(pod).ok()

    words = "undecidable: proxied to port 15006 or dropped, depending on “-m limit --limit 1000/sec”"
    assert f"inbound via eth0: {words}" in proof.said["notes"]


def test_a_rule_that_is_undecidable_and_makes_no_difference_is_not_told(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("iptables-nft", *"-A INPUT -i eth0 -p tcp -m limit --limit 1000/s -j ACCEPT".split())

    assert verify(pod).ok().notes == []


def test_an_interface_without_addresses_is_no_fault_of_the_rules(pod: Pod) -> None:
    apply(pod)
    pod.inside.run("ip", "link", "add", "spare", "type", "veth", "peer", "name", "other")
    for name in ("spare", "other"):
        pod.inside.run("ip", "link", "set", name, "up")

    verify(pod).ok()


def test_a_patience_of_weeks_is_taken_as_long(pod: Pod) -> None:
    apply(pod)

    done = istio_init("verify", "--netns", pod.name, "--timeout", "1000h").ok()

    assert "proved: 14 probes passed" in done.stdout


def test_a_hostile_name_of_an_interface_does_not_reach_the_terminal(pod: Pod) -> None:
    apply(pod)
    name = "\x1b[31mX"
    pod.inside.run("ip", "link", "add", name, "type", "veth", "peer", "name", "other")
    pod.inside.run("ip", "link", "set", "other", "up")
    pod.inside.run("ip", "link", "set", name, "up")
    pod.inside.run("iptables-nft", "-t", "nat", "-I", "PREROUTING", "-i", name, "-j", "RETURN")

    done = istio_init("verify", "--netns", pod.name)

    assert done.status == NOT_PROVED
    assert "\x1b" not in done.stdout + done.stderr
    assert "inbound via" in done.stdout
