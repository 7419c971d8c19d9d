"""Nothing that a user or an environment variable supplies can add a line or an option to what iptables is handed.

Whatever the values: either they are refused, or each rule that comes of them is one line of text, which parses back to
exactly that rule, and the whole text has one line for each step.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from istio_init.cli.pflag import UsageError, parse_flags
from istio_init.config.model import Config, Surroundings
from istio_init.config.parse import gather, parse
from istio_init.dialects.iptables.matches import OpaqueMatch
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.quoting import words
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.targets import OpaqueTarget
from istio_init.errors import ConfigError
from istio_init.mesh.policy import sidecar
from istio_init.netfilter.family import Family
from istio_init.options import OPTIONS, Option
from istio_init.plan.diff import diff
from istio_init.plan.model import Declare
from istio_init.plan.restore import render_restore
from istio_init.stores.fake import Fake

from .directory import Directory

AROUND = Surroundings(ipv6=True)

SHARP = (
    "\n",
    "\r\n",
    "\0",
    "\x0b",
    "\x85",
    "\u2028",
    "\t",
    " ",
    ",",
    ":",
    "-",
    "--",
    "!",
    '"',
    "'",
    "\\",
    "#",
    "*",
    "+",
    "@",
    "/",
    "0x",
    "%",
    "`id`",
    "$(id)",
    ";",
    "-j ACCEPT",
    "-j",
    "-A INPUT -j ACCEPT",
    "--to-ports 22",
    "--uid-owner 0",
    "COMMIT",
    "*filter",
    ":INPUT ACCEPT [0:0]",
    "-X",
    "-F",
    "# comment",
    "\N{ARABIC-INDIC DIGIT THREE}",
    "\N{FULLWIDTH DIGIT ONE}",
    "é",
    "\u202e",
    "\ud800",
    "\N{NO-BREAK SPACE}",
    "\N{EM SPACE}",
)
PLAIN = (
    "80",
    "8000:8090",
    "10.0.0.0/8",
    "fd00::/8",
    "127.0.0.0/8",
    "eth0",
    "veth+",
    "1337",
    "1000-2000",
    "0x539",
    "http",
    "envoy",
    "staff",
    "true",
    "REDIRECT",
    "TPROXY",
    "5s",
)
"""What is valid for some option: hostile pieces beside it get deeper in."""

pieces = st.one_of(st.sampled_from(PLAIN), st.sampled_from(SHARP), st.text(max_size=6))
texts = st.lists(pieces, max_size=6).map("".join)
listed = st.lists(st.one_of(st.sampled_from(PLAIN), texts), max_size=8).map(",".join)
hostile = st.one_of(texts, listed, st.text(max_size=30))

VALID: Mapping[str, tuple[str, ...]] = {
    "ports": ("80", "8000:8090", ":9", "9:", "http", "0:65535"),
    "port": ("80", "http", " 65535 "),
    "ranges": ("10.0.0.0/8", "fd00::/8", "127.0.0.1/8", "0.0.0.0/0", "::ffff:1.2.3.4/128"),
    "interfaces": ("eth0", "veth+", "a#b", "-9", "a*", "$x;", "@if2", "a++"),
    "users": ("1337", "1000-2000", "envoy", "0", "4294967294"),
    "owners": ("1337", "1000-2000", "staff"),
    "mode": ("REDIRECT", "TPROXY"),
    "loopback": ("127.0.0.0/8", "127.0.0.1/32"),
    "mark": ("1", "0x539", "4294967295"),
    "table": ("133", "0x85"),
    "boolean": ("true", "false"),
    "account": ("envoy", "istio-proxy"),
}
"""Values that are valid for a kind of option."""


def nearly_valid(option: Option) -> st.SearchStrategy[str]:
    """Lists of what is valid for the option, with hostile text in some of them."""
    kind = {"groups": "users"}.get(option.kind, option.kind.removesuffix("_or_all"))
    good = st.sampled_from(VALID[kind])
    spoilt = st.tuples(good, pieces).map("".join) | st.tuples(pieces, good).map("".join)
    return st.lists(st.one_of(good, good, good, spoilt), min_size=1, max_size=4).map(",".join) | good


ALL_KINDS_ON: Mapping[str, str] = {
    "--redirect-dns": "true",
    "--capture-all-dns": "true",
    "--drop-invalid": "true",
    "--istio-inbound-interception-mode": "TPROXY",
    "--istio-inbound-ports": "*",
    "--istio-service-cidr": "10.0.0.0/8",
    "--kube-virt-interfaces": "vm0",
}
"""Other options such that the value under test shows up in as many rules as possible."""


def read(given: Mapping[str, str], environ: Mapping[str, str], *, lenient: bool) -> Config | None:
    """The configuration, or None where it is refused."""
    try:
        return parse(gather(given, environ, apply=True), Directory(), lenient_mode=lenient)[0]
    except ConfigError as error:
        for problem in error.problems:
            assert len(problem.splitlines()) == 1, "a problem is one line, whatever the value"
        return None


def check(config: Config | None) -> None:
    """What is handed to iptables for a configuration says what the policy meant, and nothing else."""
    if config is None:
        return
    for family, wanted in sidecar.rules(config, AROUND).items():
        for _, _, _, entry in wanted.entries():
            text = rule_text(entry.rule)
            assert text.isprintable()
            assert parse_rule(text) == entry.rule
            assert " ".join(words(text)) == text
            assert not any(isinstance(match, OpaqueMatch) for match in entry.rule.matches)
            assert not isinstance(entry.rule.target, OpaqueTarget)
            assert len(text.split()) <= 255 - len(("iptables-restore", "-t", "mangle", "-A", "ISTIO_OUTPUT"))
        edits = diff(RuleSet(family), wanted).edits
        handed = render_restore(edits)
        lines = handed.split("\n")
        assert lines.pop() == ""
        assert handed.splitlines() == lines
        assert len(lines) == sum(len(edit.steps) + len(("*table", "COMMIT")) for edit in edits)
        assert sum(line.startswith(":") for line in lines) == sum(
            isinstance(step, Declare) for edit in edits for step in edit.steps
        )
        fake = Fake()
        fake.commit(family, edits)
        assert {(table, chain.name, chain.rules) for table, chain in fake.read(family).chains() if chain.rules} == {
            (table, chain.name, chain.rules) for table, chain in wanted.chains() if chain.rules
        }


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: str(option.name))
@settings(max_examples=60)
@given(data=st.data(), lenient=st.booleans())
def test_one_hostile_value_is_refused_or_harmless(option: Option, data: st.DataObject, lenient: bool) -> None:
    value = data.draw(nearly_valid(option) | hostile, label="value")
    if option.flag is not None:
        check(read({**ALL_KINDS_ON, option.flag: value}, {}, lenient=lenient))
    for variable in option.env:
        flags = {name: text for name, text in ALL_KINDS_ON.items() if name != option.flag}
        check(read(flags, {variable: value}, lenient=lenient))


@given(
    st.dictionaries(st.sampled_from([option.flag for option in OPTIONS if option.flag]), hostile, max_size=8),
    st.dictionaries(st.sampled_from([name for option in OPTIONS for name in option.env]), hostile, max_size=8),
)
def test_many_hostile_values_are_refused_or_harmless(given: dict[str, str], environ: dict[str, str]) -> None:
    check(read(given, environ, lenient=True))


@given(st.lists(st.one_of(hostile, st.sampled_from([option.flag or option.env[0] for option in OPTIONS])), max_size=10))
def test_a_hostile_command_line_is_refused_or_harmless(argv: list[str]) -> None:
    try:
        given, _ = parse_flags(argv, OPTIONS)
    except UsageError:
        return
    check(read(given, {}, lenient=True))


LONG = 20_000
VALID_ITEMS = {
    "ports": "80",
    "ports_or_all": "80",
    "ranges": "10.0.0.0/8",
    "ranges_or_all": "fd00::/8",
    "interfaces": "abcdefghijklmn+",
    "users": "1000-2000",
    "groups": "4294967294",
    "owners": "1000",
    "owners_or_all": "1000",
}


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if option.kind in VALID_ITEMS], ids=lambda option: str(option.name)
)
def test_a_huge_list_is_refused_or_becomes_as_many_rules(option: Option) -> None:
    assert option.field is not None
    value = ",".join([VALID_ITEMS[option.kind]] * LONG)
    environ = {option.env[0]: value}

    config = read({}, environ, lenient=False)

    if option.kind == "owners_or_all":
        assert config is None
    else:
        assert config is not None
        assert len(getattr(config, option.field)) == LONG


def test_a_long_list_of_every_kind_still_has_one_line_for_each_step() -> None:
    environ = {
        option.env[0]: ",".join([VALID_ITEMS[option.kind]] * 49) for option in OPTIONS if option.kind in VALID_ITEMS
    }

    config = read({"--redirect-dns": "true"}, environ, lenient=False)

    assert config is not None
    check(config)
    assert Family.IPV6 in sidecar.rules(config, AROUND)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("eth0\n-A INPUT -j ACCEPT", id="a second line"),
        pytest.param("eth0\nCOMMIT\n*filter", id="a second table"),
        pytest.param("eth0 -j ACCEPT", id="another target"),
        pytest.param('eth0" -j ACCEPT -m comment --comment "', id="an escape from quotes"),
        pytest.param("! eth0", id="a negation"),
        pytest.param("-j ACCEPT", id="a flag"),
        pytest.param("--jump", id="a long flag"),
        pytest.param("eth0\0", id="a NUL"),
        pytest.param("eth0\u2028-A INPUT", id="a line separator"),
        pytest.param("eth0\N{NO-BREAK SPACE}-j", id="a space that is none"),
        pytest.param("\N{FULLWIDTH HYPHEN-MINUS}j", id="a look-alike flag"),
    ],
)
@pytest.mark.parametrize("option", [option for option in OPTIONS if option.field], ids=lambda option: str(option.name))
def test_what_could_be_read_as_more_than_a_value_is_refused(option: Option, value: str) -> None:
    if option.kind == "boolean":
        assert read({str(option.flag): value}, {}, lenient=False) is None
        return
    if option.flag is not None:
        assert read({option.flag: value}, {}, lenient=False) is None
    for variable in option.env:
        assert read({}, {variable: value}, lenient=False) is None
