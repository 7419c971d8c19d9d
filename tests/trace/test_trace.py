"""What becomes of a connection's first packet, case by case. Each was seen in a kernel, where it is not obvious."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest

from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.space.depends import depends_on, looks_for_invalid
from istio_init.trace.result import Hop, Kind

from .words import netfilter_of, outcome_of, packet_of, place_of, rules_of, sidecar_rules, tracer_of, way_of

INJECTED = "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -b * -d 15090,15021,15020"
TPROXY = "-u 1337 -m TPROXY -i * -b * -d 15090"


class Case(NamedTuple):
    """A packet, and what becomes of it in the end."""

    what: str
    packet: str
    fields: dict[str, object]
    expected: str


def run_cases(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.what.replace(" ", "-"))


@run_cases(
    [
        Case("the application's traffic is captured", "outbound tcp 10.0.0.5:443", {}, "redirect 15001"),
        Case("to the tunnel port as well", "outbound tcp 10.0.0.5:15008", {}, "redirect 15001"),
        Case("the proxy's own leaves", "outbound tcp 10.0.0.5:443", {"uid": 1337}, "direct"),
        Case("also by its group", "outbound tcp 10.0.0.5:443", {"gid": 1337}, "direct"),
        Case("udp is not captured", "outbound udp 10.0.0.5:53", {}, "direct"),
        Case("loopback is not", "outbound tcp 127.0.0.1:80", {}, "direct"),
        Case("the application calling itself is not", "outbound tcp 10.1.2.3:80", {"interface": "lo"}, "direct"),
        Case("the proxy calling the application by its address", "outbound tcp 10.1.2.3:80",
             {"interface": "lo", "uid": 1337}, "redirect 15006"),
        Case("but not to the tunnel port", "outbound tcp 10.1.2.3:15008", {"interface": "lo", "uid": 1337}, "direct"),
        Case("Envoy passing inbound traffic on", "outbound tcp 10.1.2.3:80",
             {"interface": "lo", "uid": 1337, "source": "127.0.0.6"}, "direct"),
        Case("inbound is captured", "inbound tcp 10.1.2.3:80", {}, "redirect 15006"),
        Case("but not excluded ports", "inbound tcp 10.1.2.3:15021", {}, "direct"),
        Case("nor the tunnel port", "inbound tcp 10.1.2.3:15008", {}, "direct"),
        Case("nor udp", "inbound udp 10.1.2.3:80", {}, "direct"),
        Case("nobody tells whether an established connection was", "outbound tcp 10.0.0.5:443",
             {"ctstate": "ESTABLISHED"}, "unknown"),
        Case("of the proxy it was not", "outbound tcp 10.0.0.5:443", {"ctstate": "ESTABLISHED", "uid": 1337}, "direct"),
        Case("nor for invalid packets", "inbound tcp 10.1.2.3:80", {"ctstate": "INVALID"}, "direct"),
        Case("but for related ones", "outbound tcp 10.0.0.5:443", {"ctstate": "RELATED"}, "redirect 15001"),
    ]
)  # fmt: skip
def test_the_injected_rules(case: Case) -> None:
    traced = tracer_of(sidecar_rules(INJECTED)).trace(packet_of(case.packet, **case.fields))

    assert outcome_of(traced.delivered) == case.expected


@run_cases(
    [
        Case("inbound keeps both addresses", "inbound tcp 10.1.2.3:80", {}, "tproxy 15006"),
        Case("excluded ports do not", "inbound tcp 10.1.2.3:15090", {}, "direct"),
        Case("what Envoy sends on with its mark", "inbound tcp 10.1.2.3:80", {"mark": 0x539}, "direct"),
        Case("an established connection is only marked", "inbound tcp 10.1.2.3:80", {"ctstate": "ESTABLISHED"},
             "direct"),
        Case("outbound is redirected", "outbound tcp 10.0.0.5:443", {}, "redirect 15001"),
        Case("on lo the application meets it not", "outbound tcp 10.1.2.3:80", {"interface": "lo"}, "direct"),
        Case("Envoy on lo to the tunnel port does, on the second leg", "outbound tcp 10.1.2.3:15008",
             {"interface": "lo", "uid": 1337}, "tproxy 15006"),
        Case("but not with its mark", "outbound tcp 10.1.2.3:15008",
             {"interface": "lo", "uid": 1337, "mark": 0x539}, "direct"),
    ]
)  # fmt: skip
def test_tproxy(case: Case) -> None:
    traced = tracer_of(sidecar_rules(TPROXY)).trace(packet_of(case.packet, **case.fields))

    assert outcome_of(traced.delivered) == case.expected


@run_cases(
    [
        Case("a query to the server", "outbound udp 10.96.0.10:53", {}, "redirect 15053"),
        Case("by tcp", "outbound tcp 10.96.0.10:53", {}, "redirect 15053"),
        Case("a query to another server", "outbound udp 8.8.8.8:53", {}, "direct"),
        Case("the proxy's own query", "outbound udp 10.96.0.10:53", {"uid": 1337}, "direct"),
    ]
)
def test_dns_capture(case: Case) -> None:
    rules = sidecar_rules(f"{INJECTED} --redirect-dns", servers=("10.96.0.10",))

    assert outcome_of(tracer_of(rules).trace(packet_of(case.packet, **case.fields)).delivered) == case.expected


CHAINS = """
    nat OUTPUT -p tcp -j ONE
    nat OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 1
    nat ONE -p tcp -m tcp --dport 81 -j RETURN
    nat ONE -p tcp -m tcp --dport 80:82 -g TWO
    nat ONE -j REDIRECT --to-ports 2
    nat TWO -p tcp -m tcp --dport 80 -j RETURN
    nat TWO -p tcp -m tcp --dport 82 -j ACCEPT
"""


@pytest.mark.parametrize(
    ("port", "way", "expected"),
    [
        (80, "nat OUTPUT 1, nat ONE 2, nat TWO 1, nat OUTPUT 2", "redirect 1"),
        (81, "nat OUTPUT 1, nat ONE 1", "direct"),
        (82, "nat OUTPUT 1, nat ONE 2, nat TWO 2", "direct"),
        (83, "nat OUTPUT 1, nat ONE 3", "redirect 2"),
    ],
    ids=["RETURN after goto goes to the caller's caller", "RETURN at depth", "ACCEPT ends the table", "a rule later"],
)
def test_jumps_gotos_and_returns(port: int, way: str, expected: str) -> None:
    traced = tracer_of(rules_of(CHAINS)).trace(packet_of(f"outbound tcp 10.0.0.5:{port}"))

    assert (way_of(traced)[0], outcome_of(traced.delivered)) == (way, expected)


class Small(NamedTuple):
    """A few rules, a packet, the way that it takes and what becomes of it."""

    what: str
    rules: str
    packet: str
    way: list[str]
    expected: str
    fields: Mapping[str, object] = MappingProxyType({})


SMALL = [
    Small("a match that nobody can decide makes the answer unknown where both ways end differently", """
        nat OUTPUT -m statistic --mode random --probability 0.5 -j ACCEPT
        nat OUTPUT -p tcp -j REDIRECT --to-ports 1
        """, "outbound tcp 10.0.0.5:80", ["nat OUTPUT 2", ""], "unknown"),
    Small("but not where they end alike", """
        nat OUTPUT -m statistic --mode random --probability 0.5 -j REDIRECT --to-ports 1
        nat OUTPUT -p tcp -j REDIRECT --to-ports 1
        """, "outbound tcp 10.0.0.5:80", ["nat OUTPUT 2", ""], "redirect 1"),
    Small("nor where another test of the rule fails", """
        nat OUTPUT -p udp -m statistic --mode random --probability 0.5 -j ACCEPT
        nat OUTPUT -p tcp -j REDIRECT --to-ports 1
        """, "outbound tcp 10.0.0.5:80", ["nat OUTPUT 2", ""], "redirect 1"),
    Small("a match that this package does not know", """
        filter OUTPUT -m magic --spell x -j DROP
        """, "outbound tcp 10.0.0.5:80", [""], "unknown"),
    Small("another destination", "nat OUTPUT -p tcp -j DNAT --to-destination 10.0.0.9:81",
          "outbound tcp 10.0.0.5:80", ["nat OUTPUT 1"], "dnat 81"),
    Small("a target that this package does not know", "filter OUTPUT -p tcp -j MAGIC --spell x",
          "outbound tcp 10.0.0.5:80", ["filter OUTPUT 1"], "unknown"),
    Small("but a log goes on", """
        nat OUTPUT -p tcp -j LOG --log-prefix "x"
        nat OUTPUT -p tcp -j REDIRECT --to-ports 1
        """, "outbound tcp 10.0.0.5:80", ["nat OUTPUT 1, nat OUTPUT 2", ""], "redirect 1"),
    Small("a rule without a target only counts", """
        nat OUTPUT -p tcp
        nat OUTPUT -p tcp -j REDIRECT --to-ports 1
        """, "outbound tcp 10.0.0.5:80", ["nat OUTPUT 1, nat OUTPUT 2", ""], "redirect 1"),
    Small("a queue", "filter OUTPUT -p tcp -j NFQUEUE --queue-num 0", "outbound tcp 10.0.0.5:80", ["filter OUTPUT 1"],
          "unknown"),
    Small("a chain that is not there", "filter OUTPUT -p tcp -j GONE", "outbound tcp 10.0.0.5:80", ["filter OUTPUT 1"],
          "unknown"),
    Small("a policy drops what reaches a chain's end", """
        filter OUTPUT policy DROP
        filter OUTPUT -p udp -j ACCEPT
        """, "outbound tcp 10.0.0.5:80", [""], "drop"),
    Small("or returns from it", """
        filter INPUT policy DROP
        filter INPUT -j RETURN
        """, "inbound tcp 10.1.2.3:80", ["filter INPUT 1"], "drop"),
    Small("but not what was accepted", """
        filter OUTPUT policy DROP
        filter OUTPUT -j ACCEPT
        """, "outbound tcp 10.0.0.5:80", ["filter OUTPUT 1"], "direct"),
    Small("a rejection", "filter OUTPUT -j REJECT --reject-with icmp-port-unreachable",
          "outbound tcp 10.0.0.5:80", ["filter OUTPUT 1"], "reject"),
    Small("a redirected packet can be dropped on its second leg", """
        nat OUTPUT -p tcp -j REDIRECT --to-ports 15001
        filter INPUT -p tcp -m tcp --dport 15001 -j DROP
        """, "outbound tcp 10.0.0.5:80", ["nat OUTPUT 1", "filter INPUT 1"], "drop"),
    Small("raw can drop", "raw OUTPUT -j DROP", "outbound tcp 10.0.0.5:80", ["raw OUTPUT 1"], "drop"),
    Small("so can mangle of POSTROUTING", "mangle POSTROUTING -o eth0 -j DROP", "outbound tcp 10.0.0.5:80",
          ["mangle POSTROUTING 1"], "drop"),
    Small("a port within the range of a redirection is kept", "nat OUTPUT -p tcp -j REDIRECT --to-ports 8000-8010",
          "outbound tcp 10.0.0.5:8005", ["nat OUTPUT 1", ""], "redirect 8005"),
    Small("another becomes its first", "nat OUTPUT -p tcp -j REDIRECT --to-ports 8000-8010",
          "outbound tcp 10.0.0.5:80", ["nat OUTPUT 1", ""], "redirect 8000"),
    Small("a redirection without ports keeps it", "nat OUTPUT -p udp -j REDIRECT", "outbound udp 10.0.0.5:53",
          ["nat OUTPUT 1", ""], "redirect 53"),
    Small("another source does not matter", "nat POSTROUTING -o eth0 -j MASQUERADE", "outbound tcp 10.0.0.5:80",
          ["nat POSTROUTING 1"], "direct"),
    Small("nor where it comes in again", "nat POSTROUTING -j MASQUERADE", "outbound tcp 127.0.0.1:80",
          ["nat POSTROUTING 1", ""], "direct"),
    Small("nat is not evaluated where nothing makes the kernel track connections", """
        nat OUTPUT policy DROP
        nat OUTPUT -j MARK --set-xmark 0x1/0xffffffff
        """, "outbound tcp 10.0.0.5:80", [""], "direct"),
]  # fmt: skip

INTERFACES = [
    Small("rules of OUTPUT see the interface from before a redirection, POSTROUTING the new one", """
        nat OUTPUT -p tcp -j REDIRECT --to-ports 1
        filter OUTPUT -o lo
        filter OUTPUT -o eth0
        mangle POSTROUTING -o eth0
        mangle POSTROUTING -o lo
        """, "outbound tcp 10.0.0.5:80", ["nat OUTPUT 1, filter OUTPUT 2, mangle POSTROUTING 2", ""], "redirect 1"),
    Small("the second leg has no way out", """
        mangle INPUT ! -o eth0 -i lo
        mangle INPUT -o +
        mangle INPUT -o l+
        mangle INPUT -i l+
        """, "outbound tcp 127.0.0.1:80", ["", "mangle INPUT 1, mangle INPUT 2, mangle INPUT 4"], "direct"),
    Small("and meets no nat", """
        nat PREROUTING -j REDIRECT --to-ports 1
        nat INPUT -j LOG
        mangle PREROUTING -i lo
        raw PREROUTING -i lo
        """, "outbound tcp 127.0.0.1:80", ["", "raw PREROUTING 1, mangle PREROUTING 1"], "direct"),
]  # fmt: skip

MARKS = [
    Small("a mark set on the way out is there when it comes back in", """
        mangle OUTPUT -o lo -j MARK --set-xmark 0x53a/0xffffffff
        mangle PREROUTING -m mark --mark 0x53a
        mangle PREROUTING -m mark ! --mark 0x53a -j DROP
        """, "outbound tcp 127.0.0.1:80", ["mangle OUTPUT 1", "mangle PREROUTING 1"], "direct"),
    Small("bits outside the mask stay", """
        mangle OUTPUT -j MARK --set-xmark 0x1/0xf
        mangle OUTPUT -m mark --mark 0x31
        """, "outbound tcp 10.0.0.5:80", ["mangle OUTPUT 1, mangle OUTPUT 2"], "direct", {"mark": 0x3C}),
    Small("the connection keeps a mark for the second leg", """
        mangle OUTPUT -j CONNMARK --set-xmark 0x7/0xffffffff
        mangle PREROUTING -m connmark --mark 0x7 -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
        mangle PREROUTING -m mark --mark 0x7
        """, "outbound tcp 127.0.0.1:80", ["mangle OUTPUT 1", "mangle PREROUTING 1, mangle PREROUTING 2"], "direct"),
    Small("a mark that leads here takes another way", """
        mangle OUTPUT -j MARK --set-xmark 0x539/0xffffffff
        mangle POSTROUTING -o lo
        """, "outbound tcp 10.0.0.5:80", ["mangle OUTPUT 1, mangle POSTROUTING 1", ""], "direct"),
]  # fmt: skip

OWNERS = [
    Small("a packet of the kernel itself fails every test of its owner", "mangle OUTPUT -m owner --uid-owner 0-9999",
          "outbound icmp 10.0.0.5", [""], "direct", {"uid": None, "gid": None}),
    Small("and passes every negation", "mangle OUTPUT -m owner ! --uid-owner 1337 ! --gid-owner 1337",
          "outbound icmp 10.0.0.5", ["mangle OUTPUT 1"], "direct", {"uid": None, "gid": None}),
    Small("but not one of two", "mangle OUTPUT -m owner ! --uid-owner 1337 --gid-owner 0-9999",
          "outbound icmp 10.0.0.5", [""], "direct", {"uid": None, "gid": None}),
    Small("a range has both its ends", "mangle OUTPUT -m owner --uid-owner 1000-1001", "outbound tcp 10.0.0.5:80",
          ["mangle OUTPUT 1"], "direct", {"uid": 1001}),
]  # fmt: skip

TRACKING = [
    Small("before tracking there is no state and no connection mark", """
        raw OUTPUT -m conntrack --ctstate INVALID
        raw OUTPUT -m conntrack --ctstate NEW
        raw OUTPUT -m connmark --mark 0x0
        raw OUTPUT -m connmark ! --mark 0x1
        mangle OUTPUT -m conntrack --ctstate NEW -m connmark --mark 0x0
        """, "outbound tcp 10.0.0.5:80", ["raw OUTPUT 1, mangle OUTPUT 1"], "direct"),
    Small("a zone gives it a template, which is new", """
        raw OUTPUT -j CT --zone 1
        raw OUTPUT -m conntrack --ctstate INVALID
        raw OUTPUT -m conntrack --ctstate NEW
        """, "outbound tcp 10.0.0.5:80", ["raw OUTPUT 1, raw OUTPUT 3"], "direct"),
    Small("on the second leg it is tracked from the start", """
        raw PREROUTING -m conntrack --ctstate INVALID
        raw PREROUTING -m conntrack --ctstate NEW
        """, "outbound tcp 127.0.0.1:80", ["", "raw PREROUTING 2"], "direct"),
    Small("a redirected connection is new, and translated", """
        nat OUTPUT -p tcp -j REDIRECT --to-ports 1
        filter OUTPUT -m conntrack --ctstate NEW
        filter OUTPUT -m conntrack --ctstate DNAT
        filter OUTPUT -m conntrack ! --ctstate DNAT
        raw PREROUTING -m conntrack --ctstate DNAT
        """, "outbound tcp 10.0.0.5:80",
          ["nat OUTPUT 1, filter OUTPUT 1, filter OUTPUT 2", "raw PREROUTING 1"], "redirect 1"),
    Small("one that changes nothing is not", """
        nat OUTPUT -p tcp -j REDIRECT --to-ports 80
        filter OUTPUT -m conntrack --ctstate DNAT
        """, "outbound tcp 127.0.0.1:80", ["nat OUTPUT 1", ""], "redirect 80"),
    Small("an invalid packet has no connection", """
        mangle PREROUTING -m conntrack --ctstate INVALID -m connmark ! --mark 0x1
        mangle PREROUTING -m conntrack --ctstate INVALID -j DROP
        """, "inbound tcp 10.1.2.3:80", ["mangle PREROUTING 2"], "drop", {"ctstate": "INVALID"}),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", [*SMALL, *INTERFACES, *MARKS, *OWNERS, *TRACKING], ids=lambda case: case.what.replace(" ", "-")
)
def test_the_kernels_ways(case: Small) -> None:
    tracer = tracer_of(rules_of(case.rules), frozenset([0x539]))

    traced = tracer.trace(packet_of(case.packet, **case.fields))

    assert way_of(traced) == case.way
    assert outcome_of(traced.delivered) == case.expected


def test_ipv6_is_redirected_to_its_own_loopback() -> None:
    rules = rules_of("nat OUTPUT -p tcp -j REDIRECT --to-ports 1\nmangle INPUT -d ::1/128 -j DROP", Family.IPV6)

    assert tracer_of(rules).trace(packet_of("outbound tcp [fd00::5]:80")).delivered.kind is Kind.DROP


@pytest.mark.parametrize("protocol", ["6", "tcp", "TCP"])
def test_a_protocol_has_many_names(protocol: str) -> None:
    rules = rules_of(f"nat OUTPUT -p {protocol} -j REDIRECT")

    assert way_of(tracer_of(rules).trace(packet_of("outbound tcp 10.0.0.5:80"))) == ["nat OUTPUT 1", ""]


@pytest.mark.parametrize(
    ("what", "packet", "fields", "decided"),
    [
        ("the redirection, not what lets it pass behind it", "outbound tcp 10.0.0.5:80", {}, "nat ISTIO_REDIRECT 1"),
        ("the rule of nat that lets it pass", "outbound tcp 10.0.0.5:80", {"uid": 1337}, "nat ISTIO_OUTPUT 4"),
        ("what drops it, wherever", "inbound tcp 10.1.2.3:9", {}, "filter INPUT 1"),
    ],
)
def test_which_rule_decides(what: str, packet: str, fields: dict[str, object], decided: str) -> None:
    text = "filter OUTPUT -j ACCEPT\nfilter INPUT -p tcp -m tcp --dport 15006 -m conntrack --ctstate DNAT -j DROP"
    sidecar, others = sidecar_rules(INJECTED), rules_of(text)
    rules = type(sidecar)(Family.IPV4, {**others.tables, **sidecar.tables})

    hop = tracer_of(rules).trace(packet_of(packet, **fields)).delivered_by

    assert isinstance(hop, Hop)
    assert place_of(hop) == decided, what


@pytest.mark.parametrize(
    ("packet", "fields", "assumed", "depends"),
    [
        ("outbound tcp 10.0.0.5:443", {}, ["uid", "gid", "mark", "sport"], ("uid", "gid")),
        ("outbound tcp 10.0.0.5:443", {"uid": 1337}, ["gid", "sport"], ()),
        ("outbound udp 10.0.0.5:443", {}, ["uid", "gid", "interface"], ()),
        ("inbound tcp 10.1.2.3:80", {}, ["dport", "mark", "interface"], ("dport",)),
    ],
)
def test_what_the_outcome_depends_on(
    packet: str, fields: dict[str, object], assumed: list[str], depends: tuple[str, ...]
) -> None:
    netfilter = netfilter_of(sidecar_rules(INJECTED))

    assert depends_on(netfilter, Host(), packet_of(packet, **fields), assumed) == depends


def test_values_count_together_not_one_at_a_time() -> None:
    netfilter = netfilter_of(rules_of("filter OUTPUT -p tcp -m owner --uid-owner 5 --gid-owner 5 -j DROP"))

    assert depends_on(netfilter, Host(), packet_of("outbound tcp 10.0.0.5:80"), ["uid", "gid"]) == ("uid", "gid")


def test_what_is_evaluated_behind_a_redirection_counts_as_well() -> None:
    rules = rules_of("""
        nat OUTPUT -p tcp -j REDIRECT --to-ports 15001
        filter OUTPUT -p tcp -m tcp --dport 15001 -m owner --uid-owner 5 -j DROP
        filter OUTPUT -p tcp -m tcp --dport 80 -m owner --gid-owner 5 -j DROP
        """)

    assert depends_on(netfilter_of(rules), Host(), packet_of("outbound tcp 10.0.0.5:80"), ["uid", "gid"]) == ("uid",)


@pytest.mark.parametrize(("more", "looks"), [("", False), (" --drop-invalid", True)])
def test_whether_rules_look_for_packets_of_no_connection(more: str, looks: bool) -> None:
    assert looks_for_invalid(netfilter_of(sidecar_rules(INJECTED + more))) is looks
