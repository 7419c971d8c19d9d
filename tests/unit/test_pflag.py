"""The grammar of Go's pflag, as callers of istio-iptables write it."""

from __future__ import annotations

import pytest

from istio_init.cli.pflag import UsageError, parse_flags
from istio_init.options import DROPIN_OPTIONS, OPTIONS

ALL = OPTIONS + DROPIN_OPTIONS

PORTS, CIDR, PROXY, DRY_RUN = "--istio-inbound-ports", "--istio-service-cidr", "--envoy-port", "--dry-run"


@pytest.mark.parametrize(
    ("argv", "given"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param(["--envoy-port", "1"], {PROXY: "1"}, id="a long flag and its value"),
        pytest.param(["--envoy-port=1"], {PROXY: "1"}, id="a long flag with an equals sign"),
        pytest.param(["--envoy-port="], {PROXY: ""}, id="an empty value after an equals sign"),
        pytest.param(["--istio-service-cidr=a=b"], {CIDR: "a=b"}, id="an equals sign in the value"),
        pytest.param(["-p", "1"], {PROXY: "1"}, id="a short flag and its value"),
        pytest.param(["-p1"], {PROXY: "1"}, id="a short flag with its value in one word"),
        pytest.param(["-p=1"], {PROXY: "1"}, id="a short flag with an equals sign"),
        pytest.param(["-p="], {PROXY: ""}, id="a short flag with an empty value"),
        pytest.param(["-i", ""], {CIDR: ""}, id="an empty word as the value"),
        pytest.param(["-i", "*", "-b", "*"], {CIDR: "*", PORTS: "*"}, id="wildcards"),
        pytest.param(["-i", "-b", "*"], {CIDR: "-b"}, id="a value that is missing swallows the next flag"),
        pytest.param(["-n"], {DRY_RUN: "true"}, id="a short boolean"),
        pytest.param(["-n=false"], {DRY_RUN: "false"}, id="a short boolean turned off"),
        pytest.param(["-n", "false"], {DRY_RUN: "true"}, id="a boolean takes no word of its own"),
        pytest.param(["-np1"], {DRY_RUN: "true", PROXY: "1"}, id="a short boolean before another short flag"),
        pytest.param(["-np", "1"], {DRY_RUN: "true", PROXY: "1"}, id="the same, its value in the next word"),
        pytest.param(["--dry-run"], {DRY_RUN: "true"}, id="a long boolean"),
        pytest.param(["--dry-run=0"], {DRY_RUN: "0"}, id="a long boolean with a value"),
        pytest.param(["--dry-run=false", "--dry-run"], {DRY_RUN: "true"}, id="the last of a repeated flag holds"),
        pytest.param(["-p1", "--envoy-port", "2"], {PROXY: "2"}, id="short and long are one flag"),
        pytest.param(["apply", "-p", "1", "now"], {PROXY: "1"}, id="words that belong to no flag are ignored"),
        pytest.param(["-", "-p", "1"], {PROXY: "1"}, id="a lone dash is such a word"),
        pytest.param(["-p", "1", "--", "-p", "2", "--nonsense"], {PROXY: "1"}, id="two dashes end the flags"),
        pytest.param(["--envoy-port", "--"], {PROXY: "--"}, id="two dashes as a value are a value"),
        pytest.param(["-p", "-1"], {PROXY: "-1"}, id="a negative number is a value"),
        pytest.param(["--log_output_level=default:info"], {"--log_output_level": "default:info"}, id="underscores"),
    ],
)
def test_words_become_values(argv: list[str], given: dict[str, str]) -> None:
    assert parse_flags(argv, ALL)[0] == given


@pytest.mark.parametrize(
    ("argv", "stray"),
    [
        (["-p", "1"], []),
        (["apply", "-p", "1", "now"], ["apply", "now"]),
        (["-b", "80", "443"], ["443"]),
        (["-n", "false"], ["false"]),
        (["-", "-p", "1"], ["-"]),
        (["-p", "1", "--", "-p", "2"], ["-p", "2"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_words_that_belong_to_no_flag_are_told(argv: list[str], stray: list[str]) -> None:
    assert parse_flags(argv, ALL)[1] == stray


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nonsense"], "unknown flag: --nonsense"),
        (["--nonsense=1"], "unknown flag: --nonsense"),
        (["--envoy_port", "1"], "unknown flag: --envoy_port; did you mean --envoy-port?"),
        (["--ENVOY-PORT", "1"], "unknown flag: --ENVOY-PORT; did you mean --envoy-port?"),
        (["--envoy"], "unknown flag: --envoy"),
        (["-y"], "unknown shorthand flag: 'y' in -y"),
        (["-ny"], "unknown shorthand flag: 'y' in -ny"),
        (["-=1"], "unknown shorthand flag: '=' in -=1"),
        (["-p"], "flag needs an argument: -p"),
        (["--envoy-port"], "flag needs an argument: --envoy-port"),
        (["-np"], "flag needs an argument: -p"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_what_is_not_of_the_grammar_is_refused(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_flags(argv, ALL)

    assert str(caught.value) == said


def test_the_list_of_words_is_left_as_it_was() -> None:
    argv = ["-p", "1", "-n"]

    parse_flags(argv, ALL)

    assert argv == ["-p", "1", "-n"]


def test_no_flag_is_defined_twice() -> None:
    for names in ([option.flag for option in ALL if option.flag], [option.short for option in ALL if option.short]):
        assert len(names) == len(set(names))
    fields = [option.field for option in OPTIONS if option.field]
    assert len(fields) == len(set(fields))
    variables = [name for option in ALL for name in option.env]
    assert len(variables) == len(set(variables))


def test_the_vocabulary_is_istios() -> None:
    assert {option.short: option.flag for option in ALL if option.short} == {
        "-p": "--envoy-port",
        "-z": "--inbound-capture-port",
        "-e": "--inbound-tunnel-port",
        "-u": "--proxy-uid",
        "-g": "--proxy-gid",
        "-m": "--istio-inbound-interception-mode",
        "-b": "--istio-inbound-ports",
        "-d": "--istio-local-exclude-ports",
        "-c": "--istio-exclude-interfaces",
        "-i": "--istio-service-cidr",
        "-x": "--istio-service-exclude-cidr",
        "-q": "--istio-outbound-ports",
        "-o": "--istio-local-outbound-ports-exclude",
        "-k": "--kube-virt-interfaces",
        "-t": "--istio-inbound-tproxy-mark",
        "-r": "--istio-inbound-tproxy-route-table",
        "-n": "--dry-run",
    }
    assert {option.flag for option in ALL if option.flag and not option.short} >= {
        "--iptables-probe-port",
        "--probe-timeout",
        "--skip-rule-apply",
        "--run-validation",
        "--redirect-dns",
        "--drop-invalid",
        "--dual-stack",
        "--capture-all-dns",
        "--network-namespace",
        "--cni-mode",
        "--reconcile",
        "--cleanup-only",
        "--force-apply",
        "--native-nftables",
        "--force-iptables-binary",
        "--log_output_level",
        "--log_as_json",
        "--log_target",
        "--log_caller",
        "--log_stacktrace_level",
    }
