"""Matches of iptables as tests of the packet's fields."""

from __future__ import annotations

import pytest

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState, CtStatus, Field
from istio_init.netfilter.names import number_of
from istio_init.netfilter.rules import (
    AnyOf,
    Cause,
    Forget,
    Note,
    Openness,
    Statement,
    Test,
    Undecided,
)

from .evaluating import Facts, body, holds

OPEN, NOT_GIVEN, NOT_MODELLED = Openness.OPEN, Openness.NOT_GIVEN, Openness.NOT_MODELLED
ANY_STATE = ((1, 847),)
EXACT: list[tuple[str, tuple[Statement, ...]]] = [
    ("-m tcp", ()),
    ("-m tcp --dport 80", (Test(Field.DPORT, ((80, 80),)),)),
    ("-m tcp ! --sport 80:90", (Test(Field.SPORT, ((80, 90),), None, True),)),
    ("-m udp --sport :90 --dport 5:", (Test(Field.SPORT, ((0, 90),)), Test(Field.DPORT, ((5, 65535),)))),
    ("-m sctp --dport 80", (Test(Field.DPORT, ((80, 80),)),)),
    ("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN", (Test(Field.TCP_FLAGS, ((2, 2),), 0x17),)),
    ("-m tcp ! --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE", (Test(Field.TCP_FLAGS, ((0, 0),), 0x3F, True),)),
    ("-m tcp --syn", (Test(Field.TCP_FLAGS, ((2, 2),), 0x17),)),
    ("-m multiport --dports 80,90:95,81", (Test(Field.DPORT, ((80, 81), (90, 95))),)),
    ("-m multiport ! --sports 80", (Test(Field.SPORT, ((80, 80),), None, True),)),
    (
        "-m multiport --ports 80",
        (AnyOf(((Test(Field.SPORT, ((80, 80),)),), (Test(Field.DPORT, ((80, 80),)),))),),
    ),
    (
        "-m multiport ! --ports 80",
        (Test(Field.SPORT, ((80, 80),), None, True), Test(Field.DPORT, ((80, 80),), None, True)),
    ),
    ("-m icmp --icmp-type any", ()),
    ("-m icmp --icmp-type 8", (Test(Field.ICMP_TYPE, ((8, 8),)),)),
    ("-m icmp --icmp-type 3/1", (Test(Field.ICMP_TYPE, ((3, 3),)), Test(Field.ICMP_CODE, ((1, 1),)))),
    ("-m icmp --icmp-type echo-request", (Test(Field.ICMP_TYPE, ((8, 8),)),)),
    ("-m mark --mark 0x539", (Test(Field.MARK, ((0x539, 0x539),)),)),
    ("-m mark ! --mark 0x539/0xfff", (Test(Field.MARK, ((0x539, 0x539),), 0xFFF, True),)),
    ("-m connmark ! --mark 0x111/0xfff", (Test(Field.CT_MARK, ((0x111, 0x111),), 0xFFF, True),)),
    ("-m length ! --length 5:10", (Test(Field.LENGTH, ((5, 10),), None, True),)),
    ("-m ttl ! --ttl-eq 5", (Test(Field.TTL, ((5, 5),), None, True),)),
    ("-m ttl --ttl-lt 5", (Test(Field.TTL, ((0, 4),)),)),
    ("-m ttl --ttl-gt 5", (Test(Field.TTL, ((6, 255),)),)),
    ("-m dscp --dscp 0x0a", (Test(Field.TOS, ((0x28, 0x28),), 0xFC),)),
    ("-m tos --tos 0x10/0x3f", (Test(Field.TOS, ((0x10, 0x10),), 0x3F),)),
    ("-m ecn --ecn-ip-ect 2", (Test(Field.TOS, ((2, 2),), 3),)),
    ("-m ecn ! --ecn-tcp-cwr", (Test(Field.TCP_FLAGS, ((128, 128),), 128, True),)),
    ("-m iprange ! --src-range 1.1.1.1-1.1.1.5", (Test(Field.SOURCE, ((0x01010101, 0x01010105),), None, True),)),
    ("-m addrtype --dst-type LOCAL", (Test(Field.DESTINATION_TYPE, ((2, 2),)),)),
    (
        "-m addrtype ! --src-type UNICAST,LOCAL --limit-iface-in",
        (Test(Field.SOURCE_TYPE_IN, ((1, 2),), None, True, True),),
    ),
    ("-m socket", (Test(Field.SOCKET_FOUND, ((1, 1),)),)),
    ("-m socket --transparent --nowildcard", (Test(Field.SOCKET_TRANSPARENT_ANY, ((1, 1),)),)),
    (
        "-m socket --transparent --restore-skmark",
        (
            Test(Field.SOCKET_TRANSPARENT, ((1, 1),)),
            Forget(Field.MARK, Cause(NOT_GIVEN, "-m socket --transparent --restore-skmark")),
        ),
    ),
    (
        "-m rpfilter --validmark --invert",
        (Test(Field.RETURN_INTERFACE_HERE_MARK, ((1, (1 << 128) - 1),), None, True, True),),
    ),
    ("-m rpfilter --loose", (Test(Field.RETURN_INTERFACE, ((1, (1 << 128) - 1),)),)),
    ("-m policy --dir in --pol none", (Test(Field.IPSEC, ((0, 0),)),)),
    (
        "-m policy --dir in --pol ipsec --reqid 1",
        (
            Test(Field.IPSEC, ((1, 1),)),
            Undecided(Cause(NOT_GIVEN, "-m policy --dir in --pol ipsec --reqid 1")),
        ),
    ),
    (
        "-m recent --set --name x --mask 255.255.255.255 --rsource",
        (Note("-m recent --set --name x --mask 255.255.255.255 --rsource"),),
    ),
    ("-m nfacct --nfacct-name x", (Note("-m nfacct --nfacct-name x"),)),
    ("-m owner --socket-exists", (Test(Field.SOCKET, ((1, 1),)),)),
    ("-m owner --uid-owner 5-8", (Test(Field.UID, ((5, 8),)),)),
    ("-m owner ! --gid-owner 5", (Test(Field.GID, ((5, 5),), None, True, True),)),
    ("-m conntrack --ctstate NEW", (Test(Field.CT_STATE, ANY_STATE, 8),)),
    ("-m state --state INVALID,NEW", (Test(Field.CT_STATE, ANY_STATE, 9, False, True),)),
    ("-m conntrack ! --ctstate NEW,DNAT", (Test(Field.CT_STATE, ANY_STATE, 520, True, True),)),
    ("-m conntrack --ctproto 6", (Test(Field.CT_PROTOCOL, ((6, 6),)),)),
    ("-m conntrack --ctorigsrc 10.0.0.0/8", (Test(Field.CT_ORIG_SOURCE, ((0x0A000000, 0x0AFFFFFF),)),)),
    ("-m conntrack --ctorigdstport 80", (Test(Field.CT_ORIG_DPORT, ((80, 80),)),)),
    ("-m conntrack --ctdir REPLY", (Test(Field.CT_DIRECTION, ((1, 1),)),)),
    ("-m conntrack --ctstatus EXPECTED,ASSURED", (Test(Field.CT_STATUS, ((1, 0xFFFFFFFF),), 5),)),
]


@pytest.mark.parametrize(("text", "expected"), EXACT)
def test_a_match_becomes_tests(text: str, expected: tuple[Statement, ...]) -> None:
    assert body(text) == expected


@pytest.mark.parametrize(
    ("text", "openness"),
    [
        *[(f"-m {name} --x y", OPEN) for name in "limit hashlimit statistic time bpf u32 string quota cgroup".split()],
        *[(f"-m {name} --x y", OPEN) for name in "connlimit connbytes cpu cluster helper".split()],
        *[(f"-m {name} --x y", NOT_GIVEN) for name in "esp ah realm tcpmss".split()],
        *[(f"-m {name} --x y", NOT_MODELLED) for name in "physdev ipvs made-up tos conntrack owner".split()],
        ("-m recent --rcheck --seconds 5", OPEN),
        ("-m conntrack --ctexpire 5", OPEN),
        ("-m tcp --tcp-option 5", NOT_GIVEN),
        ("-m set --match-set s src", NOT_GIVEN),
        ("-m conntrack --ctstate WHAT", NOT_MODELLED),
        ("-m mark --mark x", NOT_MODELLED),
        ("-m icmp --icmp-type what", NOT_MODELLED),
    ],
)
def test_what_cannot_be_told_is_undecided_with_its_words(text: str, openness: Openness) -> None:
    assert body(text) == (Undecided(Cause(openness, text)),)


TCP = {Field.PROTOCOL: 6, Field.SPORT: 1000, Field.DPORT: 80}
ICMP = {Field.PROTOCOL: 1, Field.ICMP_TYPE: 3, Field.ICMP_CODE: 1}
NEW: Facts = {Field.CT_STATE: CtState.NEW, Field.CT_STATUS: 0, Field.CT_MARK: 0, Field.CT_PROTOCOL: 6}
TRANSLATED: Facts = {**NEW, Field.CT_STATE: CtState.NEW | CtState.DNAT, Field.CT_STATUS: CtStatus.DNAT}
UNTRACKED: Facts = {Field.CT_STATE: CtState.UNTRACKED}
NO_CONNECTION: Facts = {Field.CT_STATE: CtState.INVALID}
BY_PACKET: list[tuple[str, Facts, bool | None]] = [
    ("-m multiport ! --ports 80", TCP, False),
    ("-m multiport ! --ports 81", TCP, True),
    ("-m multiport ! --dports 81", ICMP, False),
    ("-m multiport ! --ports 81", ICMP, False),
    ("-m icmp ! --icmp-type 3/1", ICMP, False),
    ("-m icmp ! --icmp-type 3/2", ICMP, True),
    ("-m icmp ! --icmp-type 3", ICMP, False),
    ("-m icmp ! --icmp-type any", ICMP, False),
    ("-m icmp ! --icmp-type 255", ICMP, False),
    ("-m owner --uid-owner 0", {}, False),
    ("-m owner ! --uid-owner 0", {}, True),
    ("-m owner --socket-exists", {}, False),
    ("-m owner ! --socket-exists", {Field.SOCKET: 0}, True),
    ("-m owner ! --uid-owner 5 --gid-owner 5", {Field.SOCKET: 1, Field.UID: 1, Field.GID: 5}, True),
    ("-m owner --gid-owner 5 --suppl-groups", {Field.SOCKET: 1, Field.UID: 1, Field.GID: 5}, True),
    ("-m owner --gid-owner 5 --suppl-groups", {Field.SOCKET: 1, Field.UID: 1, Field.GID: 6}, None),
    ("-m owner ! --gid-owner 5 --suppl-groups", {Field.SOCKET: 1, Field.UID: 1, Field.GID: 5}, False),
    ("-m owner ! --gid-owner 5 --suppl-groups", {}, False),
    ("-m conntrack --ctstate DNAT", NEW, False),
    ("-m conntrack --ctstate DNAT", TRANSLATED, True),
    ("-m conntrack --ctstate NEW", TRANSLATED, True),
    ("-m conntrack ! --ctstate NEW,ESTABLISHED", UNTRACKED, True),
    ("-m conntrack --ctstate INVALID", {}, True),
    ("-m conntrack ! --ctstate INVALID", {}, False),
    ("-m conntrack --ctproto 6", NEW, True),
    ("-m conntrack ! --ctproto 6", NO_CONNECTION, False),
    ("-m conntrack ! --ctproto 17", NO_CONNECTION, False),
    ("-m conntrack --ctstate UNTRACKED --ctproto 17", UNTRACKED, True),
    ("-m conntrack --ctproto 17 --ctstate UNTRACKED", UNTRACKED, True),
    ("-m conntrack --ctstate NEW --ctproto 17", NEW, False),
    ("-m conntrack ! --ctorigdstport 80", {**NEW, Field.CT_ORIG_DPORT: 80}, False),
    ("-m conntrack ! --ctorigdstport 80", {**NEW, Field.CT_ORIG_DPORT: 81}, True),
    ("-m conntrack ! --ctorigdstport 80", {**NEW, Field.CT_PROTOCOL: 50}, True),
    ("-m conntrack ! --ctorigdstport 0:80", {**NEW, Field.CT_PROTOCOL: 50}, False),
    ("-m conntrack ! --ctorigdstport 80", {**NEW, Field.CT_PROTOCOL: 1}, None),
    ("-m conntrack --ctorigdstport 1024:65535", {**NEW, Field.CT_PROTOCOL: 1}, None),
    ("-m conntrack --ctorigdstport 1024:65535", {**NEW, Field.CT_PROTOCOL: 50}, False),
    ("-m conntrack ! --ctorigdstport 80", NO_CONNECTION, False),
    ("-m conntrack --ctstate INVALID ! --ctorigdstport 80", NO_CONNECTION, True),
    ("-m conntrack --ctstatus NONE", NEW, False),
    ("-m conntrack ! --ctstatus NONE", NEW, True),
    ("-m conntrack ! --ctstatus NONE", UNTRACKED, False),
    ("-m conntrack --ctstatus DNAT", TRANSLATED, True),
    ("-m connmark --mark 0", NEW, True),
    ("-m connmark --mark 0", UNTRACKED, False),
    ("-m connmark ! --mark 5", UNTRACKED, False),
    ("-m mark --mark 0x10/0xf", {Field.MARK: 0x10}, False),
    ("-m ttl --ttl-lt 0", {Field.TTL: 0}, False),
    ("-m pkttype --pkt-type unicast", {Field.PKTTYPE: 0}, True),
    ("-m pkttype ! --pkt-type broadcast", {Field.PKTTYPE: 0}, True),
    ("-m pkttype --pkt-type multicast", {Field.PKTTYPE: 5, Field.DESTINATION: 0xE0000001}, True),
    ("-m pkttype --pkt-type broadcast", {Field.PKTTYPE: 5, Field.DESTINATION: 0xE0000001}, False),
    ("-m pkttype --pkt-type broadcast", {Field.PKTTYPE: 5, Field.DESTINATION: 0xFFFFFFFF}, True),
    ("-m mac --mac-source 02:00:00:00:00:01", {Field.IN_INTERFACE: number_of("eth0")}, None),
    ("-m mac --mac-source 02:00:00:00:00:01", {Field.IN_INTERFACE: number_of("lo")}, False),
    ("-m mac ! --mac-source 02:00:00:00:00:01", {Field.IN_INTERFACE: number_of("lo")}, False),
    ("-m rpfilter --accept-local", {Field.RETURN_INTERFACE_HERE: 7}, True),
    ("-m rpfilter --accept-local", {Field.RETURN_INTERFACE_HERE: 0}, None),
]


@pytest.mark.parametrize(("text", "facts", "expected"), BY_PACKET)
def test_a_match_answers_as_the_kernel_does(text: str, facts: Facts, expected: bool | None) -> None:
    assert holds(body(text), facts) is expected


FE80, FF02, MAPPED = 0xFE80 << 112 | 1, 0xFF02 << 112 | 1, 0xFFFF << 32 | 1


@pytest.mark.parametrize(
    ("text", "facts", "expected"),
    [
        ("-m icmp6 --icmpv6-type 128", {Field.ICMP_TYPE: 128, Field.ICMP_CODE: 0}, True),
        ("-m icmp6 --icmpv6-type neighbour-solicitation", {Field.ICMP_TYPE: 135, Field.ICMP_CODE: 0}, True),
        ("-m hl --hl-eq 255", {Field.TTL: 255}, True),
        ("-m addrtype --dst-type LOCAL", {Field.DESTINATION_TYPE: 2, Field.DESTINATION: FE80}, True),
        ("-m addrtype ! --dst-type LOCAL", {Field.DESTINATION_TYPE: 1, Field.DESTINATION: FE80}, True),
        ("-m addrtype --dst-type UNICAST", {Field.DESTINATION_TYPE: 2, Field.DESTINATION: FE80}, True),
        ("-m addrtype --dst-type UNICAST", {Field.DESTINATION_TYPE: 1, Field.DESTINATION: MAPPED}, False),
        ("-m addrtype --dst-type MULTICAST", {Field.DESTINATION_TYPE: 1, Field.DESTINATION: FF02}, True),
        ("-m addrtype --dst-type UNICAST,LOCAL", {Field.DESTINATION_TYPE: 1, Field.DESTINATION: FE80}, False),
        ("-m addrtype ! --dst-type UNICAST,LOCAL", {Field.DESTINATION_TYPE: 1, Field.DESTINATION: FE80}, True),
        ("-m addrtype --dst-type UNREACHABLE", {Field.DESTINATION_TYPE: 7, Field.DESTINATION: FE80}, True),
        ("-m addrtype --dst-type UNREACHABLE", {Field.DESTINATION_TYPE: 6, Field.DESTINATION: FE80}, True),
        ("-m addrtype --dst-type UNREACHABLE", {Field.DESTINATION_TYPE: 2, Field.DESTINATION: FE80}, False),
        ("-m addrtype --dst-type UNREACHABLE", {Field.DESTINATION_TYPE: 0, Field.DESTINATION: 0}, None),
        ("-m addrtype --dst-type UNREACHABLE --limit-iface-out", {Field.DESTINATION: FE80}, None),
        ("-m pkttype --pkt-type multicast", {Field.PKTTYPE: 5}, True),
    ],
)
def test_a_match_answers_for_ipv6_as_the_kernel_does(text: str, facts: Facts, expected: bool | None) -> None:
    assert holds(body(text, family=Family.IPV6), facts) is expected
