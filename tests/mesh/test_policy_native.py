"""The policies as native nftables has them: which rules stand in a chain, and what lies in sets."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.matches import IdRange, PortRange
from istio_init.dialects.nft.ruleset import Table
from istio_init.dialects.nft.script import element_text, whole
from istio_init.dialects.nft.text import rule_text
from istio_init.mesh.native_names import AMBIENT, SIDECAR
from istio_init.mesh.policy import ambient, sidecar
from istio_init.mesh.policy.nftables import tables
from istio_init.netfilter.family import Family

TPROXY = InterceptionMode.TPROXY
IPV4_ONLY = Surroundings()
DUAL = Surroundings(ipv6=True)


def ports(*numbers: int) -> tuple[PortRange, ...]:
    return tuple([PortRange(each, each) for each in numbers])


def built(config: Config, around: Surroundings = IPV4_ONLY) -> dict[str, Table]:
    made = tables(sidecar.clauses(config, around), around.families, SIDECAR)
    return {table.name.removeprefix(SIDECAR): table for table in made}


def shown(table: Table, chain: str) -> list[str]:
    """The rules of a chain without their counters, which every rule has."""
    [found] = [each for each in table.chains if each.name == chain]
    texts = [rule_text(rule.expressions) for rule in found.rules]
    assert all("counter" in text.split() for text in texts)
    return [" ".join([word for word in text.split() if word != "counter"]) for text in texts]


def elements(table: Table, name: str) -> list[str]:
    found = table.sets[name]
    return [element_text(each, found.type) for each in found.elements]


class TestWhatTheInjectionTemplateAsksFor:
    config = Config(inbound_ports=ALL, outbound_ranges=ALL, inbound_exclude_ports=ports(15090, 15021, 15020))
    nat = built(config)["nat"]

    def test_there_is_no_other_table(self) -> None:
        assert list(built(self.config)) == ["nat"]

    def test_base_chains_let_ipv6_pass_where_it_is_not_captured(self) -> None:
        assert shown(self.nat, "prerouting") == ["meta nfproto ipv4 meta l4proto tcp jump istio-inbound"]
        assert shown(self.nat, "output") == ["meta nfproto ipv4 jump istio-output"]

    def test_base_chains_take_both_families_where_both_are_captured(self) -> None:
        dual = built(self.config, DUAL)["nat"]

        assert shown(dual, "prerouting") == ["meta l4proto tcp jump istio-inbound"]
        assert shown(dual, "output") == ["jump istio-output"]

    def test_excluded_ports_are_a_set_of_merged_intervals(self) -> None:
        assert shown(self.nat, "istio-inbound") == [
            "tcp dport 15008 return",
            "tcp dport @inbound-excluded-port return",
            "meta l4proto tcp jump istio-in-redirect",
        ]
        assert elements(self.nat, "inbound-excluded-port") == ["15020-15021", "15090"]

    def test_the_application_on_lo_returns_after_the_proxy_did_so_that_no_socket_is_needed_to_tell(self) -> None:
        assert shown(self.nat, "istio-output") == [
            'oifname "lo" ip saddr 127.0.0.6 return',
            'oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337 jump istio-in-redirect',
            "meta skuid 1337 return",
            'oifname "lo" return',
            'oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skgid 1337 jump istio-in-redirect',
            "meta skgid 1337 return",
            'oifname "lo" return',
            "ip daddr 127.0.0.1 return",
            "jump istio-redirect",
        ]

    def test_every_rule_names_its_role(self) -> None:
        comments = [rule.comment for chain in self.nat.chains for rule in chain.rules]
        assert comments[:2] == ["inbound-tunnel-port", "inbound-excluded-port"]
        assert None not in comments


class TestLists:
    def test_ranges_of_each_family_are_a_set_of_their_own(self) -> None:
        ranges = ("10.1.0.0/16", "10.0.0.0/16", "fd00::/8", "10.9.0.1/32", "fc00::/8")
        config = Config(outbound_exclude_ranges=tuple(map(ip_network, ranges)))
        nat = built(config, DUAL)["nat"]

        assert shown(nat, "istio-output")[-2:] == [
            "ip daddr @outbound-excluded-range-ipv4 return",
            "ip6 daddr fc00::/7 return",
        ]
        assert elements(nat, "outbound-excluded-range-ipv4") == ["10.0.0.0/15", "10.9.0.1"]

    def test_intervals_that_are_no_network_are_ranges(self) -> None:
        config = Config(outbound_exclude_ranges=tuple(map(ip_network, ("10.0.0.1/32", "10.0.0.2/31", "11.0.0.0/8"))))
        nat = built(config)["nat"]

        assert elements(nat, "outbound-excluded-range-ipv4") == ["10.0.0.1-10.0.0.3", "11.0.0.0/8"]

    def test_a_range_that_is_a_whole_family_tests_the_family(self) -> None:
        nat = built(Config(outbound_ranges=(ip_network("0.0.0.0/0"),)), DUAL)["nat"]

        assert shown(nat, "istio-output")[-1] == "meta nfproto ipv4 jump istio-redirect"

    def test_ranges_around_a_whole_family_are_different_sets(self) -> None:
        texts = ("10.0.0.0/8", "12.0.0.0/8", "0.0.0.0/0", "14.0.0.0/8", "16.0.0.0/8")
        nat = built(Config(outbound_ranges=tuple(map(ip_network, texts))))["nat"]

        assert elements(nat, "outbound-included-range-ipv4") == ["10.0.0.0/8", "12.0.0.0/8"]
        assert elements(nat, "outbound-included-range-ipv4-2") == ["14.0.0.0/8", "16.0.0.0/8"]

    def test_ports_of_two_protocols_are_one_set(self) -> None:
        nat = built(Config(outbound_exclude_ports=ports(53, 99)))["nat"]

        assert shown(nat, "istio-output")[:2] == [
            "tcp dport @outbound-excluded-port return",
            "udp dport @outbound-excluded-port return",
        ]

    def test_all_ports_are_no_test_of_ports(self) -> None:
        config = Config(inbound_ports=(PortRange(80, 80), PortRange(0, 65535)))

        assert shown(built(config)["nat"], "istio-inbound")[-1] == "meta l4proto tcp jump istio-in-redirect"

    def test_names_of_interfaces_are_a_set_and_patterns_are_not(self) -> None:
        nat = built(Config(exclude_interfaces=("eth1", "veth+", "eth2")))["nat"]

        assert shown(nat, "prerouting") == [
            "meta nfproto ipv4 iifname @excluded-interface-in-interfaces return",
            'meta nfproto ipv4 iifname "veth*" return',
        ]
        assert elements(nat, "excluded-interface-in-interfaces") == ['"eth1"', '"eth2"']

    def test_virtual_interfaces_are_asked_for_ranges_before_they_return(self) -> None:
        config = Config(virtual_interfaces=("vm0", "vm1"), outbound_ranges=(ip_network("10.0.0.0/8"),))

        assert shown(built(config)["nat"], "prerouting") == [
            "ip daddr 10.0.0.0/8 iifname @virtual-interface-capture-interfaces jump istio-redirect",
            "meta nfproto ipv4 iifname @virtual-interface-return-interfaces return",
        ]


class TestOwners:
    def test_what_no_included_group_sent_ends_in_a_chain_that_members_come_back_from(self) -> None:
        nat = built(Config(owner_groups=(IdRange(5, 5), IdRange(7, 9)), outbound_ranges=ALL))["nat"]

        assert shown(nat, "istio-output")[-3:] == [
            "jump istio-output-groups",
            "ip daddr 127.0.0.1 return",
            "jump istio-redirect",
        ]
        assert shown(nat, "istio-output-groups") == ["meta skgid @owner-groups-included-gids return", "accept"]
        assert elements(nat, "owner-groups-included-gids") == ["5", "7-9"]

    def test_users_and_groups_have_sets_of_their_own(self) -> None:
        config = Config(proxy_uids=(IdRange(1, 1), IdRange(3, 3)), redirect_dns=True, capture_all_dns=True)

        assert shown(built(config)["raw"], "istio-output-dns")[:2] == [
            "meta skuid @dns-zone-proxy-answer-uids udp dport 53 ct zone set 1",
            "meta skgid 1337 udp dport 53 ct zone set 1",
        ]

    @pytest.mark.parametrize("dns", [False, True])
    def test_nothing_tests_who_is_not_the_sender(self, dns: bool) -> None:
        uids = (IdRange(1, 1), IdRange(4, 9))
        config = Config(proxy_uids=uids, owner_groups=(IdRange(5, 5),), redirect_dns=dns, capture_all_dns=True)

        text = whole(built(config, DUAL).values())
        assert "skuid !=" not in text and "skgid !=" not in text


class TestTproxy:
    config = Config(mode=TPROXY, inbound_ports=ALL)

    def test_what_finds_no_socket_is_dropped(self) -> None:
        assert shown(built(self.config)["mangle"], "istio-tproxy") == [
            "ip daddr != 127.0.0.1 meta l4proto tcp tproxy ip to :15006 meta mark set 0x00000539 accept",
            "ip daddr != 127.0.0.1 meta l4proto tcp drop",
        ]

    def test_packets_that_are_the_proxys_are_told_first_in_both_families(self) -> None:
        assert shown(built(self.config, DUAL)["mangle"], "istio-inbound")[:4] == [
            "meta l4proto tcp meta mark 0x00000539 return",
            'iifname "lo" ip saddr 127.0.0.6 meta l4proto tcp return',
            'iifname "lo" ip6 saddr ::6 meta l4proto tcp return',
            'iifname "lo" meta l4proto tcp meta mark != 0x0000053a return',
        ]


def test_dns_is_looked_at_only_in_a_family_that_has_servers() -> None:
    around = Surroundings(ipv6=True, dns_servers=(ip_address("10.96.0.10"),))
    nat = built(Config(redirect_dns=True), around)["nat"]

    assert "meta nfproto ipv4 jump istio-output-dns" in shown(nat, "istio-output")


def test_an_ambient_pod_has_tables_of_its_own() -> None:
    made = tables(ambient.clauses(AmbientConfig(ipv6=False)), (Family.IPV4,), AMBIENT)

    assert [table.name for table in made] == ["istio-ambient-mangle", "istio-ambient-nat", "istio-ambient-raw"]
    assert shown(made[0], "istio-prerouting") == [
        "meta mark & 0x00000fff == 0x00000539 ct mark set ct mark & 0xfffff111 | 0x00000111"
    ]
