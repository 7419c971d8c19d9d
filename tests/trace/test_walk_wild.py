"""What wild packets did that nobody had thought of: each was seen in the kernel (Linux 6.18)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from istio_init.netfilter.chains import ChainType
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState, Field
from istio_init.netfilter.host import Listener, RoutingRule
from istio_init.netfilter.rules import (
    Assign,
    Cause,
    Dispatch,
    Elements,
    End,
    Hook,
    Key,
    Lookup,
    Nat,
    NatKind,
    Openness,
    Test,
    Tproxy,
    Untrack,
    Verdict,
)
from istio_init.netfilter.stages import Netfilter
from istio_init.trace.result import Kind, Outcome
from istio_init.trace.tracer import Tracer

from .walking import address, base, host, inbound, packet, save, table, trace

DROP = End(Verdict.DROP)


def test_rules_find_the_socket_that_tproxy_gave_the_packet() -> None:
    """None listens where the packet is addressed to; the one that takes it does not listen there."""
    found = Test(Field.SOCKET_TRANSPARENT_ANY, ((1, 1),))
    rules = table(
        base(Hook.PREROUTING, (Tproxy(None, 15006),), priority=-150),
        base(Hook.INPUT, (found, DROP)),
    )
    proxy = Listener(6, ip_address("0.0.0.0"), 15006, True)
    assert trace(inbound("10.1.2.3"), rules, on=host(sockets=(proxy,))).delivered.kind is Kind.DROP


def test_masquerading_on_lo_takes_an_address_of_another_interface() -> None:
    rules = save("*nat\n-A POSTROUTING -j MASQUERADE")
    found = trace(packet("10.9.0.3", source="10.9.0.3", interface="lo"), *rules)
    assert found.state.source != address("127.0.0.1")


def test_a_random_source_port_may_be_any() -> None:
    rules = table(base(Hook.POSTROUTING, (Nat(NatKind.MASQUERADE, random=True),), type=ChainType.NAT))
    assert trace(packet("8.8.8.8"), rules, tracks=True).state.source_port is None


def test_notrack_also_takes_what_belongs_to_no_connection() -> None:
    untracked = Test(Field.CT_STATE, ((int(CtState.UNTRACKED), int(CtState.UNTRACKED)),))
    rules = table(base(Hook.INPUT, (Untrack(),), (untracked, DROP)))
    assert trace(inbound("10.1.2.3", state=CtState.INVALID), rules, tracks=True).delivered.kind is Kind.DROP


def test_what_is_translated_to_the_loopback_address_of_ipv6_is_not_for_this_machine() -> None:
    rules = save("*nat\n-A PREROUTING -j DNAT --to-destination ::1", family=Family.IPV6)
    assert trace(inbound("fd00:1::4"), *rules).delivered.kind is Kind.DROP


def test_an_address_of_ours_is_believed_by_the_interface_that_has_it() -> None:
    settings = dict.fromkeys(["lo", "eth0", "net1"], True)
    on = host(accept_local=settings, reverse_path_filter=dict.fromkeys(settings, 1))
    assert trace(inbound("10.1.2.3", source="10.1.2.4"), on=on).delivered.kind is Kind.DIRECT
    assert trace(inbound("10.1.2.3", source="10.9.0.3"), on=on).delivered.kind is Kind.DROP


def test_a_destination_that_a_chain_of_nat_writes_itself_is_not_routed_to() -> None:
    written = Assign(Field.DESTINATION, (), address("10.1.2.4"))
    rules = table(base(Hook.OUTPUT, (written,), type=ChainType.NAT))
    found = trace(packet("8.8.8.8"), rules, tracks=True)
    assert (found.state.destination, found.state.via) == (address("10.1.2.4"), ("eth0",))


def test_an_order_that_nobody_told_is_not_forgotten_where_ways_meet() -> None:
    """Of four orders two and two lead to the same, and to different ports."""
    tables = [
        table(base(Hook.OUTPUT, (Nat(NatKind.REDIRECT, ports=(port, port)),), type=ChainType.NAT), name=f"nat{port}")
        for port in (1, 2)
    ]
    tables += [table(base(Hook.OUTPUT, (Test(Field.PROTOCOL, ((17, 17),)), DROP)), name=name) for name in ("a", "b")]
    found = trace(packet("8.8.8.8"), *tables, tracks=True)
    assert found.delivered.kind is Kind.UNKNOWN
    assert {way.delivered.port for way in found.ways} == {1, 2}


def test_chains_at_an_interface_may_do_anything_there() -> None:
    tracer = Tracer(Netfilter([], ingress={"eth0": "chain netdev early c"}), host())
    found = tracer.trace(inbound("10.1.2.3"))
    assert found.delivered.kind is Kind.UNKNOWN
    assert found.causes == (Cause(Openness.NOT_MODELLED, "what chain netdev early c does at eth0"),)
    assert tracer.trace(packet("10.1.2.3", interface="lo")).delivered.kind is Kind.DIRECT
    assert tracer.trace(inbound("10.9.0.3", interface="net1", source="10.9.0.7")).delivered.kind is Kind.DIRECT


def test_a_translation_of_one_family_has_no_connections_of_the_other_tracked() -> None:
    chain = base(Hook.OUTPUT, (DROP,), type=ChainType.NAT)
    [rule] = chain.rules
    only = table(chain.replace(rules=(rule.replace(tracks=True, tracks_only=Family.IPV6),)))
    assert trace(packet("8.8.8.8"), only).delivered.kind is Kind.DIRECT
    assert trace(packet("2001:db8::1"), only).delivered.kind is Kind.DROP


def test_of_networks_with_interfaces_only_the_narrowest_is_compared() -> None:
    text = "create s hash:net,iface family inet\nadd s 0.0.0.0/1,eth0\nadd s 10.1.2.0/30,lo\n"
    rules = save("*filter\n-A OUTPUT -m set --match-set s src,dst -j DROP", sets=text)
    assert trace(packet("8.8.8.8"), *rules).delivered == Outcome(Kind.DIRECT)
    assert trace(packet("8.8.8.8", source="10.9.0.3"), *rules).delivered.kind is Kind.DROP


def test_every_host_is_in_the_group_of_all_hosts() -> None:
    assert trace(inbound("224.0.0.1", pkttype=2)).delivered.kind is Kind.DIRECT


def test_a_bound_socket_of_ipv6_passes_over_routes_that_lead_nowhere() -> None:
    rules = save("*mangle\n-A OUTPUT -j MARK --set-mark 1", family=Family.IPV6)
    on = host("unreachable default6 table 100", rules=(RoutingRule(100, 100),))
    assert trace(packet("2001:db8::1", bound="eth0"), *rules, on=on).delivered.kind is Kind.DIRECT
    assert trace(packet("2001:db8::1"), *rules, on=on).delivered.kind is Kind.DROP


def test_tests_that_exclude_each_other_hold_of_no_packet() -> None:
    types = [Test(Field.ICMP_TYPE, ((number, number),)) for number in (0, 8)]
    rules = table(base(Hook.OUTPUT, (*types, DROP)))
    sent = packet("8.8.8.8", protocol=1, icmp_type=None)
    assert (trace(sent, rules).delivered, trace(sent, rules).causes) == (Outcome(Kind.DIRECT), ())


@pytest.mark.parametrize(("port", "kind"), [(80, Kind.DROP), (443, Kind.DIRECT), (8080, Kind.DIRECT)])
def test_what_stands_behind_a_verdict_map_is_for_the_keys_that_go_on(port: int, kind: Kind) -> None:
    """nft's ``tcp dport vmap { 80 : continue, 443 : accept } drop``: a key that the map lacks leaves the rule."""
    key = (Key(Field.DPORT),)
    dispatch = Dispatch(key, (((((443, 443),),), End(Verdict.ACCEPT)),))
    goes_on = Lookup(key, Elements("", ((((80, 80),),),)))
    rules = table(base(Hook.OUTPUT, (dispatch, goes_on, DROP)))
    assert trace(packet("8.8.8.8", port), rules).delivered.kind is kind
