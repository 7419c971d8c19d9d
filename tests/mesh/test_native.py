"""Native nftables rules, raised to what iptables would write for them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.strategies import configs, surroundings

from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import Counters, RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.role import Role
from istio_init.inspector.infer import infer, infer_native
from istio_init.inspector.release import release_span
from istio_init.mesh.native import SIDECAR, Raised, Spot, raised
from istio_init.mesh.policy import native, sidecar
from istio_init.mesh.raising import Lifted, lift
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family

from .nft import ACCEPT, COUNTER, DROP, RETURN, TCP, Expression, jump, on, put, redirect, ruleset

V4, V6 = Family
BOTH = (V4, V6)

law = settings(derandomize=True, deadline=None, database=None, max_examples=150, suppress_health_check=[*HealthCheck])

TPROXY4 = {"tproxy": {"family": "ip", "port": 15006}}

LIFTED: list[tuple[list[Expression], tuple[Family, ...], str]] = [
    ([TCP, jump("X")], BOTH, "-p tcp -j X"),
    ([on("l4proto", 6), jump("X")], BOTH, "-p tcp -j X"),
    ([on("l4proto", 17, "!="), RETURN], BOTH, "! -p udp -j RETURN"),
    ([{"goto": {"target": "X"}}], BOTH, "-g X"),
    ([on("tcp dport", 15008), RETURN], BOTH, "-p tcp -m tcp --dport 15008 -j RETURN"),
    ([on("tcp dport", {"range": [80, 90]}), RETURN], BOTH, "-p tcp -m tcp --dport 80:90 -j RETURN"),
    ([on("tcp dport", {"range": [0, 65535]}), RETURN], BOTH, "-p tcp -m tcp -j RETURN"),
    ([on("udp sport", 53), on("udp dport", 99, "!=")], BOTH, "-p udp -m udp --sport 53 ! --dport 99"),
    (
        [on("tcp dport", {"set": [53, 15008]}, "!="), jump("X")],
        BOTH,
        "-p tcp -m multiport ! --dports 53,15008 -j X",
    ),
    ([on("iifname", "eth*"), RETURN], BOTH, "-i eth+ -j RETURN"),
    ([on("oifname", "lo", "!="), redirect(15053)], BOTH, "! -o lo -j REDIRECT --to-ports 15053"),
    ([{"redirect": None}], BOTH, "-j REDIRECT"),
    ([on("ip saddr", "127.0.0.6"), RETURN], (V4,), "-s 127.0.0.6/32 -j RETURN"),
    (
        [on("ip6 daddr", {"prefix": {"addr": "2001:db8::", "len": 32}}, "!="), ACCEPT],
        (V6,),
        "! -d 2001:db8::/32 -j ACCEPT",
    ),
    ([on("nfproto", "ipv6"), DROP], (V6,), "-j DROP"),
    ([on("skuid", 1337, "!="), RETURN], BOTH, "-m owner ! --uid-owner 1337 -j RETURN"),
    ([on("skgid", {"range": [5, 9]}), RETURN], BOTH, "-m owner --gid-owner 5-9 -j RETURN"),
    ([on("mark", 1337, mask=0xFFF), ACCEPT], BOTH, "-m mark --mark 0x539/0xfff -j ACCEPT"),
    ([on("ct mark", 273), ACCEPT], BOTH, "-m connmark --mark 0x111 -j ACCEPT"),
    ([on("ct state", "invalid", "in"), jump("X")], BOTH, "-m conntrack --ctstate INVALID -j X"),
    (
        [on("ct state", ["established", "related"], "in"), jump("X")],
        BOTH,
        "-m conntrack --ctstate RELATED,ESTABLISHED -j X",
    ),
    ([put("mark", 1337)], BOTH, "-j MARK --set-xmark 0x539/0xffffffff"),
    (
        [put("ct mark", {"|": [{"&": [{"ct": {"key": "mark"}}, 0xFFFFF111]}, 0x111]})],
        BOTH,
        "-j CONNMARK --set-xmark 0x111/0xfff",
    ),
    ([put("mark", {"^": [{"meta": {"key": "mark"}}, 1]})], BOTH, "-j MARK --set-xmark 0x1/0x0"),
    ([put("mark", {"&": [{"meta": {"key": "mark"}}, 0xFF]})], BOTH, "-j MARK --set-xmark 0x0/0xffffff00"),
    (
        [put("ct mark", {"meta": {"key": "mark"}})],
        BOTH,
        "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    ),
    (
        [put("mark", {"ct": {"key": "mark"}})],
        BOTH,
        "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    ),
    ([put("ct zone", 2)], BOTH, "-j CT --zone 2"),
    (
        [TCP, on("ip daddr", "127.0.0.1", "!="), TPROXY4, put("mark", 1337), ACCEPT],
        (V4,),
        "! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
    ),
]


@pytest.mark.parametrize(("expressions", "families", "text"), LIFTED, ids=[text for *_, text in LIFTED])
def test_a_rule_is_what_iptables_would_write(
    expressions: list[Expression], families: tuple[Family, ...], text: str
) -> None:
    lifted = lift([*expressions[:-1], COUNTER, expressions[-1]])

    assert (rule_text(lifted.rule), lifted.families) == (text, families)
    assert (lifted.counters, lifted.is_whole) == (Counters(7, 420), True)


@pytest.mark.parametrize(
    "expressions",
    [
        [on("ip daddr", {"set": ["10.0.0.1", "10.0.0.2"]}), ACCEPT],
        [on("ip daddr", "@allowed"), ACCEPT],
        [on("tcp dport", 80, ">"), ACCEPT],
        [on("ct state", ["established", "related"], "=="), ACCEPT],
        [on("tcp dport", 80), on("tcp dport", 81), ACCEPT],
        [on("tcp dport", 80), on("l4proto", "udp"), ACCEPT],
        [{"limit": {"rate": 5, "per": "second"}}, ACCEPT],
        [TPROXY4, put("mark", 1337)],
        [TPROXY4],
        [put("mark", 1), ACCEPT],
        [put("mark", {"|": [{"ct": {"key": "mark"}}, 1]})],
        [{"redirect": {"port": 15001, "flags": "random"}}],
        [{"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": {"set": []}}}],
        [{"match": {"op": "=="}}, ACCEPT],
    ],
    ids=str,
)
def test_what_iptables_has_no_word_for_stays_in_the_rule_and_makes_it_no_known_one(
    expressions: list[Expression],
) -> None:
    lifted = lift(expressions)

    assert not lifted.is_whole
    assert "{" in rule_text(lifted.rule)


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["==", "in", "tcp", "mark", "lo", "10.0.0.0", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("op left right meta ct payload key protocol field set range prefix addr len & |".split()),
            inner,
        )
    ),
    max_leaves=12,
)
kinds = st.sampled_from("match counter jump goto redirect mangle tproxy accept return vmap comment".split())


@law
@given(st.lists(st.dictionaries(kinds, nested, min_size=1, max_size=1), max_size=4))
def test_nothing_that_a_rule_can_hold_is_an_error(expressions: list[Expression]) -> None:
    assert isinstance(lift(expressions), Lifted)


NAT: Mapping[str, list[list[Expression]]] = {
    "prerouting": [[TCP, COUNTER, jump("istio-inbound")]],
    "output": [[COUNTER, jump("istio-output")]],
    "istio-inbound": [[on("tcp dport", 15008), COUNTER, RETURN], [TCP, COUNTER, jump("istio-in-redirect")]],
    "istio-redirect": [[TCP, COUNTER, redirect(15001)]],
    "istio-in-redirect": [[TCP, COUNTER, redirect(15006)]],
    "istio-output": [
        [on("oifname", "lo"), on("ip saddr", "127.0.0.6"), COUNTER, RETURN],
        *[
            rule
            for owner in ("skuid", "skgid")
            for rule in (
                [
                    on("oifname", "lo"),
                    on("ip daddr", "127.0.0.1", "!="),
                    on("tcp dport", 15008, "!="),
                    on(owner, 1337),
                    COUNTER,
                    jump("istio-in-redirect"),
                ],
                [on("oifname", "lo"), on(owner, 1337, "!="), COUNTER, RETURN],
                [on(owner, 1337), COUNTER, RETURN],
            )
        ],
        [on("ip daddr", "127.0.0.1"), COUNTER, RETURN],
        [COUNTER, jump("istio-redirect")],
    ],
}


def sidecar_of(
    nat: Mapping[str, list[list[Expression]]] = NAT, **tables: Mapping[str, list[list[Expression]]]
) -> Raised:
    found = raised(ruleset(SIDECAR, {"nat": nat, **tables}))
    assert found is not None
    return found


def names(rules: RuleSet) -> list[tuple[Table, str]]:
    return [(table, chain.name) for table, chain in rules.chains()]


class TestRaised:
    def test_tables_and_chains_have_iptables_names(self) -> None:
        assert names(sidecar_of().rules[V4]) == [
            (Table.NAT, name)
            for name in ("PREROUTING", "OUTPUT", "ISTIO_INBOUND", "ISTIO_REDIRECT", "ISTIO_IN_REDIRECT", "ISTIO_OUTPUT")
        ]

    def test_a_rule_without_an_address_is_in_both_families_and_one_with_an_address_in_its_own(self) -> None:
        found = sidecar_of()

        assert [rule_text(rule) for rule in found.rules[V6].tables[Table.NAT]["ISTIO_OUTPUT"].rules] == [
            "-o lo -m owner ! --uid-owner 1337 -j RETURN",
            "-m owner --uid-owner 1337 -j RETURN",
            "-o lo -m owner ! --gid-owner 1337 -j RETURN",
            "-m owner --gid-owner 1337 -j RETURN",
            "-j ISTIO_REDIRECT",
        ]
        assert len(found.rules[V4].tables[Table.NAT]["ISTIO_OUTPUT"].rules) == 9

    def test_ipv6_was_asked_for_where_a_rule_names_an_ipv6_address(self) -> None:
        passthrough = [on("oifname", "lo"), on("ip6 saddr", "::6"), COUNTER, RETURN]

        assert list(sidecar_of().captured) == [V4]
        assert list(sidecar_of({**NAT, "istio-output": [passthrough, *NAT["istio-output"]]}).captured) == [V4, V6]

    def test_every_nft_rule_has_its_role(self) -> None:
        roles = sidecar_of().roles()

        assert None not in roles.values()
        assert len(roles) == sum(map(len, NAT.values()))
        assert roles[Spot("inet", "istio-proxy-nat", "istio-output", 1)] is Role.OUTBOUND_PASSTHROUGH
        assert roles[Spot("inet", "istio-proxy-nat", "istio-output", 8)] is Role.OUTBOUND_LOOPBACK

    def test_a_rule_of_no_known_kind_has_no_role_and_is_said_to_be_unread(self) -> None:
        odd: list[Expression] = [on("tcp dport", 80, ">"), RETURN]
        found = sidecar_of({**NAT, "istio-inbound": [odd, *NAT["istio-inbound"]]})

        spot = Spot("inet", "istio-proxy-nat", "istio-inbound", 1)
        assert found.unread == (spot,)
        assert found.roles()[spot] is None

    @pytest.mark.parametrize("flags", ["dormant", ["dormant"]])
    def test_a_dormant_table_is_not_there(self, flags: object) -> None:
        assert raised(ruleset(SIDECAR, {"nat": NAT}, flags)) is None

    def test_a_table_with_flags_that_nobody_can_read_is_taken_with_a_doubt(self) -> None:
        found = raised(ruleset(SIDECAR, {"nat": NAT}, ["\u00e9"]))

        assert found is not None
        assert found.in_doubt == ("istio-proxy-nat",)

    def test_tables_of_others_are_none_of_ours(self) -> None:
        assert raised(ruleset("somebody-", {"nat": NAT})) is None


class TestInference:
    def test_the_configuration_is_that_of_the_same_rules_in_iptables(self) -> None:
        found = infer_native(sidecar_of())

        assert found is not None
        assert found.config == Config(inbound_ports=ALL, outbound_ranges=ALL)
        assert found.exact

    def test_the_release_is_one_that_has_native_nftables(self) -> None:
        assert release_span(sidecar_of().captured, native=True) == "Istio 1.27 or later"

    def test_invalid_packets_are_dropped_among_tcp_alone(self) -> None:
        mangle = {
            "prerouting": [[TCP, on("ct state", "invalid", "in"), COUNTER, jump("istio-drop")]],
            "istio-drop": [[COUNTER, DROP]],
        }

        found = infer_native(sidecar_of(mangle=mangle))

        assert found is not None
        assert found.config.drop_invalid
        assert found.exact

    @law
    @given(configs, surroundings)
    def test_the_policy_as_native_nftables_states_it_gives_its_configuration_back(
        self, config: Config, around: Surroundings
    ) -> None:
        around = around.replace(dns_servers=tuple(dict.fromkeys(around.dns_servers)))
        built = {family: recognise(rules) for family, rules in native.sidecar_rules(config, around).items()}

        found = infer({family: built[family] for family in around.families}, None, native.sidecar_rules)

        assert found is not None
        wanted = config if config.mode is InterceptionMode.REDIRECT else config.replace(tproxy_table=133)
        assert sidecar.rules(found.literal or found.config, found.around) == sidecar.rules(wanted, around)

    @law
    @given(configs, surroundings)
    def test_a_family_that_was_not_asked_for_has_the_rules_without_addresses(
        self, config: Config, around: Surroundings
    ) -> None:
        built = native.sidecar_rules(config, around.replace(ipv6=False))

        left = [entry.rule for *_, entry in built[V6].entries()]
        assert all(rule.source is None and rule.destination is None for rule in left)
        assert {*left} <= {entry.rule for *_, entry in built[V4].entries()}

    @pytest.mark.parametrize(("family", "network", "other"), [("ip", "0.0.0.0", V6), ("ip6", "::", V4)])
    def test_a_range_of_all_addresses_is_of_its_family_alone(self, family: str, network: str, other: Family) -> None:
        everywhere = on(f"{family} daddr", {"prefix": {"addr": network, "len": 0}})
        lifted = lift([everywhere, RETURN])

        assert other not in lifted.families
        assert lifted.rule.destination is None
        config = Config(outbound_ranges=(ip_network(f"{network}/0"),))
        built = native.sidecar_rules(config, Surroundings(ipv6=True))
        assert [
            family
            for family, rules in built.items()
            if any(entry.role is Role.OUTBOUND_CAPTURE_ALL for *_, entry in rules.entries())
        ] == [each for each in BOTH if each is not other]

    def test_both_families_jump_to_dns_capture_where_one_has_a_server(self) -> None:
        config = Config(redirect_dns=True, outbound_ranges=ALL)
        around = Surroundings(True, (ip_address("10.96.0.10"),))

        built = native.sidecar_rules(config, around)

        for rules in built.values():
            roles = [entry.role for *_, entry in rules.entries()]
            assert (roles.count(Role.DNS_JUMP), roles.count(Role.DNS_ZONES_IN_JUMP)) == (1, 1)
        redirects = [entry for *_, entry in built[V6].entries() if entry.role is Role.DNS_REDIRECT]
        assert redirects == []
