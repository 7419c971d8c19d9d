"""When one rule takes every packet that another could match, and when a rule sees no packet any more."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from unit.strategies import rule_set

from istio_init.dialects.iptables.matches import (
    CTSTATES,
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
from istio_init.dialects.iptables.rules import Chain, Entry, Rule
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import RETURN
from istio_init.inspector.cover import covers, ends
from istio_init.inspector.shadow import shadows
from istio_init.netfilter.family import Family

law = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=250,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Packet(NamedTuple):
    """All that rules can ask about a packet; ``owner`` is None for one without a socket."""

    source: IPv4Address
    destination: IPv4Address
    in_interface: str
    out_interface: str
    protocol: str
    source_port: int
    destination_port: int
    owner: tuple[int, int] | None
    mark: int
    connmark: int
    states: frozenset[str]
    unknown: frozenset[OpaqueMatch]
    """The tests of no known kind that hold for it."""


def matches(rule: Rule, packet: Packet) -> bool:
    """Whether a packet passes all tests of a rule, as the kernel decides it."""
    return (
        _address(rule.source, packet.source)
        and _address(rule.destination, packet.destination)
        and _interface(rule.in_interface, packet.in_interface)
        and _interface(rule.out_interface, packet.out_interface)
        and (rule.protocol is None or (rule.protocol.name == packet.protocol) is not rule.protocol.negated)
        and all(_match(match, packet) for match in rule.matches)
    )


def _address(test: Address | None, address: IPv4Address) -> bool:
    return test is None or (address in test.network) is not test.negated


def _interface(test: Interface | None, name: str) -> bool:
    if test is None:
        return True
    fits = name.startswith(test.name[:-1]) if test.name.endswith("+") else name == test.name
    return fits is not test.negated


def _port(test: PortTest | None, port: int) -> bool:
    return test is None or (test.ports.first <= port <= test.ports.last) is not test.negated


def _match(match: Match, packet: Packet) -> bool:
    match match:
        case PortMatch(protocol, source, destination):
            has_ports = packet.protocol == protocol
            return has_ports and _port(source, packet.source_port) and _port(destination, packet.destination_port)
        case Multiport(side, ports, negated):
            asked = {
                "source": [packet.source_port],
                "destination": [packet.destination_port],
                "either": [packet.source_port, packet.destination_port],
            }[side]
            found = any(each.first <= port <= each.last for port in asked for each in ports)
            return packet.protocol in ("tcp", "udp") and found is not negated
        case Owner():
            return _owner(match, packet.owner)
        case Mark(value, mask, negated):
            return (packet.mark & mask == value) is not negated
        case Connmark(value, mask, negated):
            return (packet.connmark & mask == value) is not negated
        case Ctstate(states, negated):
            return bool(packet.states & set(states)) is not negated
        case Comment():
            return True
        case OpaqueMatch():
            return match in packet.unknown


def _owner(test: Owner, owner: tuple[int, int] | None) -> bool:
    """xt_owner's owner_mt: a packet without a socket passes where all that is asked is negated."""
    asked = [(test.uid, test.uid_negated, 0), (test.gid, test.gid_negated, 1)]
    given = [(ids, negated, index) for ids, negated, index in asked if ids is not None]
    if owner is None:
        return all(negated for _, negated, _ in given)
    return all((ids.first <= owner[index] <= ids.last) is not negated for ids, negated, index in given)


# Few values each, so that tests often have to do with each other.

networks = st.sampled_from(
    [IPv4Network(text) for text in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "127.0.0.1/32", "0.0.0.0/0")]
)
addresses = st.none() | st.builds(Address, networks, st.booleans())
interfaces = st.none() | st.builds(Interface, st.sampled_from(["lo", "eth0", "eth+", "e+"]), st.booleans())
port_ranges = st.sampled_from([PortRange(80, 80), PortRange(53, 53), PortRange(50, 100), PortRange(0, 65535)])
port_tests = st.none() | st.builds(PortTest, port_ranges, st.booleans())
ids = st.none() | st.sampled_from([IdRange(1337, 1337), IdRange(1000, 2000), IdRange(0, 0)])
marks = st.tuples(st.sampled_from([0, 1, 0x111, 0x539]), st.sampled_from([0xFFFFFFFF, 0xFFF, 1]))
states = st.frozensets(st.sampled_from(CTSTATES), min_size=1)
opaque = st.builds(OpaqueMatch, st.sampled_from(["string", "addrtype"]), st.tuples(st.sampled_from(["--x", "--y"])))


def owner(uid: IdRange | None, gid: IdRange | None, uid_negated: bool, gid_negated: bool) -> Owner:
    """What is not asked is not negated."""
    return Owner(uid, uid is not None and uid_negated, gid, gid is not None and gid_negated)


tests = st.one_of(
    st.builds(PortMatch, st.sampled_from(["tcp", "udp"]), port_tests, port_tests),
    st.builds(
        Multiport,
        st.sampled_from(["source", "destination", "either"]),
        st.lists(port_ranges, min_size=1, max_size=2).map(tuple),
        st.booleans(),
    ),
    st.builds(owner, ids, ids, st.booleans(), st.booleans()),
    st.builds(lambda pair, negated: Mark(pair[0] & pair[1], pair[1], negated), marks, st.booleans()),
    st.builds(lambda pair, negated: Connmark(pair[0] & pair[1], pair[1], negated), marks, st.booleans()),
    st.builds(lambda found, negated: Ctstate(tuple(sorted(found)), negated), states, st.booleans()),
    st.just(Comment('"by hand"')),
    opaque,
)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Rules as iptables accepts them: a match of ports stands with its protocol."""
    found = tuple(draw(st.lists(tests, max_size=2)))
    protocols = [match.protocol for match in found if isinstance(match, PortMatch)]
    protocol = (
        Protocol(protocols[0])
        if protocols
        else draw(st.none() | st.builds(Protocol, st.sampled_from(["tcp", "udp"]), st.booleans()))
    )
    return Rule(
        source=draw(st.none() | addresses),
        destination=draw(addresses),
        in_interface=draw(st.none() | interfaces),
        out_interface=draw(interfaces),
        protocol=protocol,
        matches=tuple(match for match in found if not isinstance(match, PortMatch) or match.protocol in protocols[:1]),
        target=RETURN,
    )


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Rule, Rule]:
    """Two rules; often the second asks for all that the first does, and more."""
    one, other = draw(rules()), draw(rules())
    if draw(st.booleans()):
        return one, other
    kept = draw(st.lists(st.sampled_from(["source", "destination", "out_interface", "protocol", "matches"])))
    fields = {name: getattr(other, name) for name in kept}
    return Rule(**fields), other


packets = st.builds(
    Packet,
    *[st.sampled_from([IPv4Address(text) for text in ("10.1.2.3", "10.9.9.9", "127.0.0.1", "8.8.8.8")])] * 2,
    *[st.sampled_from(["lo", "eth0", "eth1", "ens3"])] * 2,
    st.sampled_from(["tcp", "udp", "icmp"]),
    *[st.sampled_from([53, 80, 99, 15008])] * 2,
    st.none() | st.tuples(*[st.sampled_from([0, 1000, 1337, 5000])] * 2),
    *[st.sampled_from([0, 1, 0x111, 0x539, 0x1539])] * 2,
    st.frozensets(st.sampled_from(CTSTATES), min_size=1, max_size=2),
    st.frozensets(opaque, max_size=3),
)


@law
@given(pairs(), st.lists(packets, min_size=8, max_size=12))
def test_what_covers_a_rule_matches_all_its_packets(pair: tuple[Rule, Rule], sent: list[Packet]) -> None:
    earlier, later = pair
    if not covers(earlier, later):
        return
    taken = [packet for packet in sent if matches(later, packet)]
    event("with packets" if taken else "without packets")

    assert [packet for packet in taken if not matches(earlier, packet)] == []


@law
@given(rules())
def test_a_rule_covers_itself_and_a_rule_without_tests_covers_all(rule: Rule) -> None:
    assert covers(rule, rule)
    assert covers(Rule(target=RETURN), rule)


COVERED = [
    ("-j X", "-p tcp -m tcp --dport 80 -j X"),
    ("-d 10.0.0.0/8", "-d 10.1.0.0/16"),
    ("! -d 10.1.0.0/16", "! -d 10.0.0.0/8"),
    ("! -d 127.0.0.1/32", "-d 10.0.0.0/8"),
    ("-o eth+", "-o eth0"),
    ("-i e+", "-i eth+"),
    ("-p tcp", "-p tcp -m tcp --dport 80"),
    ("! -p udp", "-p tcp"),
    ("-p tcp -m tcp", "-p tcp -m tcp --dport 80"),
    ("-p tcp -m tcp --dport 80:90", "-p tcp -m tcp --dport 85"),
    ("-p tcp -m tcp ! --dport 15008", "-p tcp -m tcp --dport 80"),
    ("-p tcp -m tcp ! --dport 80", "-p tcp -m tcp ! --dport 50:100"),
    ("-p tcp -m multiport --dports 80,443", "-p tcp -m tcp --dport 443"),
    ("-p tcp -m multiport ! --dports 53,15008", "-p tcp -m tcp --dport 80"),
    ("-m owner --uid-owner 1000-2000", "-m owner --uid-owner 1337"),
    ("-m owner ! --uid-owner 1337", "-m owner --uid-owner 1000"),
    ("-m conntrack --ctstate RELATED,ESTABLISHED", "-m conntrack --ctstate ESTABLISHED"),
    ("-m mark --mark 0x1/0x1", "-m mark --mark 0x539"),
    ("-m mark ! --mark 0x53a", "-m mark --mark 0x539"),
    ('-m comment --comment "why"', "-p tcp"),
    ("-m string --string x --algo bm", "-p tcp -m string --string x --algo bm"),
]

NOT_COVERED = [
    ("-d 10.1.0.0/16", "-d 10.0.0.0/8"),
    ("-d 10.0.0.0/8", "-p tcp"),
    ("-d 10.0.0.0/8", "! -d 127.0.0.1/32"),
    ("! -d 10.0.0.0/8", "-d 0.0.0.0/1"),
    ("-d fd00::/8", "-d 10.0.0.0/8"),
    ("-o eth0", "-o eth+"),
    ("! -o eth0", "-o lo"),
    ("-p tcp", "-p udp"),
    ("! -p udp", "! -p tcp"),
    ("-p tcp -m tcp --dport 80", "-p udp -m udp --dport 80"),
    ("-p tcp -m tcp --dport 80", "-p tcp -m multiport --dports 80"),
    ("-p tcp -m tcp --sport 80", "-p tcp -m tcp --dport 80"),
    ("-p tcp -m multiport --dports 80", "-p tcp -m tcp ! --dport 81"),
    ("-m owner --uid-owner 1337", "-m owner --gid-owner 1337"),
    ("-m owner ! --uid-owner 1337", "-p tcp"),
    ("-m owner ! --uid-owner 1337", "-m owner ! --uid-owner 0"),
    ("! -d 10.0.0.0/8", "! -d 192.168.0.0/16"),
    ("-p tcp -m tcp ! --dport 80", "-p tcp -m tcp ! --dport 53"),
    ("-m mark ! --mark 0x1", "-m mark ! --mark 0x2"),
    ("-m conntrack --ctstate NEW", "-m conntrack ! --ctstate INVALID"),
    ("-m mark --mark 0x539", "-m mark --mark 0x539/0xfff"),
    ("-m string --string x --algo bm", "-m string --string y --algo bm"),
]


@pytest.mark.parametrize(("earlier", "later"), COVERED)
def test_a_wider_rule_covers_a_narrower_one(earlier: str, later: str) -> None:
    assert covers(parse_rule(earlier), parse_rule(later))


@pytest.mark.parametrize(("earlier", "later"), NOT_COVERED)
def test_a_rule_that_lets_some_packet_through_does_not_cover(earlier: str, later: str) -> None:
    assert not covers(parse_rule(earlier), parse_rule(later))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["-d 10.0.0.0/8 -j RETURN", "-d 10.1.0.0/16 -j RETURN"], 0),
        (["-d 10.0.0.0/8 -j LOG", "-d 10.1.0.0/16 -j RETURN"], None),
        (["-d 10.0.0.0/8", "-d 10.1.0.0/16 -j RETURN"], None),
        (["-d 10.0.0.0/8 -j MARK --set-xmark 0x1/0xffffffff", "-d 10.0.0.0/8 -j RETURN"], None),
        (["-p tcp -j REDIRECT --to-ports 15001", "-p tcp -m tcp --dport 80 -j RETURN"], 0),
        (["-p udp -j RETURN", "-p tcp -j REDIRECT", "-p tcp -m tcp --dport 80 -j RETURN"], 1),
        (["-j ISTIO_REDIRECT", "-p tcp -m tcp --dport 80 -j RETURN"], 0),
        (["-j ISTIO_REDIRECT", "-d 10.0.0.0/8 -j RETURN"], None),
        (["-j COMES_BACK", "-p tcp -j RETURN"], None),
        (["-j NOBODY_KNOWS", "-p tcp -j RETURN"], None),
        (["-g COMES_BACK", "-p tcp -j RETURN"], 0),
        (["-j DEEP", "-p tcp -m tcp --dport 80 -j RETURN"], 0),
        (["-j TOO_CAREFUL", "-p tcp -m tcp --dport 80 -j RETURN"], None),
        (["-j LOOP", "-p tcp -j RETURN"], None),
    ],
)
def test_a_rule_sees_no_packet_behind_one_that_takes_them_all_for_good(lines: list[str], expected: int | None) -> None:
    """A target that lets packets go on takes none; a jump takes those that the called chain gives a verdict."""
    chains = {
        "ISTIO_OUTPUT": lines,
        "ISTIO_REDIRECT": ["-p tcp -j REDIRECT --to-ports 15001"],
        "COMES_BACK": ["-p tcp -m tcp --dport 22 -j RETURN", "-p tcp -j RETURN", "-j ACCEPT"],
        "DEEP": ["-p udp -j LOG", "-j ISTIO_REDIRECT"],
        "TOO_CAREFUL": ["-p udp -j RETURN", "-j ISTIO_REDIRECT"],
        "LOOP": ["-j LOOP"],
    }
    nat = rule_set(Family.IPV4, {Table.NAT: chains}).tables[Table.NAT]

    assert shadows(nat["ISTIO_OUTPUT"], nat).get(len(lines) - 1) == expected


@st.composite
def similar_rules(draw: st.DrawFn) -> list[Rule]:
    """Rules of which many differ in destination, port or a comment alone."""
    found = []
    for rule in draw(st.lists(rules(), min_size=1, max_size=3)):
        for _ in range(draw(st.integers(1, 4))):
            matches = tuple(
                match.replace(destination=draw(port_tests)) if isinstance(match, PortMatch) else match
                for match in rule.matches
            )
            note = draw(st.sampled_from([(), (Comment('"1"'),), (Comment('"2"'),)]))
            found.append(rule.replace(destination=draw(addresses), matches=(*matches, *note)))
    return draw(st.permutations(found))


@law
@given(similar_rules())
def test_the_rules_behind_others_are_found_as_by_comparing_each_with_each(found: list[Rule]) -> None:
    chain = Chain("ISTIO_OUTPUT", tuple(Entry(rule) for rule in found))

    expected = {}
    for index, later in enumerate(found):
        before = [each for each in range(index) if covers(found[each], later) and ends(found[each], later, {})]
        if before:
            expected[index] = before[0]
    event("some are" if expected else "none is")
    assert shadows(chain, {}) == expected


def test_many_rules_that_differ_in_one_value_are_told_apart_at_once() -> None:
    """Each with each, these would be fifty million comparisons."""
    lines = [f"-d 10.{high}.{low}.0/24 -j RETURN" for high in range(40) for low in range(250)]
    nat = rule_set(Family.IPV4, {Table.NAT: {"ISTIO_OUTPUT": [*lines, "-d 10.3.7.9/32 -j RETURN"]}}).tables[Table.NAT]

    assert shadows(nat["ISTIO_OUTPUT"], nat) == {10000: 757}


def test_the_packets_of_the_property_are_real_ones() -> None:
    """The matcher agrees with what is plain."""
    packet = Packet(
        IPv4Address("10.1.2.3"), IPv4Address("8.8.8.8"), "", "lo", "tcp", 4000, 80, (1000, 1000), 0x539, 0,
        frozenset(["NEW"]), frozenset(),
    )  # fmt: skip
    assert ip_address("8.8.8.8") == packet.destination
    assert matches(parse_rule("! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -j RETURN"), packet)
    assert not matches(parse_rule("-o lo -m owner ! --uid-owner 1000 -j RETURN"), packet)
    assert matches(parse_rule("-m mark --mark 0x539/0xfff -m conntrack --ctstate NEW -j RETURN"), packet)
    assert matches(parse_rule("-o lo -m owner ! --uid-owner 1337 -j RETURN"), packet._replace(owner=None))
    assert not matches(parse_rule("-m owner --uid-owner 1337 -j RETURN"), packet._replace(owner=None))
