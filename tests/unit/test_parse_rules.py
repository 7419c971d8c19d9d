"""Each text of iptables-save has one meaning, and each meaning one text."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from istio_init.dialects.iptables.matches import (
    Address,
    Comment,
    Connmark,
    Ctstate,
    IdRange,
    Interface,
    Mark,
    Match,
    Multiport,
    OpaqueMatch,
    Owner,
    PortMatch,
    PortRange,
    PortTest,
    Protocol,
)
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.quoting import words
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.targets import (
    ACCEPT,
    DROP,
    RETURN,
    CtZone,
    Goto,
    Jump,
    OpaqueTarget,
    Redirect,
    RestoreMark,
    SaveMark,
    SetConnmark,
    SetMark,
    Target,
    Tproxy,
    Verdict,
)


def port(number: int) -> PortRange:
    return PortRange(number, number)


def user(number: int) -> IdRange:
    return IdRange(number, number)


HEADERS = {
    "-s 10.0.0.0/8": Rule(source=Address(ip_network("10.0.0.0/8"))),
    "! -s 10.1.2.3/32": Rule(source=Address(ip_network("10.1.2.3/32"), negated=True)),
    "-d fd00::/8": Rule(destination=Address(ip_network("fd00::/8"))),
    "! -d ::1/128": Rule(destination=Address(ip_network("::1/128"), negated=True)),
    "-i eth0": Rule(in_interface=Interface("eth0")),
    "! -o lo": Rule(out_interface=Interface("lo", negated=True)),
    "-i veth+": Rule(in_interface=Interface("veth+")),
    "-i -x": Rule(in_interface=Interface("-x")),
    "-p tcp": Rule(protocol=Protocol("tcp")),
    "! -p 132": Rule(protocol=Protocol("132", negated=True)),
    "-s 10.0.0.0/8 -d 1.1.1.1/32 -i a -o b -p udp": Rule(
        source=Address(ip_network("10.0.0.0/8")),
        destination=Address(ip_network("1.1.1.1/32")),
        in_interface=Interface("a"),
        out_interface=Interface("b"),
        protocol=Protocol("udp"),
    ),
    "": Rule(),
}

MATCHES: dict[str, Match] = {
    "-m tcp": PortMatch("tcp"),
    "-m tcp --dport 80": PortMatch("tcp", destination=PortTest(port(80))),
    "-m tcp ! --dport 15008": PortMatch("tcp", destination=PortTest(port(15008), negated=True)),
    "-m udp --sport 53 --dport 1024:65535": PortMatch("udp", PortTest(port(53)), PortTest(PortRange(1024, 65535))),
    "-m tcp ! --dport 0:65535": PortMatch("tcp", destination=PortTest(PortRange(0, 65535), negated=True)),
    "-m multiport --dports 53,15008": Multiport("destination", (port(53), port(15008))),
    "-m multiport ! --sports 1:5,7": Multiport("source", (PortRange(1, 5), port(7)), negated=True),
    "-m multiport --ports 80": Multiport("either", (port(80),)),
    "-m owner --uid-owner 1337": Owner(uid=user(1337)),
    "-m owner ! --uid-owner 1000-2000": Owner(uid=IdRange(1000, 2000), uid_negated=True),
    "-m owner --uid-owner 1 ! --gid-owner 2": Owner(uid=user(1), gid=user(2), gid_negated=True),
    "-m mark --mark 0x539": Mark(0x539),
    "-m mark ! --mark 0x53a": Mark(0x53A, negated=True),
    "-m mark --mark 0x539/0xfff": Mark(0x539, 0xFFF),
    "-m connmark --mark 0x111/0xfff": Connmark(0x111, 0xFFF),
    "-m conntrack --ctstate INVALID": Ctstate(("INVALID",)),
    "-m conntrack --ctstate RELATED,ESTABLISHED": Ctstate(("RELATED", "ESTABLISHED")),
    "-m conntrack ! --ctstate NEW": Ctstate(("NEW",), negated=True),
    "-m comment --comment hello": Comment("hello"),
    '-m comment --comment "hello world"': Comment('"hello world"'),
    '-m comment --comment ""': Comment('""'),
    r'-m comment --comment "a \"quoted\" \\ word -j DROP"': Comment(r'"a \"quoted\" \\ word -j DROP"'),
    r'-m comment --comment "ends in a backslash \\"': Comment(r'"ends in a backslash \\"'),
}

OPAQUE_MATCHES: dict[str, Match] = {
    "-f": OpaqueMatch(None, ("-f",)),
    "! -f": OpaqueMatch(None, ("!", "-f")),
    "-s 10.0.0.0/255.0.255.0": OpaqueMatch(None, ("-s", "10.0.0.0/255.0.255.0")),
    "! -d 10.0.0.0/0.255.255.255": OpaqueMatch(None, ("!", "-d", "10.0.0.0/0.255.255.255")),
    "-s fd00::1/ffff::ff": OpaqueMatch(None, ("-s", "fd00::1/ffff::ff")),
    "-m addrtype ! --dst-type LOCAL": OpaqueMatch("addrtype", ("!", "--dst-type", "LOCAL")),
    "-m icmp --icmp-type 8": OpaqueMatch("icmp", ("--icmp-type", "8")),
    "-m esp": OpaqueMatch("esp", ()),
    '-m string --string "a b" --algo bm': OpaqueMatch("string", ("--string", '"a b"', "--algo", "bm")),
    "-m tcp --tcp-flags SYN,RST SYN": OpaqueMatch("tcp", ("--tcp-flags", "SYN,RST", "SYN")),
    "-m tcp --dport 80 --tcp-option 5": OpaqueMatch("tcp", ("--dport", "80", "--tcp-option", "5")),
    "-m tcp --dport http": OpaqueMatch("tcp", ("--dport", "http")),
    "-m tcp --dport 1 --dport 2": OpaqueMatch("tcp", ("--dport", "1", "--dport", "2")),
    "-m owner --socket-exists": OpaqueMatch("owner", ("--socket-exists",)),
    "-m owner --gid-owner 5 --suppl-groups": OpaqueMatch("owner", ("--gid-owner", "5", "--suppl-groups")),
    "-m conntrack --ctstate NEW --ctdir ORIGINAL": OpaqueMatch(
        "conntrack", ("--ctstate", "NEW", "--ctdir", "ORIGINAL")
    ),
    "-m conntrack --ctstate FUTURE": OpaqueMatch("conntrack", ("--ctstate", "FUTURE")),
    "-m conntrack --ctproto 6": OpaqueMatch("conntrack", ("--ctproto", "6")),
    "-m mark --mark high": OpaqueMatch("mark", ("--mark", "high")),
    "-m connmark --markx 1": OpaqueMatch("connmark", ("--markx", "1")),
    "-m multiport --dports 1,x": OpaqueMatch("multiport", ("--dports", "1,x")),
    "-m comment": OpaqueMatch("comment", ()),
}

TARGETS: dict[str, Target] = {
    "-j ACCEPT": ACCEPT,
    "-j DROP": DROP,
    "-j RETURN": RETURN,
    "-j QUEUE": Verdict("QUEUE"),
    "-j ISTIO_OUTPUT": Jump("ISTIO_OUTPUT"),
    "-j cali-PREROUTING": Jump("cali-PREROUTING"),
    "-j KUBE-SERVICES": Jump("KUBE-SERVICES"),
    "-g ISTIO_OUTPUT": Goto("ISTIO_OUTPUT"),
    "-j REDIRECT": Redirect(),
    "-j REDIRECT --to-ports 15001": Redirect(port(15001)),
    "-j REDIRECT --to-ports 8000-8090": Redirect(PortRange(8000, 8090)),
    "-j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff": Tproxy(
        15006, IPv4Address("0.0.0.0"), 0x539
    ),
    "-j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x539/0xff": Tproxy(15006, IPv6Address("::"), 0x539, 0xFF),
    "-j MARK --set-xmark 0x539/0xffffffff": SetMark(0x539),
    "-j CONNMARK --set-xmark 0x111/0xfff": SetConnmark(0x111, 0xFFF),
    "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff": SaveMark(),
    "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf": RestoreMark(0xFF, 0xF),
    "-j CT --zone 2": CtZone(2),
}

OPAQUE_TARGETS: dict[str, Target] = {
    "-j LOG": OpaqueTarget("LOG"),
    '-j LOG --log-prefix "in: "': OpaqueTarget("LOG", ("--log-prefix", '"in: "')),
    "-j MASQUERADE": OpaqueTarget("MASQUERADE"),
    "-j DNAT --to-destination 10.0.0.1:80": OpaqueTarget("DNAT", ("--to-destination", "10.0.0.1:80")),
    "-j REDIRECT --to-ports 80 --random": OpaqueTarget("REDIRECT", ("--to-ports", "80", "--random")),
    "-j MARK --and-mark 0x1": OpaqueTarget("MARK", ("--and-mark", "0x1")),
    "-j CT --notrack": OpaqueTarget("CT", ("--notrack",)),
    "-j CT --zone 1 --zone-orig 2": OpaqueTarget("CT", ("--zone", "1", "--zone-orig", "2")),
    "-j CT": OpaqueTarget("CT"),
    "-j CONNMARK --save-mark": OpaqueTarget("CONNMARK", ("--save-mark",)),
    "-j TPROXY --on-port 1": OpaqueTarget("TPROXY", ("--on-port", "1")),
    "-j NEWTARGET --flag": OpaqueTarget("NEWTARGET", ("--flag",)),
}


@pytest.mark.parametrize(("text", "rule"), HEADERS.items(), ids=HEADERS)
def test_addresses_interfaces_and_protocols_are_fields_of_the_rule(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule
    assert rule_text(rule) == text


@pytest.mark.parametrize(("text", "match"), MATCHES.items(), ids=MATCHES)
def test_a_known_match_becomes_a_typed_value(text: str, match: Match) -> None:
    assert parse_rule(f"{text} -j RETURN") == Rule(matches=(match,), target=RETURN)
    assert rule_text(Rule(matches=(match,))) == text


@pytest.mark.parametrize(("text", "match"), OPAQUE_MATCHES.items(), ids=OPAQUE_MATCHES)
def test_an_unknown_match_keeps_its_words(text: str, match: Match) -> None:
    assert parse_rule(f"{text} -j RETURN") == Rule(matches=(match,), target=RETURN)
    assert rule_text(Rule(matches=(match,))) == text


@pytest.mark.parametrize(("text", "target"), TARGETS.items(), ids=TARGETS)
def test_a_known_target_becomes_a_typed_value(text: str, target: Target) -> None:
    assert parse_rule(text) == Rule(target=target)
    assert rule_text(Rule(target=target)) == text


@pytest.mark.parametrize(("text", "target"), OPAQUE_TARGETS.items(), ids=OPAQUE_TARGETS)
def test_an_unknown_target_keeps_its_words(text: str, target: Target) -> None:
    assert parse_rule(text) == Rule(target=target)
    assert rule_text(Rule(target=target)) == text


@pytest.mark.parametrize(
    ("older", "normal"),
    [
        ("-s 10.0.0.0/255.0.0.0 -j RETURN", "-s 10.0.0.0/8 -j RETURN"),
        ("-s 10.0.0.1 -j RETURN", "-s 10.0.0.1/32 -j RETURN"),
        ("-s 0.0.0.0/0 -d ::/0 -j RETURN", "-j RETURN"),
        ("-p all -i + -j RETURN", "-j RETURN"),
        ("-m state --state RELATED,ESTABLISHED -j ACCEPT", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        ("-m conntrack --ctstate ESTABLISHED,RELATED", "-m conntrack --ctstate RELATED,ESTABLISHED"),
        ("-p tcp -m tcp --dport 0:65535 -j RETURN", "-p tcp -m tcp -j RETURN"),
        ("-m tcp --dport :80", "-m tcp --dport 0:80"),
        ("-m tcp --dport 80:", "-m tcp --dport 80:65535"),
        ("-m mark --mark 1337/0xffffffff", "-m mark --mark 0x539"),
        ("-j  RETURN ", "-j RETURN"),
    ],
    ids=lambda text: str(text),
)
def test_what_means_the_same_is_equal(older: str, normal: str) -> None:
    assert parse_rule(older) == parse_rule(normal)
    assert rule_text(parse_rule(older)) == normal


def test_matches_keep_their_order() -> None:
    rule = parse_rule("-p tcp -m tcp --dport 80 -m comment --comment x -m owner --uid-owner 1 -j RETURN")

    assert [type(match).__name__ for match in rule.matches] == ["PortMatch", "Comment", "Owner"]


def test_a_test_that_is_repeated_stays_repeated() -> None:
    text = "-m owner ! --gid-owner 1 -m owner ! --gid-owner 2 -j RETURN"

    assert rule_text(parse_rule(text)) == text


def test_a_negated_match_of_everything_is_not_lost() -> None:
    assert rule_text(parse_rule("! -s 0.0.0.0/0 -j DROP")) == "! -s 0.0.0.0/0 -j DROP"
    assert rule_text(parse_rule("! -i + -j DROP")) == "! -i + -j DROP"


def test_a_goto_with_words_of_its_own_is_not_taken_for_a_jump() -> None:
    assert parse_rule("-g CHAIN --odd").target == OpaqueTarget("CHAIN", ("-g", "--odd"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  a   b ", ["a", "b"]),
        ('--a "b c" d', ["--a", '"b c"', "d"]),
        (r'--a "a \" b" c', ["--a", r'"a \" b"', "c"]),
        (r'--a "a \\" b', ["--a", r'"a \\"', "b"]),
        ('--a "never closed', ["--a", '"never closed']),
        ('-o "b -j c" d', ["-o", '"b', "-j", 'c"', "d"]),
        ("-o a\N{NO-BREAK SPACE}b\x85c\td", ["-o", "a\N{NO-BREAK SPACE}b\x85c", "d"]),
        ('mid"dle quote', ['mid"dle', "quote"]),
    ],
    ids=lambda value: str(value),
)
def test_words_are_split_at_spaces_outside_quotes(text: str, expected: list[str]) -> None:
    assert words(text) == expected
