"""From flags, environment and defaults to a configuration, or to every problem at once."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

import pytest

from istio_init.config import values
from istio_init.config.listfile import expand
from istio_init.config.model import ALL, Config, InterceptionMode
from istio_init.config.parse import OWNER_GROUPS_LIMIT, Given, gather, is_list, parse, parse_option, shown
from istio_init.dialects.iptables.matches import IdRange, PortRange
from istio_init.errors import ConfigError
from istio_init.options import DROPIN_OPTIONS, OPTIONS, Option

from .directory import Directory

BY_NAME = {option.name: option for option in OPTIONS + DROPIN_OPTIONS}
ENVIRONMENT_ONLY = [option.name for option in OPTIONS if option.flag is None]

NO_NAMES: Mapping[str, str] = {}


def read(
    given: Mapping[str, str] = NO_NAMES,
    environ: Mapping[str, str] = NO_NAMES,
    *,
    apply: bool = False,
    lenient: bool = False,
) -> tuple[Config, tuple[str, ...]]:
    """The configuration and the warnings of these flags and variables."""
    return parse(gather(given, environ, apply=apply), Directory(), lenient_mode=lenient)


def config_of(name: str, value: str) -> Config:
    """The configuration with one option set, by its flag or, where it has none, by its variable."""
    return read(environ={name: value})[0] if name in ENVIRONMENT_ONLY else read({name: value})[0]


def problems_of(given: Mapping[str, str] = NO_NAMES, environ: Mapping[str, str] = NO_NAMES) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(given, environ)
    return caught.value.problems


def ports(*numbers: int | tuple[int, int]) -> tuple[PortRange, ...]:
    return tuple([PortRange(*each) if isinstance(each, tuple) else PortRange(each, each) for each in numbers])


def ids(*numbers: int | tuple[int, int]) -> tuple[IdRange, ...]:
    return tuple([IdRange(*each) if isinstance(each, tuple) else IdRange(each, each) for each in numbers])


GOOD: list[tuple[str, str, str, Any]] = [
    ("--istio-inbound-ports", "*", "inbound_ports", ALL),
    ("--istio-inbound-ports", " * ", "inbound_ports", ALL),
    ("--istio-inbound-ports", "*,", "inbound_ports", ALL),
    ("--istio-inbound-ports", "", "inbound_ports", ()),
    ("--istio-inbound-ports", "80", "inbound_ports", ports(80)),
    ("--istio-inbound-ports", "80,8000:8090, 443 ,", "inbound_ports", ports(80, (8000, 8090), 443)),
    ("--istio-inbound-ports", "http,domain:http", "inbound_ports", ports(80, (53, 80))),
    ("--istio-inbound-ports", ":1024", "inbound_ports", ports((0, 1024))),
    ("--istio-inbound-ports", "1024:", "inbound_ports", ports((1024, 65535))),
    ("--istio-inbound-ports", "1:65535", "inbound_ports", ports((1, 65535))),
    ("--istio-inbound-ports", "80,80", "inbound_ports", ports(80, 80)),
    ("--istio-local-exclude-ports", "15090,15021", "inbound_exclude_ports", ports(15090, 15021)),
    ("--istio-local-exclude-ports", "", "inbound_exclude_ports", ()),
    ("--inbound-capture-port", "1", "inbound_capture_port", 1),
    ("--inbound-capture-port", " 65535 ", "inbound_capture_port", 65535),
    ("--inbound-capture-port", "http", "inbound_capture_port", 80),
    ("--inbound-tunnel-port", "15009", "inbound_tunnel_port", 15009),
    ("--envoy-port", "16001", "proxy_port", 16001),
    ("--istio-inbound-interception-mode", "TPROXY", "mode", InterceptionMode.TPROXY),
    ("--istio-inbound-interception-mode", "REDIRECT", "mode", InterceptionMode.REDIRECT),
    ("--istio-service-cidr", "*", "outbound_ranges", ALL),
    ("--istio-service-cidr", "", "outbound_ranges", ()),
    (
        "--istio-service-cidr",
        "10.0.0.0/8,fd00::/8",
        "outbound_ranges",
        (ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
    ),
    ("--istio-service-cidr", "10.1.2.3/8", "outbound_ranges", (ip_network("10.0.0.0/8"),)),
    ("--istio-service-exclude-cidr", "1.2.3.4/32", "outbound_exclude_ranges", (ip_network("1.2.3.4/32"),)),
    (
        "--istio-service-exclude-cidr",
        "0.0.0.0/0,::/0",
        "outbound_exclude_ranges",
        (ip_network("0.0.0.0/0"), ip_network("::/0")),
    ),
    ("--istio-outbound-ports", "80,443", "outbound_ports", ports(80, 443)),
    ("--istio-local-outbound-ports-exclude", "22", "outbound_exclude_ports", ports(22)),
    ("--proxy-uid", "1337", "proxy_uids", ids(1337)),
    ("--proxy-uid", "0,1000-2000,envoy", "proxy_uids", ids(0, (1000, 2000), 1234)),
    ("--proxy-uid", "4294967294", "proxy_uids", ids(4294967294)),
    ("--proxy-gid", "1337,staff", "proxy_gids", ids(1337, 50)),
    ("--istio-inbound-tproxy-mark", "1337", "tproxy_mark", 1337),
    ("--istio-inbound-tproxy-mark", "0x539", "tproxy_mark", 1337),
    ("--istio-inbound-tproxy-mark", "0XFFFFFFFF", "tproxy_mark", 0xFFFFFFFF),
    ("--istio-inbound-tproxy-mark", "4294967295", "tproxy_mark", 0xFFFFFFFF),
    ("--istio-inbound-tproxy-route-table", "200", "tproxy_table", 200),
    ("--istio-inbound-tproxy-route-table", "0xc8", "tproxy_table", 200),
    ("--istio-exclude-interfaces", "eth0,net1,veth+", "exclude_interfaces", ("eth0", "net1", "veth+")),
    ("--istio-exclude-interfaces", "abcdefghijklmno", "exclude_interfaces", ("abcdefghijklmno",)),
    ("--kube-virt-interfaces", "net0@if3", "virtual_interfaces", ("net0@if3",)),
    ("--redirect-dns", "true", "redirect_dns", True),
    ("--capture-all-dns", "1", "capture_all_dns", True),
    ("--drop-invalid", "T", "drop_invalid", True),
    ("--dual-stack", "False", "dual_stack", False),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "*", "owner_groups", ALL),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "", "owner_groups", ALL),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "1000,staff,2000-3000", "owner_groups", ids(1000, 50, (2000, 3000))),
    ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "wheel", "owner_groups_exclude", ids(0)),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/8", "loopback_cidr", IPv4Network("127.0.0.0/8")),
]

NUMBER_OF_PORT = "give a number from 1 to 65535"
CIDR = "write for example 10.0.0.0/8 or fd00::/8"
MISSING = "looks like a flag"
CONTROL = "control character"

BAD: list[tuple[str, str, str, str]] = [
    ("--istio-inbound-ports", "0", "'0'", NUMBER_OF_PORT),
    ("--istio-inbound-ports", "65536", "'65536'", NUMBER_OF_PORT),
    ("--istio-inbound-ports", "99999999999999999999", "'99999999999999999999'", NUMBER_OF_PORT),
    ("--istio-inbound-ports", "nosuch", "'nosuch'", NUMBER_OF_PORT),
    ("--istio-inbound-ports", "80;443", "'80;443'", "separate ports with commas"),
    ("--istio-inbound-ports", "80 443", "'80 443'", "separate ports with commas"),
    ("--istio-inbound-ports", "80,*", "'*'", "leave it out"),
    ("--istio-inbound-ports", "90:80", "'90:80'", "write 80:90"),
    ("--istio-inbound-ports", "1:2:3", "'1:2:3'", "ranges such as 8000:8090"),
    ("--istio-inbound-ports", "0:0", "'0:0'", "ranges such as 8000:8090"),
    ("--istio-inbound-ports", "1:65536", "'1:65536'", "ranges such as 8000:8090"),
    ("--istio-inbound-ports", "٨٠", "'٨٠'", NUMBER_OF_PORT),
    ("--istio-inbound-ports", "-d", "'-d'", MISSING),
    ("--istio-inbound-ports", "80\n-A INPUT -j ACCEPT", "'80\\n-A INPUT -j ACCEPT'", CONTROL),
    ("--istio-local-exclude-ports", "*", "'*'", "leave it out"),
    ("--istio-local-exclude-ports", "80,http2", "'http2'", NUMBER_OF_PORT),
    ("--inbound-capture-port", "0", "'0'", NUMBER_OF_PORT),
    ("--inbound-capture-port", "", "''", NUMBER_OF_PORT),
    ("--inbound-capture-port", "15006,15007", "'15006,15007'", NUMBER_OF_PORT),
    ("--inbound-tunnel-port", "-1", "'-1'", NUMBER_OF_PORT),
    ("--envoy-port", "15001.0", "'15001.0'", NUMBER_OF_PORT),
    ("--istio-inbound-interception-mode", "redirect", "'redirect'", "write REDIRECT or TPROXY"),
    ("--istio-inbound-interception-mode", "", "''", "write REDIRECT or TPROXY"),
    ("--istio-service-cidr", "10.0.0.0", "'10.0.0.0'", "for one address write 10.0.0.0/32"),
    ("--istio-service-cidr", "fd00::1", "'fd00::1'", "for one address write fd00::1/128"),
    ("--istio-service-cidr", "10.0.0.0/33", "'10.0.0.0/33'", CIDR),
    ("--istio-service-cidr", "10.0.0.0/255.0.0.0", "'10.0.0.0/255.0.0.0'", CIDR),
    ("--istio-service-cidr", "fe80::1%eth0/64", "'fe80::1%eth0/64'", CIDR),
    ("--istio-service-cidr", "10.0.0.0/8/8", "'10.0.0.0/8/8'", CIDR),
    ("--istio-service-cidr", "-x", "'-x'", MISSING),
    ("--istio-service-cidr", "*,10.0.0.0/8", "'*'", "leave it out"),
    ("--istio-service-exclude-cidr", "*", "'*'", "leave it out"),
    ("--istio-service-exclude-cidr", "-b", "'-b'", "--istio-service-exclude-cidr="),
    ("--istio-service-exclude-cidr", "example.com/8", "'example.com/8'", CIDR),
    ("--istio-outbound-ports", "ssh", "'ssh'", NUMBER_OF_PORT),
    ("--istio-local-outbound-ports-exclude", "22,x", "'x'", NUMBER_OF_PORT),
    ("--proxy-uid", "4294967295", "'4294967295'", "give a number from 0 to 4294967294"),
    ("--proxy-uid", "99999999999", "'99999999999'", "give a number from 0 to 4294967294"),
    ("--proxy-uid", "2000-1000", "'2000-1000'", "write 1000-2000"),
    ("--proxy-uid", "nobody2", "'nobody2'", "give the number"),
    ("--proxy-uid", "1337 --gid-owner 0", "'1337 --gid-owner 0'", "give the number"),
    ("--proxy-uid", "1000-", "'1000-'", "give the number"),
    ("--proxy-uid", "*", "'*'", "leave it out"),
    ("--proxy-gid", "nogroup2", "'nogroup2'", "give the number"),
    ("--istio-inbound-tproxy-mark", "0", "'0'", "decimal or as 0x539"),
    ("--istio-inbound-tproxy-mark", "4294967296", "'4294967296'", "decimal or as 0x539"),
    ("--istio-inbound-tproxy-mark", "0x539/0xff", "'0x539/0xff'", "decimal or as 0x539"),
    ("--istio-inbound-tproxy-mark", "539h", "'539h'", "decimal or as 0x539"),
    ("--istio-inbound-tproxy-mark", "0x_1", "'0x_1'", "decimal or as 0x539"),
    ("--istio-inbound-tproxy-route-table", "main", "'main'", "such as 133"),
    ("--istio-inbound-tproxy-route-table", "254", "'254'", "use 133"),
    ("--istio-inbound-tproxy-route-table", "0xff", "'0xff'", "use 133"),
    ("--istio-inbound-tproxy-route-table", "0", "'0'", "use 133"),
    ("--istio-exclude-interfaces", "abcdefghijklmnop", "'abcdefghijklmnop'", "shorten it"),
    ("--istio-exclude-interfaces", "eth0,+", "'+'", "such as veth+"),
    ("--istio-exclude-interfaces", "..", "'..'", "name an interface"),
    ("--istio-exclude-interfaces", "eth0 -j ACCEPT", "'eth0 -j ACCEPT'", "letters, digits"),
    ("--istio-exclude-interfaces", "!eth0", "'!eth0'", "letters, digits"),
    ("--istio-exclude-interfaces", 'e"th', "'e\"th'", "letters, digits"),
    ("--istio-exclude-interfaces", "a/b", "'a/b'", "letters, digits"),
    ("--istio-exclude-interfaces", "a\\b", "'a\\\\b'", "letters, digits"),
    ("--istio-exclude-interfaces", "éth0", "'éth0'", "letters, digits"),
    ("--istio-exclude-interfaces", "eth0\n", "'eth0\\n'", CONTROL),
    ("--kube-virt-interfaces", "-i", "'-i'", MISSING),
    ("--kube-virt-interfaces", "*", "'*'", "leave it out"),
    ("--redirect-dns", "yes", "'yes'", "write true or false"),
    ("--capture-all-dns", "", "''", "write true or false"),
    ("--drop-invalid", "TrUe", "'TrUe'", "write true or false"),
    ("--dual-stack", "2", "'2'", "write true or false"),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "*,1000", "'*'", "leave it out"),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "nogroup2", "'nogroup2'", "give the number"),
    ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "*", "'*'", "leave it out"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "10.0.0.0/8", "'10.0.0.0/8'", "a part of 127.0.0.0/8"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "::1/128", "'::1/128'", "a part of 127.0.0.0/8"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1", "'127.0.0.1'", "127.0.0.1/32"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/7", "'127.0.0.0/7'", "a part of 127.0.0.0/8"),
]


@pytest.mark.parametrize(("name", "value", "field", "expected"), GOOD, ids=lambda part: ascii(part)[:40])
def test_a_good_value_sets_its_field(name: str, value: str, field: str, expected: object) -> None:
    assert getattr(config_of(name, value), field) == expected


@pytest.mark.parametrize(("name", "value", "said", "remedy"), BAD, ids=lambda part: ascii(part)[:40])
def test_a_bad_value_is_refused_with_its_flag_the_value_and_a_remedy(
    name: str, value: str, said: str, remedy: str
) -> None:
    in_environment = name in ENVIRONMENT_ONLY
    [problem] = problems_of(environ={name: value}) if in_environment else problems_of({name: value})

    assert name in problem
    assert said in problem
    assert remedy in problem
    assert "\n" not in problem


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.field], ids=lambda option: str(option.name))
def test_every_option_has_good_values_and_bad_ones_here(option: Option) -> None:
    assert {row[2] for row in GOOD if row[0] == option.name} == {option.field}
    assert option.name in {row[0] for row in BAD}


def test_every_problem_is_listed_at_once() -> None:
    given = {
        "--istio-inbound-ports": "80,x,99999",
        "--proxy-uid": "nobody2",
        "--istio-service-cidr": "-x",
        "--istio-inbound-interception-mode": "BOTH",
    }
    environ = {"ISTIO_OUTBOUND_OWNER_GROUPS": "nogroup2", "DROP_INVALID": "true", "INBOUND_TUNNEL_PORT": "none"}

    problems = problems_of(given, environ)

    assert len(problems) == 7
    for name in (*given, "ISTIO_OUTBOUND_OWNER_GROUPS", "INBOUND_TUNNEL_PORT"):
        assert any(name in problem for problem in problems)


def test_an_error_counts_its_problems_and_lists_each_on_a_line_of_its_own() -> None:
    one, two = ConfigError(("a",)), ConfigError(("a", "b"))

    assert str(one) == "a problem in the configuration:\n  - a"
    assert str(two) == "2 problems in the configuration:\n  - a\n  - b"
    assert one.exit_code == 2


class TestWhereValuesComeFrom:
    """A flag beats the environment, which beats the default."""

    def test_without_anything_the_drop_in_has_istios_own_defaults(self) -> None:
        uid = ids(1340)

        assert read()[0] == Config(proxy_uids=uid, proxy_gids=uid)

    def test_without_anything_apply_has_the_injection_templates(self) -> None:
        config, warnings = read(apply=True)
        drop_in, _ = read()

        assert config == drop_in.replace(
            inbound_ports=ALL, outbound_ranges=ALL, inbound_exclude_ports=ports(15090, 15021, 15020)
        )
        assert warnings == ()

    def test_a_flag_beats_the_environment_beats_the_default(self) -> None:
        environ = {"INBOUND_CAPTURE_PORT": "2"}

        assert read()[0].inbound_capture_port == 15006
        assert read(environ=environ)[0].inbound_capture_port == 2
        assert read({"--inbound-capture-port": "1"}, environ)[0].inbound_capture_port == 1

    def test_the_port_of_the_proxy_has_no_variable(self) -> None:
        assert read(environ={"ENVOY_PORT": "1"})[0].proxy_port == 15001

    @pytest.mark.parametrize(
        "option", [option for option in OPTIONS if option.env], ids=lambda option: str(option.name)
    )
    def test_each_of_its_variables_sets_an_option_and_the_first_one_wins(self, option: Option) -> None:
        for name in option.env:
            assert gather({}, {name: "value"}, apply=True)[option.name].text == "value"
        together = dict.fromkeys(reversed(option.env), "later") | {option.env[0]: "first"}

        assert gather({}, together, apply=False)[option.name].text == "first"

    @pytest.mark.parametrize(
        ("flag", "variables"),
        [
            ("--redirect-dns", ("REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE")),
            ("--drop-invalid", ("DROP_INVALID", "INVALID_DROP")),
            ("--dual-stack", ("DUAL_STACK", "ISTIO_DUAL_STACK")),
            ("--istio-inbound-ports", ("ISTIO_INBOUND_PORTS",)),
            ("--istio-local-outbound-ports-exclude", ("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",)),
            ("--network-namespace", ("NETWORK_NAMESPACE",)),
        ],
    )
    def test_variables_are_named_after_their_flag_or_as_istio_names_them(
        self, flag: str, variables: tuple[str, ...]
    ) -> None:
        assert BY_NAME[flag].env == variables

    def test_a_message_says_where_the_value_came_from(self) -> None:
        [by_flag] = problems_of({"--istio-inbound-ports": "x"})
        [by_long_flag] = problems_of({"--drop-invalid": "x"})
        [by_variable] = problems_of(environ={"ISTIO_INBOUND_PORTS": "x"})

        assert by_flag.startswith("-b/--istio-inbound-ports 'x': ")
        assert by_long_flag.startswith("--drop-invalid 'x': ")
        assert by_variable.startswith("environment variable ISTIO_INBOUND_PORTS 'x': ")

    def test_an_empty_variable_empties_a_list(self) -> None:
        assert read(environ={"ISTIO_SERVICE_CIDR": ""}, apply=True)[0].outbound_ranges == ()


class TestBooleans:
    """A flag is strict, the environment is read as Go's callers read it: what is not true is false."""

    @pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
    def test_these_are_true_everywhere(self, text: str) -> None:
        assert read({"--drop-invalid": text})[0].drop_invalid
        assert read(environ={"INVALID_DROP": text})[0].drop_invalid

    @pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
    def test_these_are_false_everywhere(self, text: str) -> None:
        assert not read({"--drop-invalid": text})[0].drop_invalid
        assert not read(environ={"INVALID_DROP": text})[0].drop_invalid

    @pytest.mark.parametrize("text", ["", "yes", "on", "2", "tRUE", " true", "none"])
    def test_anything_else_in_the_environment_is_false(self, text: str) -> None:
        assert not read(environ={"INVALID_DROP": text})[0].drop_invalid

    def test_a_flag_can_turn_off_what_the_environment_turns_on(self) -> None:
        assert not read({"--dual-stack": "false"}, {"DUAL_STACK": "true"})[0].dual_stack


class TestIdsOfTheProxy:
    """The flag, else the account in $ENVOY_USER, else 1337; groups follow users."""

    def test_the_account_istio_proxy_is_looked_up(self) -> None:
        assert read()[0].proxy_uids == ids(1340)

    def test_another_account_can_be_named(self) -> None:
        assert read(environ={"ENVOY_USER": "envoy"})[0].proxy_uids == ids(1234)

    def test_an_account_that_does_not_exist_means_1337(self) -> None:
        config, _ = read(environ={"ENVOY_USER": "nobody2"})

        assert (config.proxy_uids, config.proxy_gids) == (ids(1337), ids(1337))

    def test_a_user_that_is_named_beats_the_account(self) -> None:
        assert read({"--proxy-uid": "5"}, {"ENVOY_USER": "envoy"})[0].proxy_uids == ids(5)

    def test_groups_follow_users_number_by_number(self) -> None:
        config, _ = read({"--proxy-uid": "5,7-9"})

        assert config.proxy_gids == ids(5, (7, 9))

    def test_groups_that_are_named_stand_by_themselves(self) -> None:
        config, _ = read({"--proxy-uid": "5", "--proxy-gid": "6"})

        assert (config.proxy_uids, config.proxy_gids) == (ids(5), ids(6))

    def test_an_empty_value_is_no_value(self) -> None:
        assert read({"--proxy-uid": "", "--proxy-gid": ""})[0].proxy_uids == ids(1340)


class TestInterceptionMode:
    """Another mode is an error, but the drop-in treats it as the reference does."""

    @pytest.mark.parametrize("text", ["", "redirect", "NONE", "tproxy"])
    def test_the_drop_in_takes_any_other_word_for_redirect_and_says_so(self, text: str) -> None:
        config, warnings = read({"--istio-inbound-interception-mode": text}, lenient=True)

        assert config.mode is InterceptionMode.REDIRECT
        assert len(warnings) == 1
        assert repr(text) in warnings[0]
        assert "REDIRECT is used" in warnings[0]

    @pytest.mark.parametrize("text", ["REDIRECT", "TPROXY"])
    def test_it_says_nothing_of_a_mode_that_exists(self, text: str) -> None:
        config, warnings = read({"--istio-inbound-interception-mode": text}, lenient=True)

        assert config.mode.value == text
        assert warnings == ()


class TestOwnerGroups:
    """One rule tests all included groups, and a rule holds only so much."""

    def test_as_many_as_one_rule_holds_are_accepted(self) -> None:
        config, _ = read(environ={"ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(map(str, range(OWNER_GROUPS_LIMIT)))})

        assert len(config.owner_groups) == OWNER_GROUPS_LIMIT == 49  # type: ignore[arg-type]

    def test_one_more_is_refused_with_the_number_and_the_limit(self) -> None:
        [problem] = problems_of(environ={"ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(map(str, range(50)))})

        assert "ISTIO_OUTBOUND_OWNER_GROUPS" in problem
        assert "50 groups" in problem
        assert "49" in problem
        assert "a range such as 1000-2000" in problem

    def test_excluded_groups_have_a_rule_each_and_no_limit(self) -> None:
        config, _ = read(environ={"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": ",".join(map(str, range(200)))})

        assert len(config.owner_groups_exclude) == 200


class TestWarnings:
    """What is valid, and probably not meant."""

    @pytest.mark.parametrize(
        ("given", "environ", "said"),
        [
            pytest.param(
                {"--istio-inbound-ports": "80", "--istio-local-exclude-ports": "90"},
                {},
                "-d/--istio-local-exclude-ports '90' has no effect",
                id="exclusions beside a list of included ports",
            ),
            pytest.param(
                {"--istio-outbound-ports": "80", "--istio-service-cidr": "*"},
                {},
                "--istio-outbound-ports narrows nothing",
                id="included ports beside all ranges",
            ),
            pytest.param(
                {},
                {"ISTIO_OUTBOUND_OWNER_GROUPS": "1", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "2"},
                "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE has no effect",
                id="excluded groups beside included ones",
            ),
            pytest.param(
                {"--istio-inbound-ports": "", "--istio-service-cidr": "*"},
                {},
                "-b/--istio-inbound-ports is empty: inbound connections bypass the proxy",
                id="an empty list of inbound ports, as a trailing word leaves it",
            ),
        ],
    )
    def test_a_doubtful_combination_is_pointed_out(
        self, given: dict[str, str], environ: dict[str, str], said: str
    ) -> None:
        [warning] = read(given, environ)[1]

        assert said in warning

    def test_defaults_are_not_doubtful(self) -> None:
        assert read({"--istio-inbound-ports": "80"}, apply=True)[1] == ()


class TestTheDropInsOwnOptions:
    """What makes the drop-in act otherwise has the same grammar."""

    @pytest.mark.parametrize(
        ("flag", "text", "expected"),
        [
            ("--probe-timeout", "5s", 5.0),
            ("--probe-timeout", "1m30s", 90.0),
            ("--wait", "1.5s", 1.5),
            ("--wait", "250ms", 0.25),
            ("--wait", "1h0m1s", 3601.0),
            ("--wait", "0", 0.0),
            ("--wait", "10", 10.0),
            ("--probe-timeout", "1.5", 1.5),
            ("--wait", "100us", 1e-4),
            ("--wait", "100µs", 1e-4),
            ("--wait", "5ns", 5e-9),
            ("--iptables-probe-port", "15002", 15002),
            ("--dry-run", "true", True),
        ],
    )
    def test_good_values(self, flag: str, text: str, expected: object) -> None:
        problems: list[str] = []

        assert parse_option(BY_NAME[flag], Given(text, flag), Directory(), problems) == pytest.approx(expected)
        assert problems == []

    @pytest.mark.parametrize(
        ("flag", "text", "remedy"),
        [
            ("--probe-timeout", "", "write for example 5s, 1m30s, or plain seconds"),
            ("--probe-timeout", "s", "write for example 5s, 1m30s, or plain seconds"),
            ("--probe-timeout", "5d", "write for example 5s, 1m30s, or plain seconds"),
            ("--probe-timeout", "1.2.3s", "write for example 5s, 1m30s, or plain seconds"),
            ("--probe-timeout", ".s", "write for example 5s, 1m30s, or plain seconds"),
            ("--probe-timeout", "-5s", "write for example 5s, 1m30s, or plain seconds"),
            ("--wait", "5 s", "write for example 5s, 1m30s, or plain seconds"),
            ("--wait", "\N{ARABIC-INDIC DIGIT FIVE}s", "write for example 5s, 1m30s, or plain seconds"),
            ("--wait", "5s0", "write for example 5s, 1m30s, or plain seconds"),
            ("--iptables-probe-port", "0", NUMBER_OF_PORT),
            ("--reconcile", "maybe", "write true or false"),
        ],
    )
    def test_bad_values(self, flag: str, text: str, remedy: str) -> None:
        problems: list[str] = []

        assert parse_option(BY_NAME[flag], Given(text, flag), Directory(), problems) is None
        [problem] = problems
        assert flag in problem
        assert remedy in problem


class TestListsInFiles:
    """``@FILE`` names a file of items."""

    def test_lines_and_commas_separate_items_and_comments_do_not_count(self, tmp_path: Path) -> None:
        file = tmp_path / "ranges"
        file.write_text("# a comment, with a comma\n10.0.0.0/8\n\n 192.168.0.0/16 , 1.2.3.4/32\n")
        gathered = expand(gather({"--istio-service-exclude-cidr": f"@{file}"}, {}, apply=True))

        config, _ = parse(gathered, Directory())

        assert [str(each) for each in config.outbound_exclude_ranges] == ["10.0.0.0/8", "192.168.0.0/16", "1.2.3.4/32"]

    def test_the_environment_can_name_a_file_too(self, tmp_path: Path) -> None:
        file = tmp_path / "groups"
        file.write_text("1000\n")
        gathered = expand(gather({}, {"ISTIO_OUTBOUND_OWNER_GROUPS": f"@{file}"}, apply=True))

        assert parse(gathered, Directory())[0].owner_groups == ids(1000)

    def test_a_bad_item_is_named_with_the_flag_that_names_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "ports"
        file.write_text("80\nnosuch\n")
        gathered = expand(gather({"--istio-inbound-ports": f"@{file}"}, {}, apply=True))

        with pytest.raises(ConfigError, match=r"--istio-inbound-ports 'nosuch'"):
            parse(gathered, Directory())

    def test_every_file_that_cannot_be_read_is_listed(self, tmp_path: Path) -> None:
        binary = tmp_path / "binary"
        binary.write_bytes(b"\xff\xfe")
        given = {
            "--istio-inbound-ports": f"@{tmp_path}/nowhere",
            "--istio-service-cidr": f"@{tmp_path}",
            "--istio-outbound-ports": f"@{binary}",
        }

        with pytest.raises(ConfigError) as caught:
            expand(gather(given, {}, apply=True))

        problems = caught.value.problems
        assert len(problems) == 3
        assert all(any(flag in problem for problem in problems) for flag in given)

    def test_what_is_no_list_names_no_file(self, tmp_path: Path) -> None:
        gathered = expand(gather({"--envoy-port": f"@{tmp_path}/nowhere"}, {}, apply=True))

        with pytest.raises(ConfigError, match="--envoy-port"):
            parse(gathered, Directory())

    def test_the_lists_are_those_that_take_commas(self) -> None:
        assert is_list(BY_NAME["--istio-service-exclude-cidr"])
        assert not is_list(BY_NAME["--envoy-port"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", "'a'"), ("a\nb", "'a\\nb'"), ("x" * 78, f"'{'x' * 78}'"), ("x" * 79, f"'{'x' * 59}… (79 characters)")],
    ids=["plain", "a newline", "just short enough", "too long"],
)
def test_messages_show_values_quoted_escaped_and_cut(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_items_are_separated_by_commas_and_empty_ones_do_not_count() -> None:
    assert values.items(" a, b ,,c,") == ["a", "b", "c"]
    assert values.items("") == values.items(" , ") == []
