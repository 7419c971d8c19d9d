"""Packets that a kernel was seen to treat otherwise than iptables' own tables in their order would have it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from istio_init.netfilter.chains import Chain, ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, Field
from istio_init.netfilter.host import Host, Listener, RoutingRule
from istio_init.netfilter.packet import Packet
from istio_init.netfilter.rules import End, Hook, Nat, NatKind, Never, Store, Test, Verdict
from istio_init.trace.result import Kind

from .walking import address, base, host, inbound, matched, packet, save, table, trace

MARKED_TO_NET1 = host("default dev net1 table 81", rules=(RoutingRule(100, 81, mark=0x51),))
MARKED_TO_LO = host("local default dev lo table 133", rules=(RoutingRule(100, 133, mark=0x539),))
MARKED_TO_NOWHERE = host("unreachable default table 177", rules=(RoutingRule(100, 177, mark=0x77),))
MARKED_TO_LO_BUT_FOR_ONE = host(
    "local default dev lo table 133", "throw 8.8.8.0/24 table 133", rules=(RoutingRule(100, 133, mark=0x539),)
)
FORWARDING = host(forwards=dict.fromkeys(Family, True))
DROPS = (End(Verdict.DROP),)

CASES: dict[str, tuple[Packet, tuple[Table, ...], Host, Kind, tuple[str, ...]]] = {
    "a policy of the other store drops without any rule": (
        packet("10.1.0.1"),
        (*save("*filter\n-A OUTPUT -p udp -j ACCEPT"), *save("*filter\n:OUTPUT DROP", store=Store.LEGACY)),
        host(),
        Kind.DROP,
        (),
    ),
    "a policy of nf_tables drops what legacy rules let pass": (
        packet("10.1.0.1"),
        (*save("*filter\n:OUTPUT DROP"), *save("*filter\n-A OUTPUT -p udp -j ACCEPT", store=Store.LEGACY)),
        host(),
        Kind.DROP,
        (),
    ),
    "INPUT sees the first address of the interface after an inbound REDIRECT": (
        inbound("10.1.2.4"),
        save(
            "*filter\n-A INPUT -d 10.1.2.4/32 -p tcp -j DROP\n*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006"
        ),
        host(),
        Kind.REDIRECT,
        ("nat PREROUTING 1",),
    ),
    "INPUT sees the first address of the interface after an inbound REDIRECT of IPv6": (
        inbound("fd00:1::3"),
        save(
            "*filter\n-A INPUT -d fd00:1::3/128 -p tcp -j DROP\n"
            "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006",
            family=Family.IPV6,
        ),
        host(),
        Kind.REDIRECT,
        ("nat PREROUTING 1",),
    ),
    "what is forwarded meets FORWARD": (
        inbound("10.9.0.77"),
        save("*filter\n-A FORWARD -j DROP"),
        FORWARDING,
        Kind.DROP,
        ("filter FORWARD 1",),
    ),
    "what is forwarded does not meet INPUT": (
        inbound("10.9.0.77"),
        save("*filter\n-A INPUT -j DROP"),
        FORWARDING,
        Kind.FORWARD,
        (),
    ),
    "a mark leads to another device, which POSTROUTING sees": (
        packet("8.8.8.8"),
        save("*mangle\n-A OUTPUT -j MARK --set-xmark 0x51/0xffffffff\n-A POSTROUTING -o net1 -j DROP"),
        MARKED_TO_NET1,
        Kind.DROP,
        ("mangle OUTPUT 1", "mangle POSTROUTING 1"),
    ),
    "what loses the mark that led it to lo leaves after all": (
        packet("8.8.8.8", interface="lo", mark=1337),
        save("*mangle\n-A INPUT -j DROP\n-A OUTPUT -j MARK --set-xmark 0x0/0xffffffff"),
        MARKED_TO_LO,
        Kind.DIRECT,
        ("mangle OUTPUT 1",),
    ),
    "a mark of raw counts where mangle asks for the route for another reason": (
        packet("8.8.8.8"),
        save(
            "*mangle\n-A INPUT -p tcp -j DROP\n-A OUTPUT -j TOS --set-tos 0x10/0xff\n"
            "*raw\n-A OUTPUT -j MARK --set-xmark 0x539/0xffffffff"
        ),
        MARKED_TO_LO,
        Kind.DROP,
        ("raw OUTPUT 1", "mangle OUTPUT 1", "mangle INPUT 1"),
    ),
    "a set gives the packet its mark": (
        packet("10.1.0.1"),
        save(
            "*mangle\n-A OUTPUT -j SET --map-set m4 dst --map-mark\n-A OUTPUT -m mark --mark 0x539 -j DROP",
            sets="create m4 hash:net family inet skbinfo\nadd m4 10.1.0.0/24 skbmark 0x539\n",
        ),
        host(),
        Kind.DROP,
        ("mangle OUTPUT 1", "mangle OUTPUT 2"),
    ),
    "security of iptables-nft is called behind nat in INPUT": (
        inbound("10.1.2.3"),
        save(
            "*security\n-A INPUT -m mark --mark 0x1 -j DROP\n*filter\n-A FORWARD -m conntrack --ctstate NEW\n"
            "*nat\n-A INPUT -j MARK --set-xmark 0x1/0xffffffff"
        ),
        host(),
        Kind.DROP,
        ("nat INPUT 1", "security INPUT 1"),
    ),
    "nat is not asked where no rule has connections tracked": (
        packet("10.1.0.1"),
        save("*filter\n-A OUTPUT -m mark --mark 0x1 -j DROP\n*nat\n-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff"),
        host(),
        Kind.DIRECT,
        (),
    ),
    "a policy of nat drops nothing where no rule has connections tracked": (
        packet("10.1.0.1"),
        save("*nat\n:OUTPUT DROP"),
        host(),
        Kind.DIRECT,
        (),
    ),
    "a dormant table is not called": (
        packet("10.1.0.1"),
        (table(base(Hook.OUTPUT, DROPS), is_dormant=True),),
        host(),
        Kind.DIRECT,
        (),
    ),
    "a range of addresses that iptables cannot print": (
        packet("10.1.0.1"),
        (table(base(Hook.OUTPUT, (Test(Field.DESTINATION, ((address("10.0.0.0"), address("10.200.0.0")),)), *DROPS))),),
        host(),
        Kind.DROP,
        ("t output 1",),
    ),
    "a comparison of the protocol": (
        packet("10.1.0.1"),
        (table(base(Hook.OUTPUT, (Test(Field.PROTOCOL, ((6, 255),)), *DROPS))),),
        host(),
        Kind.DROP,
        ("t output 1",),
    ),
    "a test of the TCP header that no such packet passes": (
        packet("10.1.0.1"),
        (table(base(Hook.OUTPUT, (Never(), *DROPS))),),
        host(),
        Kind.DIRECT,
        (),
    ),
    "a comparison of the source": (
        packet("10.1.0.1"),
        (table(base(Hook.OUTPUT, (Test(Field.SOURCE, ((address("10.0.0.1"), 2**32 - 1),)), *DROPS))),),
        host(),
        Kind.DROP,
        ("t output 1",),
    ),
    "a chain with the name of the other family's target": (
        packet("fd00:1::1"),
        save("*filter\n-A OUTPUT -j TTL\n-A TTL -j DROP", family=Family.IPV6),
        host(),
        Kind.DROP,
        ("filter OUTPUT 1", "filter TTL 1"),
    ),
    "a chain with the name of a target that goes on": (
        packet("10.1.0.1"),
        save("*filter\n-A OUTPUT -j ULOG\n-A ULOG -j DROP"),
        host(),
        Kind.DROP,
        ("filter OUTPUT 1", "filter ULOG 1"),
    ),
    "a rule for everything but everything": (
        inbound("10.1.2.3"),
        (table(base(Hook.INPUT, (Never(), *DROPS))),),
        host(),
        Kind.DIRECT,
        (),
    ),
    "TPROXY to port 0 keeps the packet's port": (
        inbound("10.1.2.3", protocol=17),
        save("*mangle\n-A PREROUTING -p udp -j TPROXY --on-port 0 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff"),
        MARKED_TO_LO.replace(listeners=(Listener(17, ip_address("0.0.0.0"), 80, True),)),
        Kind.TPROXY,
        ("mangle PREROUTING 1",),
    ),
    "TPROXY without a socket drops": (
        inbound("10.1.2.3", protocol=17),
        save("*mangle\n-A PREROUTING -p udp -j TPROXY --on-port 7777 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff"),
        MARKED_TO_LO,
        Kind.DROP,
        ("mangle PREROUTING 1",),
    ),
    "a mark leads to where nothing can be reached": (
        packet("10.1.0.1"),
        save("*mangle\n-A OUTPUT -j MARK --set-xmark 0x77/0xffffffff"),
        MARKED_TO_NOWHERE,
        Kind.DROP,
        ("mangle OUTPUT 1",),
    ),
    "a mark leads to a table whose more special route says no": (
        packet("8.8.8.8"),
        save("*mangle\n-A INPUT -j DROP\n-A OUTPUT -j MARK --set-xmark 0x539/0xffffffff"),
        MARKED_TO_LO_BUT_FOR_ONE,
        Kind.DIRECT,
        ("mangle OUTPUT 1",),
    ),
    "what is for another machine is dropped where nothing is forwarded": (
        inbound("10.9.0.77"),
        save("*filter\n-A INPUT -j ACCEPT"),
        host(),
        Kind.DROP,
        (),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_packet_takes_the_way_that_the_kernel_sent_it(name: str) -> None:
    sent, tables, on, kind, rules = CASES[name]
    found = trace(sent, *tables, on=on)
    assert (found.delivered.kind, found.causes) == (kind, ())
    assert [each for leg in matched(found) for each in leg] == list(rules)


def test_native_tables_are_called_beside_those_of_iptables() -> None:
    redirect = (Test(Field.PROTOCOL, ((6, 6),)), Nat(NatKind.REDIRECT, None, (15001, 15001)))
    output: Chain = base(Hook.OUTPUT, redirect, priority=-100, type=ChainType.NAT)
    found = trace(packet("8.8.8.8"), table(output, name="istio-proxy-nat"), tracks=True)
    assert (found.delivered.kind, found.delivered.port) == (Kind.REDIRECT, 15001)
    assert (found.state.destination, found.state.via) == (address("127.0.0.1"), (None,))
    assert [leg.interface for leg in found.legs] == ["eth0", "lo"]


def test_a_redirect_says_where_the_packet_arrives() -> None:
    redirect = "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006"
    ipv4 = trace(inbound("10.1.2.4"), *save(redirect)).state
    ipv6 = trace(inbound("fd00:1::3"), *save(redirect, family=Family.IPV6)).state
    assert (ipv4.destination, ipv4.destination_port) == (address("10.1.2.3"), 15006)
    assert (ipv6.destination, ipv6.destination_port) == (address("fd00:1::4"), 15006)


def test_routing_says_so_where_it_decides() -> None:
    unreachable = trace(packet("10.1.0.1", mark=1), *save("*mangle\n-A OUTPUT -j MARK --set-xmark 0x77/0xffffffff"),
                        on=MARKED_TO_NOWHERE)  # fmt: skip
    assert AddressType.UNREACHABLE.name.lower() in str(unreachable.delivered_by)
    assert "does not forward" in str(trace(inbound("10.9.0.77")).delivered_by)
