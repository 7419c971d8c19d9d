"""Every problem that explain knows is found where it is, with what shows it, and nowhere else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from incidents.test_around import AROUND
from incidents.test_damage import BY_HAND, CONNECTIONS, IN_AMBIENT
from incidents.test_remedies import CASES
from incidents.test_rules_of_others import DETOURS, DROPS
from incidents.test_states import STATES
from incidents.test_ways import WAYS_OUT
from support.command import istio_init
from support.processes import wait_until
from support.rules import program

from istio_init.inspector.explain import explain
from istio_init.inspector.findings import catalogue
from istio_init.netfilter.family import Family
from istio_init.observe.namespace import observe
from istio_init.observe.snapshot import Snapshot
from istio_init.system import places
from istio_init.testing.entering import ROOT
from istio_init.testing.pods import APP, HOSTS, LINK, PROXY
from istio_init.testing.traffic import Endpoint

from .proof import proved, proves
from .sidecar import ANY, INBOUND, OUTBOUND, Sidecar

V4, V6 = Family
DUAL = "--dual-stack"
SERVERS = ("10.77.0.1", "fd00:77::1")
TPROXY = (DUAL, "-m", "TPROXY")


def test_every_kind_of_problem_is_proved() -> None:
    for each in Path(__file__).parent.glob("test_*.py"):
        import_module(f"{__package__}.{each.stem}")

    tables = (STATES, DROPS, DETOURS, BY_HAND, IN_AMBIENT, CONNECTIONS, WAYS_OUT, AROUND)
    made = {code for table in tables for state in table.values() for code in state.said}
    made |= {case.code for case in CASES.values()}
    assert proved | made == {kind.code for kind in catalogue.KINDS}


@pytest.fixture
def tproxy(real_kernel: None) -> Iterator[Sidecar]:
    """A healthy pod in TPROXY mode."""
    with Sidecar.create(*TPROXY) as made:
        yield made


@pytest.fixture
def dns(real_kernel: None) -> Iterator[Sidecar]:
    """A healthy pod with DNS capture."""
    with Sidecar.create(DUAL, "--redirect-dns", servers=SERVERS) as made:
        yield made


@contextlib.contextmanager
def ipv4_only() -> Iterator[Sidecar]:
    """A healthy pod without an IPv6 address."""
    with Sidecar.create(families=(V4,)) as made:
        yield made


def snapshot(pod: Sidecar) -> Snapshot:
    """What explain reads."""
    place = places.of_netns(pod.inside.name)
    try:
        return pod.inside.call(lambda: observe(place))
    finally:
        place.close()


def codes(of: Snapshot) -> list[str]:
    return [finding.kind.code for finding in explain(of).findings]


class TestHealthy:
    """Nothing is found where nothing is wrong."""

    @pytest.mark.parametrize(
        "flags",
        [
            (DUAL,),
            (DUAL, "-i", "10.88.0.0/16,fd00:88::/32", "-b", "8080", "-x", "192.0.2.0/24"),
            (*TPROXY,),
            (DUAL, "--redirect-dns"),
            (*TPROXY, "--redirect-dns", "--capture-all-dns", "--drop-invalid", "-c", "net1", "-k", "vm0"),
        ],
        ids=["as injected", "lists", "tproxy", "dns", "everything"],
    )
    @pytest.mark.parametrize("backend", ["nft", "legacy"])
    def test_a_healthy_pod_shows_nothing(self, both_backends: None, backend: str, flags: tuple[str, ...]) -> None:
        with Sidecar.create(*flags, backend=backend, servers=SERVERS) as pod:
            said = pod.explain("--check")

        assert said["findings"] == []
        assert said["unread"] == []
        assert said["exact"]
        assert said["backend"] == backend
        assert any(rule["packets"] for rule in said["rules"] if rule["role"] == "outbound-jump")
        assert any(rule["packets"] for rule in said["rules"] if rule["role"] == "inbound-jump")

    @pytest.mark.parametrize("families", [(V4,), (V6,)], ids=["ipv4", "ipv6"])
    def test_a_pod_of_one_family_shows_nothing(self, real_kernel: None, families: tuple[Family, ...]) -> None:
        with Sidecar.create(families=families) as pod:
            assert pod.findings() == {}

    def test_a_namespace_without_redirection_and_proxy_shows_nothing(self, healthy: Sidecar) -> None:
        healthy.proxy.kill()
        istio_init("clean", "--netns", healthy.inside.name).ok()

        assert healthy.findings() == {}

    def test_harmless_rules_of_others_are_no_problem(self, healthy: Sidecar) -> None:
        """They only count, mark or log, or concern what the jump does not, or stand behind it."""
        for words in (
            "-t nat -I PREROUTING -p udp --dport 53 -j ACCEPT",
            "-t nat -I OUTPUT -m comment --comment counted",
            "-t nat -A OUTPUT -p tcp -j ACCEPT",
            "-t mangle -I OUTPUT -j MARK --set-mark 7",
            "-t filter -I INPUT -p tcp --dport 22 -j DROP",
            "-t nat -N OTHER",
            "-t nat -A OTHER -p tcp --dport 22 -j RETURN",
            "-t nat -I OUTPUT -j OTHER",
        ):
            healthy.iptables(*words.split())

        assert healthy.findings() == {}


class TestListeners:
    """The proxy's stand-in and the rules belong together."""

    @proves(catalogue.MESH_BYPASSED)
    def test_a_proxy_without_rules_is_bypassed(self, healthy: Sidecar) -> None:
        istio_init("clean", "--netns", healthy.inside.name).ok()

        found = healthy.findings()

        assert list(found) == ["mesh-bypassed"]
        assert set(found["mesh-bypassed"]) == {
            f"tcp {host}:{port}, uid 1337 (envoy, pid {healthy.proxy.pid})"
            for host in ("0.0.0.0", "[::]")
            for port in (OUTBOUND, INBOUND)
        }

    @proves(catalogue.NO_LISTENER)
    def test_rules_without_a_proxy_refuse_connections(self, healthy: Sidecar) -> None:
        healthy.proxy.kill()

        found = healthy.findings()

        assert list(found) == ["no-listener"]
        assert found["no-listener"] == [
            f"nothing listens on tcp {port}; {family.value} nat (nft): {chain} 1: "
            f"-p tcp -j REDIRECT --to-ports {port}  [1 packet]"
            for port, chain in ((15001, "ISTIO_REDIRECT"), (15006, "ISTIO_IN_REDIRECT"))
            for family in Family
        ]

    def test_a_proxy_of_one_family_leaves_the_other_without_a_listener(self, healthy: Sidecar) -> None:
        healthy.proxy.kill()
        healthy.start(PROXY, *(Endpoint(ANY[V4], port) for port in (OUTBOUND, INBOUND)))

        found = healthy.findings()

        assert list(found) == ["no-listener"]
        assert [line.split(";")[1].split()[0] for line in found["no-listener"]] == ["ipv6", "ipv6"]

    @proves(catalogue.NO_DNS_LISTENER)
    def test_captured_queries_need_a_listener(self, dns: Sidecar) -> None:
        dns.proxy.kill()
        dns.start(PROXY, *(Endpoint(host, port) for host in ANY.values() for port in (OUTBOUND, INBOUND)))

        assert dns.findings() == {
            "no-dns-listener": ["nothing listens on udp 15053", "nothing listens on tcp 15053"],
        }

    @proves(catalogue.RESERVED_PORT)
    def test_an_application_on_a_port_of_the_proxy_is_named(self, healthy: Sidecar) -> None:
        intruder = healthy.start(APP, Endpoint("0.0.0.0", 15090), name="metrics")

        assert healthy.findings() == {
            "reserved-port": [f"tcp 0.0.0.0:15090, uid 1000 (metrics, pid {intruder.pid})"],
        }

    @proves(catalogue.LOOPBACK_ONLY)
    @pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
    def test_an_application_on_loopback_alone_is_named(self, healthy: Sidecar, host: str, shown: str) -> None:
        hidden = healthy.start(APP, Endpoint(host, 9000), name="admin")

        assert healthy.findings() == {
            "loopback-only": [f"tcp {shown}:9000, uid 1000 (admin, pid {hidden.pid})"],
        }


class TestProcesses:
    """The rules tell the proxy by its user and group."""

    @proves(catalogue.EXEMPT_PROCESS)
    def test_another_process_with_the_ids_of_the_proxy_is_named(self, healthy: Sidecar) -> None:
        job = healthy.start(PROXY, name="job")

        assert healthy.findings() == {"exempt-process": [f"pid {job.pid} (job): uid 1337, gid 1337"]}

    @proves(catalogue.STOPPED_PROXY)
    def test_a_proxy_that_is_stopped_is_told_before_its_queue_is_full(self, healthy: Sidecar) -> None:
        pid = healthy.proxy.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T"))

            assert healthy.findings() == {"stopped-proxy": [f"pid {pid} (envoy)"]}
        finally:
            os.kill(pid, signal.SIGCONT)

    @proves(catalogue.PROXY_NOT_EXEMPT)
    def test_a_proxy_with_other_ids_is_named(self, healthy: Sidecar) -> None:
        """By its name; what listens where the rules lead and is called otherwise may be no proxy at all."""
        healthy.proxy.kill()
        proxy = healthy.start_proxy(ROOT)

        assert healthy.findings() == {"proxy-not-exempt": [f"pid {proxy.pid} (envoy): uid 0, gid 0"]}


class TestHalfApplied:
    """Something is missing of what the rest calls for."""

    @proves(catalogue.HALF_APPLIED)
    def test_a_chain_without_its_jump_does_nothing(self, healthy: Sidecar) -> None:
        healthy.iptables("-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")

        assert healthy.findings() == {
            "half-applied": [
                "ipv4 nat (nft): nothing jumps to ISTIO_OUTPUT",
                "ipv4 nat (nft): missing: -A OUTPUT -j ISTIO_OUTPUT",
            ],
        }

    def test_a_chain_without_its_rules_is_not_whole(self, healthy: Sidecar) -> None:
        healthy.iptables("-t", "nat", "-F", "ISTIO_REDIRECT", family=V6)

        assert healthy.findings() == {
            "half-applied": ["ipv6 nat (nft): ISTIO_REDIRECT has no rules"],
        }

    def test_chains_that_redirect_nothing_at_all_are_not_whole(self, healthy: Sidecar) -> None:
        for family in Family:
            healthy.iptables("-t", "nat", "-F", "ISTIO_REDIRECT", family=family)

        found = healthy.findings()

        assert list(found) == ["half-applied"]
        assert found["half-applied"] == [f"{family.value} nat (nft): ISTIO_REDIRECT has no rules" for family in Family]

    def test_a_family_without_its_rules_is_missed(self, healthy: Sidecar) -> None:
        healthy.inside.run("nft", "delete", "table", "ip", "nat")

        found = healthy.findings()

        assert list(found) == ["half-applied"]
        assert found["half-applied"][0].startswith("ipv4 nat (nft): missing: -A ISTIO_INBOUND ")
        assert found["half-applied"][-1] == "and 10 more"

    def test_the_address_tells_that_ipv6_was_captured(self, healthy: Sidecar) -> None:
        healthy.inside.run("nft", "delete", "table", "ip6", "nat")

        assert healthy.findings() == {
            "half-applied": ["ipv6 (nft): no rule of ours, though lo has the address ::6/128 that IPv6 capture needs"],
            "ipv6-not-captured": [f"fd00:77::2 on {LINK}"],
        }

    def test_a_table_of_one_family_is_missed(self, dns: Sidecar) -> None:
        dns.inside.run("nft", "delete", "table", "ip", "raw")

        found = dns.findings()

        assert list(found) == ["half-applied"]
        assert found["half-applied"][0] == "ipv4 raw (nft): missing: -A OUTPUT -j ISTIO_OUTPUT_DNS"

    def test_a_table_of_tproxy_mode_is_missed(self, tproxy: Sidecar) -> None:
        tproxy.inside.run("nft", "delete", "table", "ip", "mangle")

        found = tproxy.findings()

        assert list(found) == ["half-applied"]
        assert "ipv4 mangle (nft): missing: -A PREROUTING -p tcp -j ISTIO_INBOUND" in found["half-applied"]


class TestRules:
    """Rules in the wrong place, or too many of them."""

    @proves(catalogue.BOTH_BACKENDS)
    def test_rules_in_both_stores_are_told(self, both_backends: None, healthy: Sidecar) -> None:
        for family in Family:
            saved = healthy.inside.run(program("nft", family, "save"))
            healthy.inside.run(program("legacy", family, "restore"), stdin=saved)

        chains = "ISTIO_INBOUND, ISTIO_IN_REDIRECT, ISTIO_OUTPUT, ISTIO_REDIRECT"
        assert healthy.findings() == {"both-backends": [f"nft: {chains}", f"legacy: {chains}"]}

    @proves(catalogue.DUPLICATE_RULE)
    def test_a_second_jump_is_told(self, healthy: Sidecar) -> None:
        healthy.iptables("-t", "nat", "-A", "OUTPUT", "-j", "ISTIO_OUTPUT")

        assert healthy.findings() == {
            "duplicate-rule": ["ipv4 nat (nft): OUTPUT 2: -j ISTIO_OUTPUT  [0 packets], the same as rule 1"],
        }

    def test_a_rule_twice_in_a_chain_of_istio_is_told(self, healthy: Sidecar) -> None:
        healthy.iptables("-t", "nat", "-I", "ISTIO_INBOUND", "2", "-p", "tcp", "--dport", "15008", "-j", "RETURN")

        assert healthy.findings() == {
            "duplicate-rule": [
                "ipv4 nat (nft): ISTIO_INBOUND 2: -p tcp -m tcp --dport 15008 -j RETURN  [0 packets], "
                "the same as rule 1",
            ],
        }

    @proves(catalogue.FOREIGN_AHEAD)
    @pytest.mark.parametrize(
        "words",
        [
            "OUTPUT -p tcp -m tcp --dport 443 -j ACCEPT",
            "PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8000",
            "OUTPUT -d 10.96.0.1/32 -p tcp -j DNAT --to-destination 10.1.1.1",
        ],
    )
    def test_a_foreign_rule_ahead_of_the_jump_is_told(self, healthy: Sidecar, words: str) -> None:
        healthy.iptables("-t", "nat", "-I", *words.split())

        chain, _, rule = words.partition(" ")
        [(code, [evidence])] = healthy.findings().items()
        assert code == "foreign-ahead"
        assert evidence.startswith(f"ipv4 nat (nft): {chain} 1: {rule}  [0 packets]: ")

    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ("raw", "OUTPUT -p tcp -m tcp --dport 443 -j DROP"),
            ("raw", "PREROUTING -p tcp -m tcp --dport 80 -j CT --notrack"),
            ("mangle", "OUTPUT -p tcp -m tcp --dport 443 -j DROP"),
        ],
    )
    def test_a_foreign_rule_of_an_earlier_table_is_told(self, healthy: Sidecar, table: str, words: str) -> None:
        healthy.iptables("-t", table, "-I", *words.split())

        chain, _, rule = words.partition(" ")
        [(code, [evidence])] = healthy.findings().items()
        assert code == "foreign-ahead"
        assert evidence.startswith(f"ipv4 {table} (nft): {chain} 1: {rule}  [0 packets]: ")

    @proves(catalogue.CAPTURED_DROPPED)
    @pytest.mark.parametrize(
        ("words", "evidence"),
        [
            (
                "-I OUTPUT -p tcp -m tcp --dport 15001 -j DROP",
                "ipv4 filter (nft): OUTPUT 1: -p tcp",
            ),
            (
                "-I INPUT -p tcp -m tcp --dport 15006 -j REJECT",
                "ipv4 filter (nft): INPUT 1: -p tcp",
            ),
            ("-P INPUT DROP", "ipv4 filter (nft): INPUT: policy DROP: outbound connections dropped"),
        ],
    )
    def test_a_rule_that_drops_what_was_redirected_is_told(self, healthy: Sidecar, words: str, evidence: str) -> None:
        healthy.iptables(*words.split())

        found = healthy.findings()

        assert list(found) == ["captured-dropped"]
        assert found["captured-dropped"][0].startswith(evidence)

    def test_a_foreign_chain_ahead_of_the_jump_is_told(self, healthy: Sidecar) -> None:
        for words in ("-N SERVICES", "-A SERVICES -d 10.96.0.1/32 -j ACCEPT", "-I OUTPUT -j SERVICES"):
            healthy.iptables("-t", "nat", *words.split())

        assert healthy.findings() == {
            "foreign-ahead": [
                "ipv4 nat (nft): SERVICES 1: -d 10.96.0.1/32 -j ACCEPT  [0 packets]: "
                "direct, not proxied to port 15001: istio-init trace outbound tcp 10.96.0.1:80 "
                f"--src 10.77.0.2:40000 --interface eth0 --uid 1000 --gid 1000 --netns {healthy.inside.name}"
            ]
        }

    @proves(catalogue.SHADOWED_RULE)
    def test_a_rule_behind_one_that_takes_all_its_packets_is_told(self, healthy: Sidecar) -> None:
        healthy.apply(DUAL, "-x", "192.0.2.0/24,192.0.2.128/25")
        healthy.connect()

        assert healthy.findings() == {
            "shadowed-rule": [
                "ipv4 nat (nft): ISTIO_OUTPUT 10: -d 192.0.2.128/25 -j RETURN  [0 packets], after rule 9"
            ],
        }

    @proves(catalogue.PORTS_NARROW_NOTHING)
    def test_included_ports_beside_all_ranges_are_told(self, healthy: Sidecar) -> None:
        healthy.apply(DUAL, "-q", "80")
        healthy.connect()

        assert healthy.findings() == {
            "ports-narrow-nothing": [
                f"{family.value} nat (nft): ISTIO_OUTPUT 9: -p tcp -m tcp --dport 80 -j ISTIO_REDIRECT  [1 packet]"
                for family in Family
            ],
        }

    @proves(catalogue.EXCLUDE_WITHOUT_ALL)
    def test_excluded_ports_beside_a_list_are_told_of_what_is_expected(self, healthy: Sidecar) -> None:
        """No rule shows them, so what tells is the configuration; apply warns of it as well."""
        flags = (DUAL, "-b", "8080", "-d", "9090,15020")
        done = istio_init("apply", "--netns", healthy.inside.name, *flags).ok()
        healthy.connect()

        assert healthy.findings() == {}
        assert healthy.findings("--expect", "-b 8080 -d 9090,15020 -i * --dual-stack") == {
            "exclude-without-all": ["expected: -d 9090,15020 with -b '8080'"],
        }
        assert "'9090,15020' has no effect" in done.stderr

    @proves(catalogue.NO_INBOUND_CAPTURE)
    def test_outbound_capture_alone_is_told(self, healthy: Sidecar) -> None:
        healthy.apply(DUAL, "-b", "")
        healthy.connect()

        assert healthy.findings() == {
            "no-inbound-capture": [
                f"{family.value} nat (nft): ISTIO_OUTPUT 9: -j ISTIO_REDIRECT  [2 packets]" for family in Family
            ],
        }

    @proves(catalogue.MODE_LEFTOVERS)
    def test_rules_of_both_modes_are_told(self, tproxy: Sidecar) -> None:
        """As a switch from TPROXY to REDIRECT leaves them that removes nothing."""
        tproxy.iptables("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "ISTIO_INBOUND")
        tproxy.iptables("-t", "nat", "-A", "ISTIO_INBOUND", "-p", "tcp", "-j", "ISTIO_IN_REDIRECT")

        found = tproxy.findings()

        assert list(found) == ["mode-leftovers"]
        assert found["mode-leftovers"][0] == "ipv4 nat (nft): PREROUTING 1: -p tcp -j ISTIO_INBOUND  [0 packets]"
        assert found["mode-leftovers"][1].startswith("ipv4 mangle (nft): PREROUTING 2: -p tcp -m mark --mark 0x539 ")

    def test_a_rule_of_the_other_mode_is_told(self, healthy: Sidecar) -> None:
        save = "-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"
        healthy.iptables("-t", "mangle", "-N", "ISTIO_DIVERT")
        healthy.iptables("-t", "mangle", "-A", "PREROUTING", *save.split())

        found = healthy.findings()

        assert list(found) == ["mode-leftovers"]
        assert found["mode-leftovers"][-1] == f"ipv4 mangle (nft): PREROUTING 1: {save}  [0 packets]"

    def test_routing_of_the_other_mode_is_told(self, healthy: Sidecar) -> None:
        healthy.inside.run("ip", "rule", "add", "fwmark", "1337", "lookup", "133")

        assert healthy.findings() == {"mode-leftovers": ["ipv4: fwmark 0x539 lookup 133"]}

    @proves(catalogue.GUARDRAILS)
    def test_drops_that_guarded_a_reconcile_are_told(self, healthy: Sidecar) -> None:
        chains = ("INPUT", "FORWARD", "OUTPUT")
        for family in Family:
            for chain in chains:
                for protocol in ("udp", "tcp"):
                    healthy.iptables("-I", chain, "-p", protocol, "-j", "DROP", family=family)

        assert healthy.findings() == {
            "guardrails": [
                f"{family.value} filter (nft): {chain} {number}: -p {protocol} -j DROP  [0 packets]"
                for family in Family
                for chain in chains
                for number, protocol in enumerate(("tcp", "udp"), 1)
            ],
        }

    def test_a_rule_that_iptables_prints_otherwise_than_it_is_is_shown_as_nft_prints_it(self, healthy: Sidecar) -> None:
        """iptables of this age leaves the set of ports out."""
        healthy.inside.run("nft", "add", "rule", "ip", "nat", "OUTPUT", "tcp dport { 80, 443 } counter accept")

        said = healthy.explain()

        assert said["findings"] == []
        [text] = [
            row["text"]
            for row in said["rules"]
            if (row["family"], row["chain"]) == ("ipv4", "OUTPUT") and row["foreign"]
        ]
        assert text == "tcp dport { 80, 443 } counter accept"

    @proves(catalogue.UNFAITHFUL_READER)
    @pytest.mark.parametrize("rule", ["ct state established counter", "meta skuid 5 counter"])
    def test_a_table_that_iptables_cannot_print_is_told_and_nothing_is_made_up(
        self, healthy: Sidecar, rule: str
    ) -> None:
        """It is not said to be missing, and the rest is still explained."""
        healthy.inside.run("nft", "add", "rule", "ip", "nat", "OUTPUT", rule)

        said = healthy.explain()

        assert [finding["code"] for finding in said["findings"]] == ["unfaithful-reader"]
        assert said["findings"][0]["evidence"][0] == said["unread"][0]
        assert rule in [row["text"] for row in said["rules"] if row["foreign"]]
        assert {row["whose"] for row in said["rules"] if row["chain"].startswith("ISTIO_")} == {"istio sidecar"}
        assert [line.partition(":")[0] for line in said["unread"]] == ["nft rules of ipv4"]
        assert said["mode"] == "REDIRECT"
        assert any(row["family"] == "ipv6" for row in said["rules"])


class TestSurroundings:
    """Addresses, routing, name servers, the machine."""

    @proves(catalogue.IPV6_NOT_CAPTURED)
    def test_an_ipv6_address_without_ipv6_capture_is_told(self, real_kernel: None) -> None:
        with ipv4_only() as pod:
            pod.inside.run("ip", "addr", "add", "fd00:77::2/64", "dev", LINK, "nodad")

            assert pod.findings() == {"ipv6-not-captured": [f"fd00:77::2 on {LINK}"]}

    @proves(catalogue.IPV6_NOT_READY)
    def test_ipv6_capture_without_its_address_is_told(self, healthy: Sidecar) -> None:
        healthy.inside.run("ip", "-6", "addr", "del", "::6/128", "dev", "lo")

        assert healthy.findings() == {"ipv6-not-ready": ["lo has no address ::6/128"]}

    def test_ipv6_that_is_off_on_lo_is_told(self, healthy: Sidecar) -> None:
        healthy.inside.run("sysctl", "-w", "net.ipv6.conf.lo.disable_ipv6=1")

        assert healthy.findings() == {
            "ipv6-not-ready": [
                "lo has no address ::1",
                "lo has no address ::6/128",
                "net.ipv6.conf.lo.disable_ipv6 is 1",
            ],
        }

    @proves(catalogue.TPROXY_ROUTING)
    @pytest.mark.parametrize(
        ("command", "evidence"),
        [
            ("rule del fwmark 1337", "ipv4: no routing rule for mark 0x539"),
            ("-6 rule add fwmark 1337 lookup 133 pref 99", "ipv6: 2 routing rules for mark 0x539"),
            ("route flush table 133", "ipv4: table 133 has no local default route on lo"),
        ],
        ids=["no rule", "two rules", "no route"],
    )
    def test_tproxy_without_its_routing_is_told(self, tproxy: Sidecar, command: str, evidence: str) -> None:
        tproxy.inside.run("ip", *command.split())

        assert tproxy.findings() == {"tproxy-routing": [evidence]}

    @proves(catalogue.DNS_SERVERS_DIFFER)
    def test_servers_that_are_not_captured_are_told(self, dns: Sidecar) -> None:
        dns.inside.write_resolv_conf("10.88.0.1")

        assert dns.findings() == {
            "dns-servers-differ": ["resolv.conf names 10.88.0.1", "rules name 10.77.0.1, fd00:77::1"],
        }

    @proves(catalogue.HOST_NAMESPACE)
    def test_rules_in_the_namespace_of_the_host_are_told(self, healthy: Sidecar) -> None:
        found = explain(snapshot(healthy).replace(is_host=True)).findings

        assert [finding.kind for finding in found] == [catalogue.HOST_NAMESPACE]
        assert found[0].evidence[0] == "ipv4 nat (nft): PREROUTING 1: -p tcp -j ISTIO_INBOUND  [1 packet]"

    @proves(catalogue.CONNTRACK_FULL)
    def test_a_nearly_full_connection_table_is_told(self, healthy: Sidecar) -> None:
        """The maximum is the machine's, which tests leave alone."""
        real = snapshot(healthy)
        maximum = "net.netfilter.nf_conntrack_max"
        count = real.sysctls["net.netfilter.nf_conntrack_count"]
        assert count >= 4

        found = explain(real.replace(sysctls={**real.sysctls, maximum: count + 1})).findings
        assert [finding.kind for finding in found] == []

        found = explain(real.replace(sysctls={**real.sysctls, maximum: count})).findings
        assert [finding.kind for finding in found] == [catalogue.CONNTRACK_FULL]
        assert found[0].evidence == (f"{count} of {count} entries",)

    @proves(catalogue.INVALID_PACKETS)
    def test_packets_of_no_connection_are_told_where_they_are_not_dropped(self, healthy: Sidecar) -> None:
        healthy.pod.peer.call(lambda: send_reset(HOSTS[V4].peer, HOSTS[V4].pod))
        assert healthy.findings() == {}

        for _ in range(19):
            healthy.pod.peer.call(lambda: send_reset(HOSTS[V4].peer, HOSTS[V4].pod))
        assert healthy.findings() == {"invalid-packets": ["20 packets called invalid"]}

        healthy.apply(DUAL, "--drop-invalid")
        healthy.connect()
        assert healthy.findings() == {}

    @proves(catalogue.ZERO_COUNTERS)
    def test_rules_that_saw_none_of_the_connections_are_told(self, healthy: Sidecar) -> None:
        """The connections are older than the rules."""
        istio_init("clean", "--netns", healthy.inside.name).ok()
        healthy.apply(DUAL)

        assert healthy.findings() == {
            "zero-counters": [
                "6 established sockets",
                *(
                    f"{family.value} nat (nft): {rule}  [0 packets]"
                    for family in Family
                    for rule in ("PREROUTING 1: -p tcp -j ISTIO_INBOUND", "OUTPUT 1: -j ISTIO_OUTPUT")
                ),
            ],
        }


def send_reset(source: str, destination: str) -> None:
    """Send the end of a connection that never began."""
    header = struct.pack("!HHIIBBHHH", 4321, 80, 1, 0, 5 << 4, 0x04, 0, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, 6, len(header))
    total = sum(struct.unpack("!16H", pseudo + header))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.sendto(header[:16] + struct.pack("!H", checksum) + header[18:], (destination, 0))


def test_findings_come_with_severity_reason_and_remedy_the_worst_first(healthy: Sidecar) -> None:
    healthy.proxy.kill()
    healthy.start(APP, Endpoint("127.0.0.1", 9000))
    healthy.iptables("-t", "nat", "-A", "OUTPUT", "-j", "ISTIO_OUTPUT")

    found = healthy.explain()["findings"]

    assert [finding["severity"] for finding in found] == ["error", "warning", "info"]
    kinds = {kind.code: kind for kind in catalogue.KINDS}
    for finding in found:
        kind = kinds[finding["code"]]
        assert (finding["title"], finding["why"]) == (kind.title, kind.why)
        assert finding["fix"]
    assert json.dumps(found)
