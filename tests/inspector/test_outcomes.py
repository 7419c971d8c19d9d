"""Findings go by what becomes of connections, whoever's rules decide it, in whatever store and by whatever hook."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

import pytest
from support.command import istio_init

from istio_init.config.ambient import AmbientConfig
from istio_init.inspector.findings import catalogue
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod

from . import natives
from .proof import proves
from .sidecar import Sidecar
from .test_stores import V4, V6, bare, explain, load, route, write_ambient, ztunnel

DUAL = "--dual-stack"
SERVERS = ("10.77.0.1", "fd00:77::1")
WORDS = ("proxied", "direct", "redirected", "dropped", "rejected", "forwarded", "undecidable")

KINDS = {
    "iptables-nft": ("nft", (DUAL,)),
    "iptables-legacy": ("legacy", (DUAL,)),
    "tproxy": ("nft", (DUAL, "-m", "TPROXY")),
    "dns": ("nft", (DUAL, "--redirect-dns")),
    "native": ("nft", ()),
    "ranges": ("legacy", (DUAL, "-i", "10.88.0.0/16,fd00:88::/32", "-b", "8080")),
}
"""Kinds of healthy pods, by the store and the arguments of their rules."""

DOCKER = """
*nat
-N DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
-P FORWARD DROP
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
COMMIT
"""
KUBE_PROXY = """
*nat
-N KUBE-SERVICES
-N KUBE-SVC-A
-N KUBE-SEP-A
-N KUBE-MARK-MASQ
-N KUBE-POSTROUTING
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-A
-A KUBE-SVC-A -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SEP-A -s 10.244.0.7/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.244.0.7:6443
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE
COMMIT
*filter
-N KUBE-FIREWALL
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
"""
KUBEVIRT = """
table ip kubevirt-nat {
  chain prerouting { type nat hook prerouting priority 10; iifname "eth0" counter jump preinbound; }
  chain output { type nat hook output priority 10; ip daddr 127.0.0.1 counter dnat to 10.0.2.2; }
  chain postrouting { type nat hook postrouting priority 100; ip saddr 10.0.2.2 counter masquerade; }
  chain preinbound { tcp dport 22 counter dnat to 10.0.2.2; }
}
"""
FIREWALLD = """
table inet firewalld {
  chain mangle_PREROUTING { type filter hook prerouting priority -140; }
  chain nat_PREROUTING { type nat hook prerouting priority -90; }
  chain filter_PREROUTING {
    type filter hook prerouting priority 10;
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept;
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop;
  }
  chain filter_INPUT {
    type filter hook input priority 10;
    ct state { established, related } accept;
    ct status dnat accept;
    iifname "lo" accept;
    ct state invalid drop;
    tcp dport { 22, 8080 } accept;
    reject with icmpx admin-prohibited;
  }
  chain filter_FORWARD { type filter hook forward priority 10; reject with icmpx admin-prohibited; }
  chain filter_OUTPUT {
    type filter hook output priority 10;
    ct state { established, related } accept;
    oifname "lo" accept;
  }
}
"""

NEIGHBOURS = {"docker": DOCKER, "kube-proxy": KUBE_PROXY, "kubevirt": KUBEVIRT, "firewalld": FIREWALLD}

AT_ODDS = {("tproxy", "firewalld"), ("native", "docker"), ("native", "kube-proxy")}
"""Those with which something is wrong, see below."""


def add(pod: Sidecar, rules: str, store: str = "nft") -> None:
    """Add a neighbour's rules, in whatever dialect they are written."""
    if rules.lstrip().startswith("*"):
        table = ""
        for line in rules.strip().splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line != "COMMIT":
                pod.iptables("-t", table, *shlex.split(line), backend=store)
    else:
        pod.inside.run("nft", rules)


@contextlib.contextmanager
def sidecar(kind: str) -> Iterator[Sidecar]:
    """A healthy pod with a sidecar."""
    if kind == "native":
        with bare(V4, V6) as pod:
            load(pod.inside, natives.SIDECAR)
            pod.inside.run("ip", "addr", "add", "::6/128", "dev", "lo")
            pod.connect()
            yield pod
        return
    store, flags = KINDS[kind]
    with Sidecar.create(*flags, backend=store, servers=SERVERS) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_pod_has_no_finding_whoever_else_has_rules_in_it(both_backends: None, kind: str) -> None:
    with sidecar(kind) as pod:
        assert pod.findings() == {}
        for name, rules in NEIGHBOURS.items():
            if (kind, name) not in AT_ODDS:
                add(pod, rules, KINDS[kind][0])

            assert pod.findings() == {}, name


def test_a_reverse_path_test_that_follows_the_mark_of_tproxy_is_told(real_kernel: None) -> None:
    """By the mark all answers are routed to lo: the kernel drops every inbound connection."""
    with sidecar("tproxy") as pod:
        add(pod, FIREWALLD)

        found = pod.findings()

    assert list(found) == ["foreign-ahead", "captured-dropped"]
    for [line] in found.values():
        assert line.startswith("inet firewalld filter_PREROUTING 2: meta nfproto ipv6 fib saddr . mark . iif oif ")


def test_it_is_undecidable_which_of_two_nat_chains_of_one_priority_is_called_first(real_kernel: None) -> None:
    with sidecar("native") as pod:
        add(pod, DOCKER)

        [(code, [line])] = pod.findings().items()

    assert code == "undecided-rule"
    assert line.startswith("ipv4: undecidable (“in which order chains of the same priority are called at prerouting”)")
    assert "not proxied to port 15006: istio-init trace inbound tcp 10.77.0.2:8081 " in line


def shown(pod: Sidecar, line: str) -> str:
    """What the example of a line of evidence says when it is pasted."""
    _, _, arguments = line.partition(": istio-init trace ")
    assert arguments, line
    said = istio_init("trace", *shlex.split(arguments))
    return said.stdout


def outcome(line: str) -> str:
    """The first word for an outcome in a line of evidence."""
    return next(word for word in line.replace(":", " ").replace(",", " ").split() if word in WORDS)


NATIVE_DROP = """
table inet t {
  chain c {
    type filter hook prerouting priority -300;
    tcp dport 9 accept;
    udp dport 9 drop;
    tcp dport 9090 counter drop;
  }
}
"""
NATIVE_DNAT = """
table ip t {
  chain c { type nat hook output priority -150; ip daddr 10.88.0.1 tcp dport 80 dnat to 10.77.0.1:81; }
}
"""
NATIVE_REDIRECT = """
table inet t {
  chain out { type nat hook output priority -110; meta skuid 1000 tcp dport 443 redirect to :9999; }
}
"""
NATIVE_TO_PROXY = """
table ip t {
  chain out { type nat hook output priority -110; meta skuid 1337 tcp dport 80 redirect to :15001; }
}
"""
NATIVE_INPUT = "table inet fw { chain in { type filter hook input priority 0; policy drop; }; }"
NATIVE_POSTROUTING = "table inet fw { chain post { type filter hook postrouting priority 0; meta l4proto tcp drop; }; }"
DORMANT = "table inet fw { flags dormant; chain in { type filter hook input priority 0; policy drop; }; }"


class TestAstray:
    """A rule that takes traffic away is named as its dialect does, with what becomes of a connection."""

    @pytest.mark.parametrize("kind", ["iptables-nft", "iptables-legacy", "native"])
    @pytest.mark.parametrize(
        ("rules", "where", "fate"),
        [
            (NATIVE_DROP, "inet t c 3: tcp dport 9090 drop  [0 packets]", "dropped, not proxied to port 15006"),
            (
                NATIVE_DNAT,
                "ip t c 1: ip daddr 10.88.0.1 tcp dport 80 dnat to 10.77.0.1:81",
                "redirected to 10.77.0.1:81, not proxied to port 15001",
            ),
            (
                NATIVE_REDIRECT,
                "inet t out 1: meta skuid 1000 tcp dport 443 redirect to :9999",
                "redirected to port 9999, not proxied to port 15001",
            ),
            (
                NATIVE_TO_PROXY,
                "ip t out 1: meta skuid 1337 tcp dport 80 redirect to :15001",
                "proxied to port 15001, not direct",
            ),
        ],
        ids=["drop", "dnat", "redirect", "to the proxy"],
    )
    def test_a_native_rule_is_told(self, both_backends: None, kind: str, rules: str, where: str, fate: str) -> None:
        with sidecar(kind) as pod:
            add(pod, rules)

            [(code, lines)] = pod.findings().items()

            assert code == "foreign-ahead"
            assert lines[0].startswith(f"{where}: {fate}: istio-init trace "), lines
            assert outcome(lines[0]) in shown(pod, lines[0])

    @pytest.mark.parametrize(("kind", "other"), [("iptables-nft", "legacy"), ("iptables-legacy", "nft")])
    def test_a_rule_ahead_in_the_other_store_is_told(self, both_backends: None, kind: str, other: str) -> None:
        with sidecar(kind) as pod:
            pod.iptables(*"-t raw -A OUTPUT -d 10.88.0.0/16 -p tcp -j CT --notrack".split(), backend=other)

            [(code, [line])] = pod.findings().items()

            assert code == "foreign-ahead"
            assert line.startswith(
                f"ipv4 raw ({other}): OUTPUT 1: -d 10.88.0.0/16 -p tcp -j CT --notrack  [0 packets]: "
            )
            assert "direct, not proxied to port 15001" in line
            assert outcome(line) in shown(pod, line)

    def test_a_legacy_return_ahead_is_told(self, both_backends: None) -> None:
        with sidecar("iptables-legacy") as pod:
            pod.iptables(*"-t nat -I OUTPUT -p tcp --dport 443 -j RETURN".split(), backend="legacy")

            [(code, [line])] = pod.findings().items()

            assert code == "foreign-ahead"
            assert line.startswith("ipv4 nat (legacy): OUTPUT 1: -p tcp -m tcp --dport 443 -j RETURN  [0 packets]: ")
            assert "direct, not proxied to port 15001" in line

    def test_a_dormant_table_of_ours_is_told_and_one_of_others_is_not(self, healthy: Sidecar) -> None:
        add(healthy, DORMANT)
        assert healthy.findings() == {}

        healthy.inside.run("nft", "add table ip nat { flags dormant; }")
        found = healthy.findings()

        assert list(found) == ["captured-otherwise"]
        assert found["captured-otherwise"][0].startswith("ipv4 nat (nft) is dormant: direct, not proxied to port ")

    @proves(catalogue.NOT_ALL_FOLLOWED)
    def test_of_very_many_rules_ahead_some_are_tried_and_that_is_said(self, healthy: Sidecar) -> None:
        rules = [
            f"add rule inet t c ip saddr 203.0.{i // 250}.{i % 250} tcp sport {1024 + i} drop" for i in range(1100)
        ]
        healthy.inside.run("nft", "table inet t { chain c { type filter hook prerouting priority -300; }; }")
        healthy.inside.run("nft", "-f", "-", stdin="\n".join(rules))

        found = healthy.findings()

        assert sorted(found) == ["foreign-ahead", "not-all-followed"]
        assert found["foreign-ahead"][0].startswith("inet t c 1: ip saddr 203.0.0.0 tcp sport 1024 drop: dropped, not ")
        assert found["not-all-followed"][0].startswith("ipv4: 11")


class TestDropped:
    """All connections of a kind are stopped, by whoever it is."""

    @pytest.mark.parametrize("kind", ["iptables-nft", "iptables-legacy", "native"])
    @pytest.mark.parametrize(
        ("rules", "line"),
        [
            (NATIVE_INPUT, "inet fw in: policy drop: outbound connections dropped: istio-init trace "),
            (
                NATIVE_POSTROUTING,
                "inet fw post 1: meta l4proto tcp drop: outbound connections dropped: istio-init trace ",
            ),
        ],
        ids=["policy", "postrouting"],
    )
    def test_by_a_native_table(self, both_backends: None, kind: str, rules: str, line: str) -> None:
        with sidecar(kind) as pod:
            add(pod, rules)

            [(code, lines)] = pod.findings().items()

            assert code == "captured-dropped"
            assert lines[0].startswith(line), lines
            assert outcome(lines[0]) in shown(pod, lines[0])

    @pytest.mark.parametrize(("kind", "other"), [("iptables-nft", "legacy"), ("iptables-legacy", "nft")])
    def test_by_the_other_store(self, both_backends: None, kind: str, other: str) -> None:
        with sidecar(kind) as pod:
            pod.iptables(*"-I INPUT -p tcp --dport 15006 -j REJECT".split(), backend=other)

            [(code, [line])] = pod.findings().items()

            assert code == "captured-dropped"
            assert line.startswith(f"ipv4 filter ({other}): INPUT 1: -p tcp -m tcp --dport 15006 -j REJECT")
            assert ": inbound connections rejected: istio-init trace inbound tcp " in line
            assert outcome(line) in shown(pod, line)

    def test_by_a_routing_rule_that_leads_nowhere(self, healthy: Sidecar) -> None:
        healthy.inside.run("ip", "route", "add", "unreachable", "default", "table", "77")
        healthy.inside.run("ip", "rule", "add", "pref", "5", "lookup", "77")
        healthy.inside.run("ip", "rule", "add", "pref", "1", "lookup", "local")

        found = healthy.findings()

        assert list(found) == ["captured-dropped"]
        assert found["captured-dropped"][0].startswith("ipv4 routing: ")
        assert ": outbound connections dropped: istio-init trace outbound tcp " in found["captured-dropped"][0]

    def test_what_is_forwarded_is_none_of_the_pods_connections(self, healthy: Sidecar) -> None:
        healthy.iptables("-P", "FORWARD", "DROP")
        add(healthy, "table inet fw { chain f { type filter hook forward priority 0; policy drop; }; }")

        assert healthy.findings() == {}

    def test_of_a_pod_without_a_default_route_that_alone_is_told(self, healthy: Sidecar) -> None:
        for family in ("-4", "-6"):
            healthy.inside.run("ip", family, "route", "del", "default")
        healthy.iptables(*"-t nat -A OUTPUT -p tcp -j ACCEPT".split())

        assert list(healthy.findings()) == ["no-route"]


class TestAmbient:
    """What ztunnel is to have of a pod in an ambient mesh goes by outcomes as well."""

    @pytest.fixture(params=["nft", "legacy", "native"])
    def pod(self, both_backends: None, request: pytest.FixtureRequest) -> Iterator[Namespace]:
        """A pod in an ambient mesh, by the store of its rules."""
        with Pod.create(families=(V4,)) as made:
            if request.param == "native":
                load(made.inside, natives.AMBIENT)
            else:
                write_ambient(made.inside, request.param, AmbientConfig(ipv6=False))
            route(made.inside, "0x111/0xfff", 100)
            with ztunnel(made.inside):
                yield made.inside

    def test_a_native_rule_that_takes_traffic_away_is_told(self, pod: Namespace) -> None:
        load(pod, NATIVE_DNAT)

        [finding] = explain(pod)["findings"]

        assert finding["code"] == "foreign-ahead"
        assert finding["evidence"][0].startswith("ip t c 1: ip daddr 10.88.0.1 tcp dport 80 dnat to 10.77.0.1:81: ")
        assert "redirected to 10.77.0.1:81, not proxied to port 15001: istio-init trace " in finding["evidence"][0]

    def test_a_policy_that_leaves_nothing_is_told(self, pod: Namespace) -> None:
        load(pod, NATIVE_INPUT)

        [finding] = explain(pod)["findings"]

        assert finding["code"] == "captured-dropped"
        assert finding["evidence"][0].startswith("inet fw in: policy drop: outbound connections dropped: ")

    def test_what_takes_nothing_away_is_no_problem(self, pod: Namespace) -> None:
        load(pod, "table inet fw { chain f { type filter hook forward priority 0; policy drop; }; }")
        pod.run("iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "DROP")

        assert [(each["code"], each["severity"]) for each in explain(pod)["findings"]] == [("some-dropped", "info")]
