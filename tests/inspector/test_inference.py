"""From live rules back to the configuration and the release that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from unit.strategies import configs, rule_set, surroundings

from istio_init.cli.expect import expected_config
from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.config.parse import Names
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import parse_save, render_save
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.arguments import arguments
from istio_init.inspector.explain import Explanation, explain
from istio_init.inspector.infer import infer
from istio_init.mesh.mode import Mode
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import recognise
from istio_init.mesh.routing import LiveRouting
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.system.routing import exactly

V4, V6 = Family

law = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


places = surroundings.map(lambda around: around.replace(dns_servers=tuple(dict.fromkeys(around.dns_servers))))
"""A resolv.conf's servers count once each."""


def live(built: Mapping[Family, RuleSet]) -> dict[Family, RuleSet]:
    """Rules as they are read back, without what the policy knew of them."""
    return {family: recognise(parse_save(render_save(rules), family).rules) for family, rules in built.items()}


@law
@given(configs, places)
def test_the_inferred_arguments_give_the_same_rules_and_routing(config: Config, around: Surroundings) -> None:
    built = sidecar.rules(config, around)
    wanted_routing = sidecar.routing(config, around)

    inferred = infer(live(built), exactly(wanted_routing))

    assert inferred is not None
    config = inferred.literal or inferred.config  # All of one family alone is hardly ever meant.
    assert inferred.exact or inferred.literal is not None
    told, _ = expected_config(f"istio-iptables {arguments(config)}", Names())
    assert told == config
    assert sidecar.rules(told, around) == built
    assert sidecar.routing(told, around) == wanted_routing
    assert sidecar.rules(told, inferred.around) == built


# Rules of older releases, in the words of iptables-save. Each release is told by the rules that it has otherwise than
# the next one.

UID, GID = "-m owner --uid-owner 1337", "-m owner --gid-owner 1337"
NOT_UID, NOT_GID = "-m owner ! --uid-owner 1337", "-m owner ! --gid-owner 1337"
SERVER = "10.96.0.10"

Texts = Mapping[Table, Mapping[str, Sequence[str]]]

INBOUND_CHAINS = {
    "PREROUTING": ["-p tcp -j ISTIO_INBOUND"],
    "ISTIO_INBOUND": [
        "-p tcp -m tcp --dport 15008 -j RETURN",
        "-p tcp -m tcp --dport 15090 -j RETURN",
        "-p tcp -m tcp --dport 15021 -j RETURN",
        "-p tcp -m tcp --dport 15020 -j RETURN",
        "-p tcp -j ISTIO_IN_REDIRECT",
    ],
    "ISTIO_IN_REDIRECT": ["-p tcp -j REDIRECT --to-ports 15006"],
    "ISTIO_REDIRECT": ["-p tcp -j REDIRECT --to-ports 15001"],
}


def output(to_self: str, local: str = "", dns: Sequence[str] = ()) -> list[str]:
    """ISTIO_OUTPUT with all ranges included; ``to_self`` and ``local`` are the tests that differ by release."""
    rules = ["-s 127.0.0.6/32 -o lo -j RETURN"]
    for owner, others in ((UID, NOT_UID), (GID, NOT_GID)):
        rules += [
            f"! -d 127.0.0.1/32 -o lo {to_self}{owner} -j ISTIO_IN_REDIRECT",
            f"-o lo {local}{others} -j RETURN",
            f"{owner} -j RETURN",
        ]
    return [*rules, *dns, "-d 127.0.0.1/32 -j RETURN", "-j ISTIO_REDIRECT"]


NOT_TUNNEL = "-p tcp -m tcp ! --dport 15008 "
NOT_DNS = "-p tcp -m tcp ! --dport 53 "
TCP_DNS = f"-d {SERVER}/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053"
UDP_DNS = [
    f"-p udp -m udp --dport 53 {UID} -j RETURN",
    f"-p udp -m udp --dport 53 {GID} -j RETURN",
    f"-d {SERVER}/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
]
ZONES = [
    *(
        f"-p udp -m udp {port} {owner} -j CT --zone {zone}"
        for owner in (UID, GID)
        for port, zone in (("--dport 53", 1), ("--sport 15053", 2))
    ),
    f"-d {SERVER}/32 -p udp -m udp --dport 53 -j CT --zone 2",
]
ANSWERS = f"-s {SERVER}/32 -p udp -m udp --sport 53 -j CT --zone 1"
ANSWERS_BUG = f"-d {SERVER}/32 -p udp -m udp --sport 53 -j CT --zone 1"
ALL_BITS = "--nfmask 0xffffffff --ctmask 0xffffffff"
DROP = "-m conntrack --ctstate INVALID -j DROP"

DEFAULT = Config(
    inbound_ports=ALL,
    inbound_exclude_ports=expected_config("-d 15090,15021,15020", Names())[0].inbound_exclude_ports,
    outbound_ranges=ALL,
)
WITH_DNS = DEFAULT.replace(redirect_dns=True)

OLDER: dict[str, tuple[Texts, str, Config]] = {
    "1.14 as injected": (
        {Table.NAT: {**INBOUND_CHAINS, "OUTPUT": ["-p tcp -j ISTIO_OUTPUT"], "ISTIO_OUTPUT": output("")}},
        "Istio 1.14 to 1.17",
        DEFAULT,
    ),
    "1.14 with a bare return at the end": (
        {
            Table.NAT: {
                **INBOUND_CHAINS,
                "OUTPUT": ["-p tcp -j ISTIO_OUTPUT"],
                "ISTIO_OUTPUT": [*output("")[:-1], "-d 10.0.0.0/8 -j ISTIO_REDIRECT", "-j RETURN"],
            }
        },
        "Istio 1.14 to 1.17",
        DEFAULT.replace(outbound_ranges=expected_config("-i 10.0.0.0/8", Names())[0].outbound_ranges),
    ),
    "1.17 with DNS and drop-invalid": (
        {
            Table.NAT: {
                **INBOUND_CHAINS,
                "OUTPUT": [*UDP_DNS, "-p tcp -j ISTIO_OUTPUT"],
                "ISTIO_OUTPUT": output(NOT_DNS, NOT_DNS, [TCP_DNS])[:4] + output("", NOT_DNS, [TCP_DNS])[4:],
            },
            Table.MANGLE: {"PREROUTING": [DROP]},
            Table.RAW: {"OUTPUT": ZONES, "PREROUTING": [ANSWERS_BUG]},
        },
        "Istio 1.14 to 1.17",
        WITH_DNS.replace(drop_invalid=True),
    ),
    "1.20 as injected": (
        {Table.NAT: {**INBOUND_CHAINS, "OUTPUT": ["-p tcp -j ISTIO_OUTPUT"], "ISTIO_OUTPUT": output(NOT_TUNNEL)}},
        "Istio 1.18 to 1.24",
        DEFAULT,
    ),
    "1.20 with DNS": (
        {
            Table.NAT: {
                **INBOUND_CHAINS,
                "OUTPUT": [*UDP_DNS, "-p tcp -j ISTIO_OUTPUT"],
                "ISTIO_OUTPUT": [
                    rule.replace(f"{NOT_TUNNEL}{UID}", f"-p tcp -m multiport ! --dports 53,15008 {UID}")
                    for rule in output(NOT_TUNNEL, NOT_DNS, [TCP_DNS])
                ],
            },
            Table.RAW: {"OUTPUT": ZONES, "PREROUTING": [ANSWERS]},
        },
        "Istio 1.18 to 1.22",
        WITH_DNS,
    ),
    "1.24 with DNS and drop-invalid": (
        {
            Table.NAT: {
                **INBOUND_CHAINS,
                "OUTPUT": ["-p tcp -j ISTIO_OUTPUT", "-p udp -j ISTIO_OUTPUT"],
                "ISTIO_OUTPUT": output(NOT_TUNNEL, NOT_DNS, [TCP_DNS, *UDP_DNS]),
            },
            Table.MANGLE: {
                "PREROUTING": ["-m conntrack --ctstate INVALID -j ISTIO_DROP"],
                "ISTIO_DROP": ["-j DROP"],
            },
            Table.RAW: {
                "OUTPUT": ["-p udp -j ISTIO_OUTPUT"],
                "ISTIO_OUTPUT": ZONES,
                "PREROUTING": ["-j ISTIO_INBOUND"],
                "ISTIO_INBOUND": [ANSWERS],
            },
        },
        "Istio 1.24",
        WITH_DNS.replace(drop_invalid=True),
    ),
    "1.22 in TPROXY mode with drop-invalid": (
        {
            Table.NAT: {
                "OUTPUT": ["-p tcp -j ISTIO_OUTPUT"],
                "ISTIO_INBOUND": INBOUND_CHAINS["ISTIO_INBOUND"][:1],
                "ISTIO_IN_REDIRECT": INBOUND_CHAINS["ISTIO_IN_REDIRECT"],
                "ISTIO_REDIRECT": INBOUND_CHAINS["ISTIO_REDIRECT"],
                "ISTIO_OUTPUT": output(NOT_TUNNEL),
            },
            Table.MANGLE: {
                "PREROUTING": [
                    DROP,
                    "-p tcp -j ISTIO_INBOUND",
                    f"-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark {ALL_BITS}",
                ],
                "OUTPUT": [
                    "-o lo -p tcp -m mark --mark 0x539 -j RETURN",
                    f"! -d 127.0.0.1/32 -o lo -p tcp {UID} -j MARK --set-xmark 0x53a/0xffffffff",
                    f"! -d 127.0.0.1/32 -o lo -p tcp {GID} -j MARK --set-xmark 0x53a/0xffffffff",
                    f"-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark {ALL_BITS}",
                ],
                "ISTIO_DIVERT": ["-j MARK --set-xmark 0x539/0xffffffff", "-j ACCEPT"],
                "ISTIO_TPROXY": [
                    "! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff"
                ],
                "ISTIO_INBOUND": [
                    "-p tcp -m mark --mark 0x539 -j RETURN",
                    "-s 127.0.0.6/32 -i lo -p tcp -j RETURN",
                    "-i lo -p tcp -m mark ! --mark 0x53a -j RETURN",
                    *INBOUND_CHAINS["ISTIO_INBOUND"][1:4],
                    "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
                    "-p tcp -j ISTIO_TPROXY",
                ],
            },
        },
        "Istio 1.18 to 1.22",
        DEFAULT.replace(mode=InterceptionMode.TPROXY, drop_invalid=True),
    ),
}


def explained(texts: Texts, family: Family = V4, expect: str | None = None) -> Explanation:
    """The explanation of rules in a file."""
    expected = None if expect is None else expected_config(expect, Names())[0]
    snapshot = Snapshot("a file", {(RuleStore.NFT, family): recognise(rule_set(family, texts))}, is_live=False)
    return explain(snapshot, expected)


class TestOlderReleases:
    """Rules of releases that are still in use are known, and told from today's."""

    @pytest.mark.parametrize("name", OLDER)
    def test_every_rule_is_known(self, name: str) -> None:
        texts, _, _ = OLDER[name]

        unknown = [row.text for row in explained(texts).rows if row.role is None and not row.foreign]

        assert unknown == []

    @pytest.mark.parametrize("name", OLDER)
    def test_rules_that_nothing_shows_to_be_ours_are_told_with_what_they_would_be_for(self, name: str) -> None:
        """They stand in tables without a chain of Istio's, and so nothing is ever done to them."""
        texts, _, _ = OLDER[name]

        foreign = [row for row in explained(texts).rows if row.foreign]

        assert {row.table for row in foreign} <= {"mangle", "raw"}
        assert all("Istio 1.14 to 1.2" in row.why for row in foreign)

    @pytest.mark.parametrize("name", OLDER)
    def test_the_span_of_releases_is_told(self, name: str) -> None:
        texts, span, _ = OLDER[name]

        assert explained(texts).release == span

    @pytest.mark.parametrize("name", OLDER)
    def test_the_configuration_is_told(self, name: str) -> None:
        texts, _, config = OLDER[name]

        said = explained(texts)

        assert said.arguments == arguments(config)
        assert not said.exact
        assert said.dns_servers == ((SERVER,) if config.redirect_dns else ())

    @pytest.mark.parametrize("name", OLDER)
    def test_nothing_is_wrong_with_them(self, name: str) -> None:
        texts, _, _ = OLDER[name]

        assert [finding.kind.code for finding in explained(texts).findings] == []

    @pytest.mark.parametrize("name", OLDER)
    def test_drift_tells_the_release_instead_of_every_rule(self, name: str) -> None:
        texts, span, config = OLDER[name]

        same = explained(texts, expect=str(arguments(config))).drift
        other = explained(texts, expect="-b 80 -i *").drift

        assert same is not None and other is not None
        assert (same.is_equal, same.families) == (other.is_equal, other.families) == (False, ())
        assert same.note == f"programmed by an older release ({span}) with the expected configuration"
        assert other.note == f"programmed by an older release ({span}), with: {arguments(config)}"

    def test_the_rules_of_today_are_told_as_such(self) -> None:
        built = sidecar.rules(DEFAULT, Surroundings())

        said = explain(Snapshot("a file", {(RuleStore.NFT, V4): live(built)[V4]}, is_live=False), DEFAULT)

        assert said.release == "Istio 1.25 or later"
        assert said.exact
        assert said.drift is not None and said.drift.is_equal

    def test_rules_of_two_releases_are_a_mixture(self) -> None:
        texts, _, _ = OLDER["1.14 as injected"]
        nat = texts[Table.NAT]

        said = explained({Table.NAT: {**nat, "OUTPUT": ["-j ISTIO_OUTPUT"]}})

        assert said.release == "a mixture of releases"


LOOPBACK = {V4: "127.0.0.1/32", V6: "::1/128"}
PROBES = {V4: "169.254.7.127/32", V6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128"}
UNMARKED = "-m mark ! --mark 0x539/0xfff"
CALLS = {"PREROUTING": ["-j ISTIO_PRERT"], "OUTPUT": ["-j ISTIO_OUTPUT"]}


def ambient(family: Family) -> Texts:
    """A pod of an ambient mesh with DNS capture."""
    loopback, probes = LOOPBACK[family], PROBES[family]
    return {
        Table.MANGLE: {
            **CALLS,
            "ISTIO_PRERT": ["-m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff"],
            "ISTIO_OUTPUT": [f"-m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark {ALL_BITS}"],
        },
        Table.NAT: {
            **CALLS,
            "ISTIO_PRERT": [
                f"-s {probes} -p tcp -m tcp -j ACCEPT",
                f"! -d {loopback} -p tcp -m tcp ! --dport 15008 {UNMARKED} -j REDIRECT --to-ports 15006",
            ],
            "ISTIO_OUTPUT": [
                f"-d {probes} -p tcp -m tcp -j ACCEPT",
                f"! -o lo -p udp {UNMARKED} -m udp --dport 53 -j REDIRECT --to-ports 15053",
                f"! -d {loopback} -p tcp -m tcp --dport 53 {UNMARKED} -j REDIRECT --to-ports 15053",
                "-p tcp -m mark --mark 0x111/0xfff -j ACCEPT",
                f"! -d {loopback} -o lo -j ACCEPT",
                f"! -d {loopback} -p tcp {UNMARKED} -j REDIRECT --to-ports 15001",
            ],
        },
        Table.RAW: {
            **CALLS,
            "ISTIO_PRERT": [f"-p udp {UNMARKED} -m udp --sport 53 -j CT --zone 1"],
            "ISTIO_OUTPUT": ["-p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1"],
        },
    }


def ambient_with_tproxy() -> Texts:
    """As releases up to 1.24 handed inbound connections over; nat then has no chain for them."""
    texts: dict[Table, dict[str, Sequence[str]]] = {table: dict(chains) for table, chains in ambient(V4).items()}
    del texts[Table.RAW]
    handed = "-j TPROXY --on-port {} --on-ip 0.0.0.0 --tproxy-mark 0x111/0xfff"
    texts[Table.MANGLE]["ISTIO_PRERT"] = [
        *texts[Table.MANGLE]["ISTIO_PRERT"],
        "-s 169.254.7.127/32 -p tcp -m tcp -j ACCEPT",
        "! -d 127.0.0.1/32 -i lo -p tcp -j ACCEPT",
        f"-p tcp -m tcp --dport 15008 {UNMARKED} {handed.format(15008)}",
        "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"! -d 127.0.0.1/32 -p tcp {UNMARKED} {handed.format(15006)}",
    ]
    texts[Table.NAT] = {name: texts[Table.NAT][name] for name in ("OUTPUT", "ISTIO_OUTPUT")}
    return texts


class TestAmbient:
    """A pod of an ambient mesh has no sidecar; its rules are known all the same."""

    @pytest.mark.parametrize(
        ("family", "texts"),
        [(V4, ambient(V4)), (V6, ambient(V6)), (V4, ambient_with_tproxy())],
        ids=["ipv4", "ipv6", "tproxy"],
    )
    def test_every_rule_is_known(self, family: Family, texts: Texts) -> None:
        said = explained(texts, family)

        assert said.mode is Mode.AMBIENT
        assert said.arguments is not None
        assert said.arguments.argv[:1] == ("--ambient",)
        assert {row.text: row.role for row in said.rows if row.role is None} == {}
        assert all(row.role is not None and row.role.value.startswith("ambient-") for row in said.rows)
        assert said.findings == ()

    def test_foreign_rules_beside_them_stay_foreign(self) -> None:
        texts = {**ambient(V4), Table.FILTER: {"INPUT": ["-p tcp -m tcp --dport 22 -j DROP"]}}

        assert [row.text for row in explained(texts).rows if row.foreign] == ["-p tcp -m tcp --dport 22 -j DROP"]


OTHERS: Texts = {
    Table.NAT: {"PREROUTING": ["-i cni0 -j ACCEPT"], "OUTPUT": ["-p udp -j SERVICES"], "SERVICES": ["-j RETURN"]},
    Table.FILTER: {"INPUT": ['-m comment --comment "by hand" -j ACCEPT']},
}


class TestForeignRules:
    """What others added is never ours, and hides nothing."""

    def test_without_rules_of_ours_nothing_is_inferred(self) -> None:
        said = explained(OTHERS)

        assert (said.mode, said.arguments, said.families, said.release) == (Mode.NONE, None, (), None)
        assert all(row.foreign for row in said.rows)

    def test_a_rule_of_no_known_kind_in_a_chain_of_istio_is_ours_and_unknown(self) -> None:
        texts = OLDER["1.20 as injected"][0][Table.NAT]
        odd = "-p tcp -m string --string x --algo bm -j ACCEPT"
        changed = {Table.NAT: {**texts, "ISTIO_OUTPUT": [*texts["ISTIO_OUTPUT"], odd]}}

        [row] = [row for row in explained(changed).rows if row.role is None]

        assert (row.text, row.foreign) == (odd, False)
        assert row.why == "In a chain of Istio's, but of no kind that is known."

    def test_the_routing_table_of_tproxy_mode_is_that_of_the_rule_for_its_mark(self) -> None:
        config = DEFAULT.replace(mode=InterceptionMode.TPROXY, tproxy_mark=77, tproxy_table=177)
        rules = live(sidecar.rules(config, Surroundings()))
        routing = LiveRouting(((V4, 1, 2), (V4, 77, 177)), frozenset({(V4, 177)}))

        inferred, blind = infer(rules, routing), infer(rules)

        assert inferred is not None and blind is not None
        assert (inferred.config.tproxy_mark, inferred.config.tproxy_table) == (77, 177)
        assert (blind.config.tproxy_mark, blind.config.tproxy_table) == (77, 133)

    def test_what_is_ours_is_not_foreign(self) -> None:
        for texts, _, _ in OLDER.values():
            for row in explained(texts).rows:
                is_named = "ISTIO_" in f"{row.chain} {row.text}"
                assert row.foreign is not (is_named or row.role is not None)
