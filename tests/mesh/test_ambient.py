"""The rules of a pod in an ambient mesh: the policy, and the configuration that live rules come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istio_init.cli.pflag import parse_flags
from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.config.parse import Names, gather
from istio_init.config.parse_ambient import parse_ambient
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import entry_text, parse_save, render_save
from istio_init.dialects.iptables.tables import Table
from istio_init.errors import ConfigError
from istio_init.inspector.arguments import Arguments, ambient_arguments
from istio_init.inspector.infer_ambient import infer_ambient
from istio_init.inspector.release import ambient_release_span
from istio_init.mesh.mode import Mode, mode_of
from istio_init.mesh.native import AMBIENT, raised
from istio_init.mesh.policy import ambient, native, sidecar
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.options import AMBIENT_OPTIONS

from .nft import ACCEPT, TCP, Expression, jump, on, put, redirect, ruleset

V4, V6 = Family

law = settings(derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck])

configs = st.builds(
    AmbientConfig,
    redirect_dns=st.booleans(),
    ipv6=st.booleans(),
    bypass_inbound_capture=st.booleans(),
    virtual_interfaces=st.lists(st.sampled_from(["virt0", "virt1", "tap+"]), unique=True).map(tuple),
    probe_ipv4=st.sampled_from([AmbientConfig().probe_ipv4, IPv4Address("169.254.9.9")]),
)


def live(built: Mapping[Family, RuleSet]) -> dict[Family, RuleSet]:
    """Rules as they are read back, without what the policy knew of them."""
    return {family: recognise(parse_save(render_save(rules), family).rules) for family, rules in built.items()}


def texts(config: AmbientConfig, family: Family, table: Table, chain: str) -> list[str]:
    found = ambient.rules(config)[family].chain(table, chain)
    assert found is not None
    return [entry_text(entry) for entry in found.entries]


NOT_OURS = "-m mark ! --mark 0x539/0xfff"

CHAINS: list[tuple[str, AmbientConfig, Family, Table, str, Sequence[str]]] = [
    (
        "inbound connections go to ztunnel, but for health probes and tunnels",
        AmbientConfig(),
        V4,
        Table.NAT,
        "ISTIO_PRERT",
        [
            "-s 169.254.7.127/32 -p tcp -m tcp -j ACCEPT",
            f"! -d 127.0.0.1/32 -p tcp -m tcp ! --dport 15008 {NOT_OURS} -j REDIRECT --to-ports 15006",
        ],
    ),
    (
        "a virtual interface's connections are outbound ones",
        AmbientConfig(bypass_inbound_capture=True, virtual_interfaces=("tap0",)),
        V6,
        Table.NAT,
        "ISTIO_PRERT",
        ["-i tap0 -p tcp -j REDIRECT --to-ports 15001", "-i tap0 -p tcp -j RETURN"],
    ),
    (
        "the chain is there where it has no rule",
        AmbientConfig(bypass_inbound_capture=True),
        V4,
        Table.NAT,
        "ISTIO_PRERT",
        [],
    ),
    (
        "queries are captured before what the pod sends to itself",
        AmbientConfig(),
        V6,
        Table.NAT,
        "ISTIO_OUTPUT",
        [
            "-d fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128 -p tcp -m tcp -j ACCEPT",
            f"! -o lo -p udp {NOT_OURS} -m udp --dport 53 -j REDIRECT --to-ports 15053",
            f"! -d ::1/128 -p tcp -m tcp --dport 53 {NOT_OURS} -j REDIRECT --to-ports 15053",
            "-p tcp -m mark --mark 0x111/0xfff -j ACCEPT",
            "! -d ::1/128 -o lo -j ACCEPT",
            f"! -d ::1/128 -p tcp {NOT_OURS} -j REDIRECT --to-ports 15001",
        ],
    ),
    (
        "connections that ztunnel opened are remembered",
        AmbientConfig(redirect_dns=False),
        V4,
        Table.MANGLE,
        "ISTIO_PRERT",
        ["-m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff"],
    ),
]


@pytest.mark.parametrize(
    ("config", "family", "table", "chain", "expected"), [case[1:] for case in CHAINS], ids=[case[0] for case in CHAINS]
)
def test_a_chain_of_the_policy(
    config: AmbientConfig, family: Family, table: Table, chain: str, expected: Sequence[str]
) -> None:
    assert texts(config, family, table, chain) == expected


def test_zones_are_there_with_dns_capture_alone() -> None:
    assert Table.RAW in ambient.rules(AmbientConfig())[V4].tables
    assert Table.RAW not in ambient.rules(AmbientConfig(redirect_dns=False))[V4].tables


def test_answers_are_routed_to_ztunnel_in_each_family() -> None:
    routes = ambient.routing(AmbientConfig()).mark_routes

    assert [str(route) for route in routes] == [
        "ipv4 fwmark 0x111/0xfff lookup 100, local default dev lo",
        "ipv6 fwmark 0x111/0xfff lookup 100, local default dev lo",
    ]
    assert {route.preference for route in routes} == {32764}


class TestInference:
    @law
    @given(configs)
    def test_live_rules_give_their_configuration_back_and_have_the_roles_that_the_policy_gave_them(
        self, config: AmbientConfig
    ) -> None:
        built = ambient.rules(config)

        found = infer_ambient(live(built))

        assert found is not None
        wanted = config.replace(probe_ipv6=found.config.probe_ipv6)
        assert (found.config, found.exact) == (wanted, True)
        assert [[entry.role for *_, entry in rules.entries()] for rules in live(built).values()] == [
            [entry.role for *_, entry in rules.entries()] for rules in built.values()
        ]

    @law
    @given(configs)
    def test_native_rules_give_the_same(self, config: AmbientConfig) -> None:
        built = {family: recognise(rules) for family, rules in native.ambient_rules(config).items()}

        found = infer_ambient({family: built[family] for family in config.families}, native.ambient_rules)

        assert found is not None
        assert (found.config, found.exact) == (config, True)

    @pytest.mark.parametrize("number", range(6))
    def test_damaged_rules_are_not_just_what_the_policy_gives(self, number: int) -> None:
        built = ambient.rules(AmbientConfig(ipv6=False))[V4]
        nat = dict(built.tables[Table.NAT])
        chain = nat["ISTIO_OUTPUT"]
        nat["ISTIO_OUTPUT"] = chain.replace(entries=chain.entries[:number] + chain.entries[number + 1 :])

        found = infer_ambient(live({V4: RuleSet(V4, {**built.tables, Table.NAT: nat})}))

        assert found is not None
        assert found.config == AmbientConfig(ipv6=False)
        assert not found.exact

    def test_a_sidecar_is_no_ambient_pod(self) -> None:
        built = sidecar.rules(Config(inbound_ports=ALL, outbound_ranges=ALL), Surroundings())

        assert infer_ambient(live(built)) is None

    def test_native_chains_without_rules_are_left_out_and_miss_nothing(self) -> None:
        connection_mark: Expression = {"ct": {"key": "mark"}}
        mangle = {
            "prerouting": [[jump("istio-prerouting")]],
            "output": [[jump("istio-output")]],
            "istio-prerouting": [
                [on("mark", 0x539, mask=0xFFF), put("ct mark", {"|": [{"&": [connection_mark, 0xFFFFF111]}, 0x111]})]
            ],
            "istio-output": [[on("ct mark", 0x111, mask=0xFFF), put("mark", connection_mark)]],
        }
        not_loopback = on("ip daddr", "127.0.0.1", "!=")
        nat = {
            "output": [[jump("istio-output")]],
            "istio-output": [
                [TCP, on("ip daddr", "169.254.7.127"), ACCEPT],
                [TCP, on("mark", 0x111, mask=0xFFF), ACCEPT],
                [on("oifname", "lo"), not_loopback, ACCEPT],
                [TCP, not_loopback, on("mark", 0x539, "!=", 0xFFF), redirect(15001)],
            ],
        }
        found = raised(ruleset(AMBIENT, {"nat": nat, "mangle": mangle}), AMBIENT)

        assert found is not None
        assert None not in found.roles().values()
        inferred = infer_ambient(found.captured, native.ambient_rules)
        assert inferred is not None
        assert inferred.config == AmbientConfig(redirect_dns=False, ipv6=False, bypass_inbound_capture=True)


class TestRelease:
    @pytest.mark.parametrize(
        ("config", "native_rules", "span"),
        [
            (AmbientConfig(), False, "Istio 1.25 or later"),
            (AmbientConfig(), True, "Istio 1.28 or later"),
            (AmbientConfig(bypass_inbound_capture=True), False, "Istio 1.21 or later"),
        ],
    )
    def test_the_release_is_told_by_how_inbound_connections_are_captured(
        self, config: AmbientConfig, native_rules: bool, span: str
    ) -> None:
        assert ambient_release_span(live(ambient.rules(config)), native=native_rules) == span

    def test_up_to_1_24_inbound_connections_were_handed_over_by_tproxy(self) -> None:
        text = "\n".join(
            [
                "*mangle",
                ":ISTIO_PRERT - [0:0]",
                "-A ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j TPROXY --on-port 15006"
                " --on-ip 0.0.0.0 --tproxy-mark 0x111/0xfff",
                "COMMIT",
                "",
            ]
        )
        rules = recognise(parse_save(text, V4).rules)

        assert ambient_release_span({V4: rules}) == "Istio 1.21 to 1.24"


class TestArguments:
    @pytest.mark.parametrize(
        ("config", "argv"),
        [
            (AmbientConfig(), ["--ambient"]),
            (AmbientConfig(redirect_dns=False, ipv6=False), ["--ambient", "--redirect-dns=false", "--ipv6=false"]),
            (
                AmbientConfig(bypass_inbound_capture=True, virtual_interfaces=("a", "b+")),
                ["--ambient", "--bypass-inbound-capture", "--kube-virt-interfaces", "a,b+"],
            ),
        ],
    )
    def test_what_differs_from_the_defaults_is_named(self, config: AmbientConfig, argv: list[str]) -> None:
        assert ambient_arguments(config) == Arguments(tuple(argv))

    @law
    @given(configs)
    def test_the_arguments_give_the_configuration(self, config: AmbientConfig) -> None:
        told = ambient_arguments(config)

        given, _ = parse_flags(list(told.argv[1:]), AMBIENT_OPTIONS)
        gathered = gather(given, dict(told.env), apply=True, options=AMBIENT_OPTIONS)
        assert parse_ambient(gathered, Names()) == config

    @pytest.mark.parametrize(
        ("text", "config"),
        [
            ("", AmbientConfig(probe_ipv4=IPv4Address("192.0.2.9"))),
            ("192.0.2.1", AmbientConfig(probe_ipv4=IPv4Address("192.0.2.1"))),
            (
                "fd00::1, 192.0.2.1",
                AmbientConfig(probe_ipv4=IPv4Address("192.0.2.1"), probe_ipv6=IPv6Address("fd00::1")),
            ),
        ],
    )
    def test_addresses_of_the_hosts_probes_beat_the_environment(self, text: str, config: AmbientConfig) -> None:
        environ = {"HOST_PROBE_SNAT_IP": "192.0.2.9"}
        gathered = gather({"--host-probe-address": text}, environ, apply=True, options=AMBIENT_OPTIONS)
        assert parse_ambient(gathered, Names()) == config

    @pytest.mark.parametrize("text", ["192.0.2.1,192.0.2.2", "host", "fe80::1%eth0", "fd00::1,fd00::2", "-x"])
    def test_other_addresses_of_the_hosts_probes_are_problems(self, text: str) -> None:
        gathered = gather({"--host-probe-address": text}, {}, apply=True, options=AMBIENT_OPTIONS)
        with pytest.raises(ConfigError, match="--host-probe-address"):
            parse_ambient(gathered, Names())

    def test_every_problem_is_listed(self) -> None:
        environ = {"HOST_PROBE_SNAT_IP": "fd00::1", "HOST_PROBE_SNAT_IPV6": "fe80::1%eth0"}
        gathered = gather({"--ipv6": "perhaps"}, environ, apply=True, options=AMBIENT_OPTIONS)

        with pytest.raises(ConfigError) as error:
            parse_ambient(gathered, Names())

        assert [problem.split(":")[0].split(" ")[0] for problem in error.value.problems] == [
            "--ipv6",
            "environment",
            "environment",
        ]


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        (Config(), Mode.REDIRECT),
        (Config(mode=InterceptionMode.TPROXY), Mode.TPROXY),
        (AmbientConfig(), Mode.AMBIENT),
        (None, Mode.NONE),
    ],
)
def test_the_mode_is_that_of_the_configuration(config: Config | AmbientConfig | None, mode: Mode) -> None:
    assert mode_of(config) is mode
    assert mode.is_sidecar is isinstance(config, Config)
