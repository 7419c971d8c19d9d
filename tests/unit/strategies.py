"""Random rules, configurations and namespaces, and the words in which tests state rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from string import ascii_letters, digits
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.matches import (
    CTSTATES,
    Address,
    Comment,
    Connmark,
    Ctstate,
    IdRange,
    Interface,
    IPNetwork,
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
from istio_init.dialects.iptables.rules import Chain, Entry, Rule, RuleSet
from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.dialects.iptables.targets import (
    VERDICTS,
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
from istio_init.netfilter.family import MAX_MARK, Family

T = TypeVar("T")
Texts = Mapping[Table, Mapping[str, Sequence[str]]]
"""The texts of rules by table and chain, as iptables-save prints them without ``-A CHAIN``."""


def rule_set(family: Family, texts: Texts) -> RuleSet:
    """A rule set as a backend would read it: used tables have all their built-in chains."""
    tables: dict[Table, dict[str, Chain]] = {}
    for table, chains in texts.items():
        made = {name: Chain(name, policy="ACCEPT") for name in BUILTIN_CHAINS[table]}
        for name, lines in chains.items():
            entries = tuple([Entry(parse_rule(line), text=line) for line in lines])
            made[name] = made.get(name, Chain(name)).replace(entries=entries)
        tables[table] = made
    return RuleSet(family, tables)


def texts_of(rules: RuleSet) -> dict[Table, dict[str, list[str]]]:
    """The texts of a rule set's rules; chains and tables without rules are left out, but for chains that users made."""
    found: dict[Table, dict[str, list[str]]] = {}
    for table, chain in rules.chains():
        if chain.entries or chain.name not in BUILTIN_CHAINS[table]:
            found.setdefault(table, {})[chain.name] = [entry_text(entry) for entry in chain.entries]
    return found


def tuples_of(items: SearchStrategy[T], *, least: int = 0, most: int = 3) -> SearchStrategy[tuple[T, ...]]:
    """Tuples of up to a few items."""
    return st.lists(items, min_size=least, max_size=most).map(tuple)


# Rules

numbers32 = st.integers(0, MAX_MARK)
port_numbers = st.integers(0, 65535)
port_ranges = st.tuples(port_numbers, port_numbers).map(lambda ends: PortRange(min(ends), max(ends)))
id_ranges = st.tuples(numbers32, numbers32).map(lambda ends: IdRange(min(ends), max(ends)))
id_range_choices = st.one_of(st.integers(0, MAX_MARK).map(lambda number: IdRange(number, number)), id_ranges)
interface_names = st.text(ascii_letters + digits + "._-@#*;$", min_size=1, max_size=14)
chain_names = st.text(ascii_letters + digits + "_-.:", min_size=1, max_size=20).filter(
    lambda name: not name.startswith("-") and not name.isupper()
)


def quote(text: str) -> str:
    """A text as iptables-save quotes it (xtables_save_string)."""
    escaped = "".join(f"\\{character}" if character in "\"\\'" else character for character in text)
    return f'"{escaped}"'


printable = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs")), min_size=1)
"""Words without white space and control characters."""

quoted_words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"))).map(quote)
"""What stands in quotes may hold spaces, quotes and backslashes."""

bare_words = printable.filter(lambda word: not word.startswith('"') and word not in ("-m", "-j", "-g"))
_opaque = st.one_of(
    st.tuples(bare_words),
    st.tuples(st.just("--flag"), quoted_words),
    st.tuples(st.sampled_from(["!", "--flag", "-x", "10:20"])),
)


def opaque_words(most: int = 3) -> SearchStrategy[tuple[str, ...]]:
    """Words of what is not known; the value of an option may be quoted."""
    return st.lists(_opaque, max_size=most).map(lambda groups: tuple(word for group in groups for word in group))


@st.composite
def networks(draw: st.DrawFn, family: Family | None = None) -> IPNetwork:
    """Networks of a family, or of either."""
    if draw(st.booleans()) if family is None else family is Family.IPV4:
        return IPv4Network((draw(numbers32), draw(st.integers(1, 32))), strict=False)
    return IPv6Network((draw(st.integers(0, 2**128 - 1)), draw(st.integers(1, 128))), strict=False)


port_tests = st.builds(PortTest, port_ranges, st.booleans()).filter(
    lambda test: (test.ports.first, test.ports.last, test.negated) != (0, 65535, False)
)


@st.composite
def owners(draw: st.DrawFn) -> Owner:
    """Owner matches; a negation needs something to negate."""
    uid, gid = draw(st.none() | id_range_choices), draw(st.none() | id_range_choices)
    return Owner(uid, uid is not None and draw(st.booleans()), gid, gid is not None and draw(st.booleans()))


def _in_order(states: frozenset[str]) -> tuple[str, ...]:
    return tuple([state for state in CTSTATES if state in states])


states = st.frozensets(st.sampled_from(CTSTATES), min_size=1).map(_in_order)
opaque_matches = st.builds(
    OpaqueMatch,
    st.sampled_from(["addrtype", "statistic", "string", "x", "icmp"]),
    opaque_words(4),
)
matches: SearchStrategy[Match] = st.one_of(
    st.builds(PortMatch, st.sampled_from(["tcp", "udp"]), st.none() | port_tests, st.none() | port_tests),
    st.builds(
        Multiport,
        st.sampled_from(["source", "destination", "either"]),
        tuples_of(port_ranges, least=1, most=15),
        st.booleans(),
    ),
    owners(),
    st.builds(Mark, numbers32, numbers32, st.booleans()),
    st.builds(Connmark, numbers32, numbers32, st.booleans()),
    st.builds(Ctstate, states, st.booleans()),
    st.builds(Comment, quoted_words | st.text(ascii_letters, min_size=1)),
    opaque_matches,
)
flags = st.sampled_from([OpaqueMatch(None, ("-f",)), OpaqueMatch(None, ("!", "-f"))])

targets: SearchStrategy[Target] = st.one_of(
    st.sampled_from(VERDICTS).map(Verdict),
    st.builds(Jump, chain_names),
    st.builds(Goto, chain_names),
    st.builds(Redirect, st.none() | port_ranges),
    st.builds(Tproxy, port_numbers, st.ip_addresses(), numbers32, numbers32),
    st.builds(SetMark, numbers32, numbers32),
    st.builds(SetConnmark, numbers32, numbers32),
    st.builds(SaveMark, numbers32, numbers32),
    st.builds(RestoreMark, numbers32, numbers32),
    st.builds(CtZone, st.integers(0, 65535)),
    st.builds(OpaqueTarget, st.sampled_from(["LOG", "MASQUERADE", "DNAT"]), opaque_words()),
)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any rule in its normal form, of things known and unknown."""
    return Rule(
        source=draw(st.none() | st.builds(Address, networks(), st.booleans())),
        destination=draw(st.none() | st.builds(Address, networks(), st.booleans())),
        in_interface=draw(st.none() | st.builds(Interface, interface_names, st.booleans())),
        out_interface=draw(st.none() | st.builds(Interface, interface_names, st.booleans())),
        protocol=draw(st.none() | st.builds(Protocol, st.sampled_from(["tcp", "udp", "icmp", "132"]), st.booleans())),
        matches=(*draw(tuples_of(flags, most=1)), *draw(tuples_of(matches))),
        target=draw(st.none() | targets),
    )


# Configurations. Small pools, so that values of different options often collide.

few_ports = st.sampled_from(
    [PortRange(80, 80), PortRange(53, 53), PortRange(15008, 15008), PortRange(8000, 8090), PortRange(0, 65535)]
)
few_ids = st.sampled_from([IdRange(0, 0), IdRange(1337, 1337), IdRange(1000, 1000), IdRange(1000, 2000)])
few_ranges: SearchStrategy[IPNetwork] = st.sampled_from(
    [
        IPv4Network("10.0.0.0/8"),
        IPv4Network("127.0.0.0/8"),
        IPv4Network("0.0.0.0/0"),
        IPv4Network("127.0.0.1/32"),
        IPv6Network("fd00::/8"),
        IPv6Network("::1/128"),
        IPv6Network("::/0"),
    ]
)
few_interfaces = st.sampled_from(["eth0", "eth+", "net1", "lo"])
single_ports = st.sampled_from([53, 80, 15001, 15006, 15008])
everything = st.just(ALL)

configs: SearchStrategy[Config] = st.builds(
    Config,
    proxy_uids=tuples_of(few_ids, least=1, most=2),
    proxy_gids=tuples_of(few_ids, least=1, most=2),
    proxy_port=single_ports,
    inbound_capture_port=single_ports,
    inbound_tunnel_port=single_ports,
    mode=st.sampled_from(InterceptionMode),
    inbound_ports=everything | tuples_of(few_ports),
    inbound_exclude_ports=tuples_of(few_ports),
    outbound_ranges=everything | tuples_of(few_ranges),
    outbound_exclude_ranges=tuples_of(few_ranges),
    outbound_ports=tuples_of(few_ports),
    outbound_exclude_ports=tuples_of(few_ports),
    exclude_interfaces=tuples_of(few_interfaces, most=2),
    virtual_interfaces=tuples_of(few_interfaces, most=2),
    owner_groups=everything | tuples_of(few_ids, least=1),
    owner_groups_exclude=tuples_of(few_ids),
    tproxy_mark=st.sampled_from([1337, 1338, 1]),
    tproxy_table=st.sampled_from([133, 134]),
    redirect_dns=st.booleans(),
    capture_all_dns=st.booleans(),
    drop_invalid=st.booleans(),
    loopback_cidr=st.sampled_from([IPv4Network("127.0.0.1/32"), IPv4Network("127.0.0.0/8")]),
)
surroundings: SearchStrategy[Surroundings] = st.builds(
    Surroundings,
    ipv6=st.booleans(),
    dns_servers=tuples_of(
        st.sampled_from([IPv4Address("10.96.0.10"), IPv4Address("1.1.1.1"), IPv6Address("fd00::a")]), most=2
    ),
)


# Live namespaces

FOREIGN: Mapping[tuple[Table, str], Sequence[str]] = {
    (Table.NAT, "PREROUTING"): (
        '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-i cni0 -j ACCEPT",
        "-m addrtype --dst-type LOCAL -j KUBE-SERVICES",
        "-p tcp -m tcp --dport 22 -j RETURN",
    ),
    (Table.NAT, "OUTPUT"): (
        "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j KUBE-SERVICES",
        "-p tcp -m tcp --dport 53 -j RETURN",
        "-p udp -m udp --dport 5353 -j REDIRECT --to-ports 5353",
    ),
    (Table.NAT, "POSTROUTING"): ("-o eth0 -j MASQUERADE", "-s 10.0.0.0/8 -j MASQUERADE"),
    (Table.MANGLE, "PREROUTING"): ("-p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffffffff", "-i lo -j ACCEPT"),
    (Table.MANGLE, "OUTPUT"): ("-m owner --uid-owner 12 -j DSCP --set-dscp 0x0a",),
    (Table.RAW, "PREROUTING"): ("-p udp -m udp --dport 4789 -j NOTRACK",),
    (Table.RAW, "OUTPUT"): ("-p udp -m udp --dport 4789 -j NOTRACK", "-o lo -j NOTRACK"),
    (Table.FILTER, "INPUT"): ("-i lo -j ACCEPT", "-p tcp -j RETURN", '-j LOG --log-prefix "in: "'),
    (Table.FILTER, "OUTPUT"): ("-j ACCEPT",),
}
"""Rules of others: their shapes are in no release's catalogue."""

OLDER: Texts = {
    Table.NAT: {
        "OUTPUT": (
            "-p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN",
            "-d 10.96.0.10/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
            "-p tcp -j ISTIO_OUTPUT",
        ),
        "ISTIO_OUTPUT": ("-o lo -m owner ! --uid-owner 1337 -j RETURN", "-j RETURN"),
    },
    Table.MANGLE: {
        "PREROUTING": ("-m conntrack --ctstate INVALID -j DROP", "-p tcp -j ISTIO_INBOUND"),
        "ISTIO_INBOUND": ("-p tcp -m tcp --dport 15008 -j RETURN",),
    },
    Table.RAW: {
        "OUTPUT": ("-p udp -m udp --sport 15053 -m owner --gid-owner 1337 -j CT --zone 2", "-j ISTIO_OUTPUT"),
        "ISTIO_OUTPUT": (),
    },
}
"""What some older release left behind."""


class Planted:
    """A live rule set, with the texts of the rules in it that are not ours."""

    def __init__(self, live: RuleSet, foreign: dict[Table, dict[str, list[str]]]) -> None:
        self.live = live
        self.foreign = foreign

    def __repr__(self) -> str:
        return f"Planted({texts_of(self.live)}, foreign={self.foreign})"


def _interleave(draw: st.DrawFn, ours: list[str], foreign: list[str]) -> list[str]:
    mixed = list(ours)
    places = sorted(draw(st.lists(st.integers(0, len(ours)), min_size=len(foreign), max_size=len(foreign))))
    for shift, (place, text) in enumerate(zip(places, foreign, strict=True)):
        mixed.insert(place + shift, text)
    return mixed


def _damaged(draw: st.DrawFn, texts: list[str]) -> list[str]:
    """The rules in some disorder: some missing, some twice, some moved."""
    if not texts or draw(st.integers(0, 2)) == 0:
        return texts
    picked = draw(st.lists(st.sampled_from(texts), max_size=len(texts) + 2))
    return picked if draw(st.booleans()) else [text for text in texts if text in picked]


@st.composite
def planted(draw: st.DrawFn, family: Family, ours: RuleSet | None) -> Planted:
    """A namespace in which rules of ours, whole or damaged, stand among those of others."""
    texts: dict[Table, dict[str, list[str]]] = {}
    if ours is not None:
        for table, chain in ours.chains():
            texts.setdefault(table, {})[chain.name] = _damaged(draw, [entry_text(entry) for entry in chain.entries])
    if draw(st.booleans()):
        for table, chains in OLDER.items():
            for name, lines in chains.items():
                kept = texts.setdefault(table, {}).setdefault(name, [])
                kept += [line for line in lines if line not in kept]
    foreign: dict[Table, dict[str, list[str]]] = {}
    for (table, name), lines in FOREIGN.items():
        others = draw(st.lists(st.sampled_from(lines), max_size=3))
        if others:
            chains = texts.setdefault(table, {})
            chains[name] = _interleave(draw, chains.get(name, []), others)
            foreign.setdefault(table, {})[name] = others
    for table in texts:
        names = set(texts[table]) | {name for each, name in FOREIGN if each is table}
        if any("KUBE-SERVICES" in line for name in names for line in texts[table].get(name, ())):
            service = ["-d 10.96.0.1/32 -p tcp -j RETURN", "-j ACCEPT"]
            texts[table]["KUBE-SERVICES"] = service
            foreign.setdefault(table, {})["KUBE-SERVICES"] = service
    return Planted(rule_set(family, texts), foreign)
