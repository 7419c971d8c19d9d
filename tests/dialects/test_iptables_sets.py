"""Lookups in ipsets, as rules of iptables name them."""

from __future__ import annotations

import pytest

from istio_init.dialects.iptables.ipset import Element, IpSetError, parse_ipset_save
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.names import number_of
from istio_init.netfilter.rules import (
    AnyOf,
    AssignFrom,
    Cause,
    Elements,
    Forget,
    Key,
    Lookup,
    Never,
    Note,
    Openness,
    Undecided,
)

from .evaluating import Facts, holds, rule

SETS = """\
create net hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x6c071202
add net 10.1.1.0/24
add net 10.0.0.0/8
add net 10.1.0.0/16 nomatch
create netport hash:net,port family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0xc0088dd9
add netport 10.2.0.0/16,tcp:80
add netport 10.2.0.0/16,icmp:echo-request
add netport 10.1.0.0/16,udp:9 nomatch
add netport 10.2.0.0/16,vrrp:0
add netport 10.0.0.0/8,udp:9
add netport 10.2.0.0/16,tcp:81
create ip hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1
add ip 10.0.0.1
add ip 10.0.0.2
create ip24 hash:ip family inet hashsize 1024 maxelem 65536 netmask 24 comment skbinfo bucketsize 12 initval 0x0
add ip24 10.3.3.0 comment "a b" skbmark 0x10/0xff
create marks hash:ip family inet skbinfo
add marks 10.0.0.1 skbmark 0x10
add marks 10.0.0.2
create expiring hash:ip family inet hashsize 1024 maxelem 65536 timeout 300 bucketsize 12 initval 0xdd7d3341
add expiring 10.4.4.4 timeout 299
create leaving hash:ip family inet hashsize 1024 maxelem 65536 timeout 300 bucketsize 12 initval 0xdd7d3341
add leaving 10.4.4.4 timeout 9
create ports bitmap:port range 0-1024
add ports 9
add ports 80
create range bitmap:ip range 10.0.0.0-10.0.255.255
add range 10.0.0.5
create macs hash:mac hashsize 1024
add macs 00:11:22:33:44:55
create interfaces hash:net,iface family inet
add interfaces 10.1.0.0/16,et wildcard
add interfaces 10.0.0.0/8,lo
create pairs hash:net,net family inet
add pairs 10.0.0.0/8,10.2.0.0/16
create triples hash:ip,port,ip family inet hashsize 1024
add triples 10.0.0.1,tcp:80,10.0.0.2
create marked hash:ip,mark family inet markmask 0x000000ff
add marked 10.0.0.1,0x00000023
create empty hash:ip family inet
create six hash:ip,port family inet6
add six fd00::1,ipv6-icmp:echo-request
add six fd00::1,tcp:80
create list list:set size 8
add list net
add list ports
"""
A, B = 0x0A000001, 0x0A000002
TCP: Facts = {Field.PROTOCOL: 6, Field.SPORT: 1000, Field.DPORT: 80}
UDP: Facts = {Field.PROTOCOL: 17, Field.SPORT: 1000, Field.DPORT: 9}
PING: Facts = {Field.PROTOCOL: 1, Field.ICMP_TYPE: 8, Field.ICMP_CODE: 0}
VRRP: Facts = {Field.PROTOCOL: 112}


def to(address: int, more: Facts | None = None) -> Facts:
    return {Field.SOURCE: A, Field.DESTINATION: address, **(more or {})}


def test_a_save_is_read_with_extensions() -> None:
    sets = parse_ipset_save("# a comment\n\n" + SETS)

    assert sets["ip24"].elements == (Element(("10.3.3.0",), (("comment", '"a b"'), ("skbmark", "0x10/0xff"))),)
    assert sets["ip24"].option("netmask") == "24"
    assert sets["triples"].dimensions == ("ip", "port", "ip")
    assert [each.extension("nomatch") for each in sets["net"].elements] == [None, None, ""]


@pytest.mark.parametrize("line", ["what", "add missing 10.0.0.1", "create x"])
def test_a_line_of_no_known_form_is_refused(line: str) -> None:
    with pytest.raises(IpSetError, match="line 2"):
        parse_ipset_save(f"create s hash:ip family inet\n{line}\n")


def test_a_set_of_one_field_is_one_box() -> None:
    assert rule("-m set --match-set ip dst", sets=SETS).body == (
        Lookup((Key(Field.DESTINATION),), Elements("ip", ((((A, B),),),))),
    )


@pytest.mark.parametrize(
    ("words", "facts", "expected"),
    [
        ("net dst", to(0x0A000001), True),
        ("net dst", to(0x0A010001), False),
        ("net dst", to(0x0A010101), True),
        ("net src", to(0x01010101), True),
        ("netport dst,dst", to(0x0A000001, UDP), True),
        ("netport dst,dst", to(0x0A010101, UDP), False),
        ("netport dst,dst", to(0x0A020001, TCP), True),
        ("netport dst,src", to(0x0A020001, TCP), False),
        ("netport dst,dst", to(0x0A020001, PING), True),
        ("netport dst,dst", to(0x0A020001, VRRP), True),
        ("netport dst", to(0x0A020001, TCP), False),
        ("ip24 dst", to(0x0A030309), True),
        ("ip24 dst", to(0x0A030409), False),
        ("ports dst", UDP, True),
        ("ports dst", {**UDP, Field.PROTOCOL: 132}, False),
        ("ports dst", PING, False),
        ("range dst", to(0x0A000005), True),
        ("interfaces dst,src", to(0x0A000001, {Field.IN_INTERFACE: number_of("lo")}), True),
        ("interfaces dst,src", to(0x0A010001, {Field.IN_INTERFACE: number_of("eth0")}), True),
        ("interfaces dst,src", to(0x0A000001, {Field.IN_INTERFACE: number_of("eth0")}), False),
        ("interfaces dst,src", to(0x0A000001, {Field.IN_INTERFACE: 0}), False),
        ("pairs src,dst", to(0x0A020001), True),
        ("pairs src,dst", to(0x0A030001), False),
        ("triples src,dst,dst", to(B, TCP), True),
        ("triples src,dst,dst", to(A, TCP), False),
        ("marked src,src", to(B, {Field.MARK: 0x123}), True),
        ("marked src,src", to(B, {Field.MARK: 0x124}), False),
        ("six dst,dst", to(1, TCP), False),
        ("empty dst", to(A), False),
        ("list dst", to(0x0A000001, TCP), True),
        ("list dst", to(0x0B000001, TCP), True),
        ("list dst", to(0x0B000001, {**TCP, Field.DPORT: 81}), False),
    ],
)
def test_a_packet_is_in_a_set_or_not(words: str, facts: Facts, expected: bool) -> None:
    assert holds(rule(f"-m set --match-set {words}", sets=SETS).body, facts) is expected
    assert holds(rule(f"-m set ! --match-set {words}", sets=SETS).body, facts) is not expected


def test_sets_of_ipv6_hold_for_ipv6_alone() -> None:
    statements = rule("-m set --match-set six dst,dst", sets=SETS, family=Family.IPV6).body
    found = {Field.DESTINATION: (0xFD << 120) + 1}

    assert holds(statements, {**found, **TCP})
    assert holds(statements, {**found, Field.PROTOCOL: 58, Field.ICMP_TYPE: 128, Field.ICMP_CODE: 0})
    assert rule("-m set --match-set ip dst", sets=SETS, family=Family.IPV6).body == (Never(),)
    assert rule("-m set ! --match-set ip dst", sets=SETS, family=Family.IPV6).body == ()


@pytest.mark.parametrize(
    ("words", "openness"),
    [
        ("--match-set missing src", Openness.NOT_GIVEN),
        ("--match-set macs src", Openness.NOT_MODELLED),
        ("--match-set net dst --return-nomatch", Openness.NOT_MODELLED),
        ("--match-set ip dst --packets-gt 5", Openness.NOT_MODELLED),
    ],
)
def test_what_cannot_be_looked_up_is_undecided(words: str, openness: Openness) -> None:
    assert rule(f"-m set {words}", sets=SETS).body == (Undecided(Cause(openness, f"-m set {words}")),)


@pytest.mark.parametrize(
    ("name", "others", "complete"),
    [
        ("ip", "", True),
        ("expiring", "", True),
        ("leaving", "", False),
        ("ip", "-A PREROUTING -j SET --add-set ip src", False),
        ("ip", "-A PREROUTING -j SET --add-set net src", True),
        ("ip", "-A PREROUTING -j SET --del-set ip src", False),
    ],
)
def test_a_set_that_changes_is_not_complete(name: str, others: str, complete: bool) -> None:
    [lookup] = rule(f"-m set --match-set {name} dst", sets=SETS, others=others).body

    assert isinstance(lookup, Lookup) and lookup.elements.is_complete is complete


def test_a_list_is_any_of_its_sets() -> None:
    [found] = rule("-m set --match-set list dst", sets=SETS).body

    assert isinstance(found, AnyOf) and len(found.options) == 2


def test_a_mark_is_taken_from_a_set() -> None:
    words = "-j SET --map-set {} dst --map-mark"

    assert rule(words.format("marks"), sets=SETS).body == (
        AssignFrom(Field.MARK, (Key(Field.DESTINATION),), (((((A, A),),), 0x10),), True, True),
    )
    assert rule(words.format("ip24"), sets=SETS).body == (
        Forget(Field.MARK, Cause(Openness.NOT_MODELLED, words.format("ip24"))),
    )
    assert rule(words.format("missing"), sets=SETS).body == (
        Forget(Field.MARK, Cause(Openness.NOT_GIVEN, words.format("missing"))),
    )
    assert rule("-j SET --add-set ip src --exist", sets=SETS).body == (Note("-j SET --add-set ip src --exist"),)
